"""What a command says of the cells it has just finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.cell.ending import FinishedCell
from experiments.tables.text import HOLE, arrow, bounds, failures_said, interval, number, table

if TYPE_CHECKING:
    from metrics.base import Metric


def cell_table(cell: FinishedCell, metrics: Mapping[str, Metric]) -> str:
    """One finished cell: a line a metric, then cost and failures."""
    rows = []
    for name, entry in cell.summary["metrics"].items():
        rows.append([arrow(metrics[name]), number(entry["mean"]), bounds(entry), entry["n"]])
    text = table(["metric", "mean", "95% interval", "n"], rows)
    title = f"{cell.dataset} / {cell.model} / {cell.method}: {cell.summary['n']} images"
    return f"{title}\n\n{text}\n\ncost: {_cost(cell)}\nfailures: {failures_said(cell.summary['failures'], zeros=True)}"


def sweep_table(cells: Sequence[FinishedCell], metrics: Mapping[str, Metric]) -> str:
    """Several finished cells: a table for each data set and model, a line a method.

    An entry is ``mean [low, high]``; it carries its own n where that differs from the line's.
    """
    blocks = []
    for dataset, model in dict.fromkeys((c.dataset, c.model) for c in cells):
        group = [c for c in cells if (c.dataset, c.model) == (dataset, model)]
        names = list(dict.fromkeys(n for c in group for n in c.summary["metrics"]))
        twice = len({c.method for c in group}) < len(group)
        rows = []
        for cell in group:
            entries = cell.summary["metrics"]
            rows.append(
                [
                    f"{cell.method} ({cell.summary['hash'][:8]})" if twice else cell.method,
                    cell.summary["n"],
                    *(_entry(entries.get(n), cell.summary["n"]) for n in names),
                    _passes(cell.summary["cost"]),
                    f"{_seconds(cell, 'explain_seconds'):.2f}",
                    failures_said(cell.summary["failures"]),
                ]
            )
        head = ["method", "n", *(arrow(metrics[n]) for n in names), "forwards/image", "s/image", "failures"]
        blocks.append(f"{dataset} / {model}\n\n{table(head, rows)}")
    foot = "mean [95% bootstrap interval over images]; forwards and seconds are the explanation's own"
    return "\n\n".join([*blocks, foot])


def _entry(entry: Mapping[str, Any] | None, n: int) -> str:
    if entry is None:
        return HOLE
    own = "" if entry["n"] == n else f" (n={entry['n']})"
    return f"{interval(entry)}{own}"


def _seconds(cell: FinishedCell, key: str) -> float:
    values = [r[key] for r in cell.records if r.get(key) is not None]
    return float(np.mean(values)) if values else 0.0


def _passes(cost: Mapping[str, float | None]) -> str:
    """Forwards of an explanation; passes of the tail, which are cheaper, beside them."""
    whole, tail = cost["explain_forwards"] or 0, cost.get("explain_tail_forwards") or 0
    return f"{whole:.0f} + {tail:.0f} of the tail" if tail else f"{whole:.0f}"


def _cost(cell: FinishedCell) -> str:
    cost = cell.summary["cost"]
    return (
        f"{cost['forwards'] or 0:.0f} forwards and {_seconds(cell, 'seconds'):.2f} s per image, "
        f"of which the explanation {cost['explain_forwards'] or 0:.0f} forwards and {_seconds(cell, 'explain_seconds'):.2f} s"
    )
