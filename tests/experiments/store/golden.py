"""What the committed cells say, in a form in which no number can change unseen: the records of each, column by column.

    python -m tests.experiments.store.golden      writes tests/experiments/store/golden_cells.json anew from results/reference

A cell is known here by the hash that it was first committed with, whatever it is called now.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import suny  # noqa: F401 - before anything imports torchvision
from experiments.store.reading import Result, read_result

ROOT = Path(__file__).resolve().parents[3]
# A user's own cells lie beside these, in results/runs: the README's first command makes one.
REFERENCE = ROOT / "results" / "reference"
FILE = Path(__file__).with_name("golden_cells.json")


def cell(result: Result) -> dict[str, Any]:
    """One cell: its names, what each of its images was, and the digest of every column's values with its mean and n."""
    columns = {}
    for name, measure in result.measures.items():
        if name == "explain_seconds":  # it depends on the machine
            continue
        entry = result.entry(name)
        columns[name] = [
            _digest([[i, record[name]] for i, record in result.records.items() if name in record]),
            _digest(entry),
            entry["mean"],
            entry["n"],
            _digest(settings(measure.protocol)) if measure.metric else None,
        ]
    curves = [[image, record["curves"]] for image, record in result.records.items() if "curves" in record]
    images = [[i, r["target"], r["prob"], r["status"], r["label"]] for i, r in result.records.items()]
    return {
        "names": [result.dataset, result.model, result.method, result.row, result.family],
        "images": [len(images), _digest(images)],
        "curves": _digest(curves) if curves else None,
        "columns": columns,
    }


def settings(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """A metric's own settings and its version."""
    return {k: v for k, v in protocol.items() if k not in ("metric", "fingerprint", "_target_")}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def main() -> None:
    folders = sorted(card.parent for card in REFERENCE.rglob("card.yaml"))
    found = {(r := read_result(folder)).card["hash"][:8]: cell(r) for folder in folders}
    FILE.write_text("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(found[k])}" for k in sorted(found)) + "\n}\n")


if __name__ == "__main__":
    main()
