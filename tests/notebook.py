"""Executes examples/notebook.ipynb and writes it with its outputs: ``python -m tests.notebook``."""

from __future__ import annotations

from typing import Any

import nbformat
from nbclient import NotebookClient

from tests.conftest import ROOT

NOTEBOOK = ROOT / "examples" / "notebook.ipynb"


def read() -> Any:
    return nbformat.read(NOTEBOOK, as_version=4)


def executed(notebook: Any) -> Any:
    """A copy of a notebook with what a fresh kernel gives, without bars of progress and times of execution."""
    fresh = nbformat.from_dict(notebook)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    NotebookClient(fresh, timeout=1800, kernel_name="python3", resources=place).execute()
    for cell in (c for c in fresh.cells if c.cell_type == "code"):
        cell.metadata.pop("execution", None)
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
    return fresh


if __name__ == "__main__":
    nbformat.write(executed(read()), NOTEBOOK)
    print(f"{NOTEBOOK} ({NOTEBOOK.stat().st_size / 1e3:.0f} kB)")
