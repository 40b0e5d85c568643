"""Tables of the cells that a command has just finished."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.store.reading import Result
from experiments.tables.text import HOLE, arrow, bounds, describe_failures, interval, number, table
from metrics.statistics import Entry


def cell_table(cell: Result) -> str:
    """One finished cell: a line per metric, then cost and failures."""
    rows = []
    for name, measure in _measured(cell).items():
        entry = cell.entry(name)
        rows.append([arrow(measure), number(entry["mean"]), bounds(entry), entry["n"]])
    text = table(["metric", "mean", "95% interval", "n"], rows)
    title = f"{cell.dataset} / {cell.model} / {cell.method}: {len(cell.records)} images"
    return f"{title}\n\n{text}\n\ncost: {_cost(cell)}\nfailures: {describe_failures(cell.failures, zeros=True)}"


def sweep_table(cells: Sequence[tuple[str, Result]]) -> str:
    """Several finished cells: a table for each data set and model, a line per method.

    An entry is ``mean [low, high]``; it carries its own n where that differs from the line's.

    Args:
        cells: each with the name of its line.
    """
    blocks = []
    for dataset, model in dict.fromkeys((c.dataset, c.model) for _, c in cells):
        group = [(row, c) for row, c in cells if (c.dataset, c.model) == (dataset, model)]
        titles = {name: arrow(measure) for _, c in group for name, measure in _measured(c).items()}
        rows = []
        for row, cell in group:
            n = len(cell.records)
            rows.append(
                [
                    row,
                    n,
                    *(_entry(cell.entry(name) if name in cell.measures else None, n) for name in titles),
                    _passes(cell),
                    f"{cell.passes['explain_seconds']:.2f}",
                    describe_failures(cell.failures),
                ]
            )
        head = ["method", "n", *titles.values(), "forwards/image", "s/image", "failures"]
        blocks.append(f"{dataset} / {model}\n\n{table(head, rows)}")
    foot = "mean [95% bootstrap interval over images]; forwards and seconds are the explanation's own"
    return "\n\n".join([*blocks, foot])


def _measured(cell: Result) -> dict[str, Any]:
    """The columns of a cell, without its costs."""
    return {name: measure for name, measure in cell.measures.items() if measure.metric}


def _entry(entry: Entry | None, n: int) -> str:
    if entry is None:
        return HOLE
    own = "" if entry["n"] == n else f" (n={entry['n']})"
    return f"{interval(entry)}{own}"


def _passes(cell: Result) -> str:
    """Forwards of an explanation; passes of the tail, which are cheaper, beside them."""
    whole, tail = cell.passes["explain_forwards"], cell.passes["explain_tail_forwards"]
    return f"{whole:.0f} + {tail:.0f} of the tail" if tail else f"{whole:.0f}"


def _cost(cell: Result) -> str:
    passes = cell.passes
    return (
        f"{passes['forwards']:.0f} forwards and {passes['seconds']:.2f} s per image, of which the explanation "
        f"{passes['explain_forwards']:.0f} forwards and {passes['explain_seconds']:.2f} s"
    )
