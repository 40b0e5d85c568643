"""The work of a job, and what is printed of it: all that needs torch.

:mod:`experiments.jobs.sweep` imports this module when the first job has something to compute, so that help is shown and a
mistake is told without torch.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from experiments.cell.cell import run_cell as run_cell
from experiments.cell.ending import FinishedCell
from experiments.jobs.after_sweep import after_sweep, compared_numbers
from experiments.jobs.arguments import distinguish
from experiments.jobs.dry_run import TRIED
from experiments.jobs.dry_run import Estimator as Estimator
from experiments.jobs.estimate import Estimate, estimates_text
from experiments.store.reading import Result, differing, read_result, without_records
from experiments.tables.console import cell_table, sweep_table
from experiments.tables.listing import flatten, shorten


def dry_run_text(estimates: Sequence[Estimate], estimator: Estimator) -> str:
    return estimates_text(estimates, estimator.beginning, TRIED)


def cell_text(cell: FinishedCell) -> str:
    return _with_notes(cell_table(read_result(cell.folder, cell.columns)), [cell])


def sweep_texts(cells: Sequence[FinishedCell], overrides: Sequence[tuple[str, ...]], folder: Path) -> list[str]:
    """The table of a sweep's cells, and what else a sweep says.

    Args:
        cells: those that are finished.
        overrides: the arguments of each.
        folder: for pictures.
    """
    results = _read(cells, overrides)
    return [_with_notes(sweep_table(results, folder), cells), *after_sweep([result for _, result in results], folder)]


def _with_notes(text: str, cells: Sequence[FinishedCell]) -> str:
    """A table with the notes on its cells below it, each once."""
    return "\n".join([text, *dict.fromkeys(f"note: {note}" for cell in cells for note in cell.notes)])


def _read(cells: Sequence[FinishedCell], overrides: Sequence[tuple[str, ...]]) -> list[tuple[str, Result]]:
    """The cells of a sweep, each with the name of its row: the method, and the keys that are not the same in all.

    One cell is read at a time, and only its numbers are kept: all records of a sweep would not fit into memory.
    """
    results: list[tuple[str, Result]] = []
    for cell, name in zip(cells, distinguish(overrides, overrides), strict=True):
        result = read_result(cell.folder, cell.columns)
        # data, network and method have places of their own, and shards and metrics make no other cell
        keys = [k for k in name.split(", ") if k and not re.match(r"(method|dataset|model|metrics|shard\.\w+)=", k)]
        row = f"{result.method} ({', '.join(k.removeprefix('method.') for k in keys)})" if keys else result.method
        results.append((row, without_records(result, compared_numbers(result))))
    return [(_told_apart(row, r, results), r) for row, r in results]


def _told_apart(row: str, result: Result, results: Sequence[tuple[str, Result]]) -> str:
    """The name of a row, with the keys that tell it from others of the same name."""
    same = [r for name, r in results if (name, r.dataset, r.model) == (row, result.dataset, result.model)]
    if len(same) == 1:
        return row
    identities = [flatten(r.identity) for r in same]
    own = flatten(result.identity)
    # a digest says nothing that the setting behind it does not say
    keys = differing(identities)
    shown = [k for k in keys if not k.endswith("sha256")] or keys
    texts = [f"{key.removeprefix('method.')}={shorten(own.get(key))}" for key in shown]
    return f"{row} ({', '.join(texts)})"
