"""Tables of the cells that a command has just finished."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.store.reading import Result
from experiments.tables.ablations import AblationSweep
from experiments.tables.text import HOLE, arrow, bounds, describe_failures, interval, number, table
from metrics.statistics import Entry

# Columns of a terminal, and of a line's name before it is wrapped.
WIDTH = 80
_NAME = 32


def cell_table(cell: Result) -> str:
    """One finished cell: a line per metric, then cost and failures."""
    rows = []
    for name, measure in _measured(cell).items():
        entry = cell.entry(name)
        rows.append([arrow(measure), number(entry["mean"]), bounds(entry), entry["n"]])
    text = table(["metric", "mean", "95% interval", "n"], rows)
    title = f"{cell.dataset} / {cell.model} / {cell.method}: {len(cell.records)} images"
    return f"{title}\n\n{text}\n\ncost: {_cost(cell)}\n{_failures(cell)}"


def sweep_table(cells: Sequence[tuple[str, Result]], folder: Path | str = "DIR") -> str:
    """Several finished cells: a table for each data set and model, a line per method, 80 columns wide.

    An entry is ``mean [low, high]``; it carries its own n where that differs from the line's. Where lines are too long, the
    intervals are left out, and then the columns are shared out to several tables; the last line says where they are.

    Args:
        cells: each with the name of its line.
        folder: of the results, for the command that shows the intervals.
    """
    blocks, without = [], False
    for dataset, model in dict.fromkeys((c.dataset, c.model) for _, c in cells):
        group = [(row, c) for row, c in cells if (c.dataset, c.model) == (dataset, model)]
        titles = {name: arrow(measure) for _, c in group for name, measure in _measured(c).items()}
        head = ["method", "n", *titles.values(), "passes", "s/image", "failures"]
        tables, wide = _fitted(head, *(_lines(group, titles, intervals) for intervals in (True, False)))
        without |= wide
        blocks.append("\n\n".join([f"{dataset} / {model}", *tables]))
    notes = ["mean" if without else "mean [95% bootstrap interval over images]"]
    notes.append("passes: forwards of the explanation, per image, as its seconds")
    notes += [_where_intervals_are(folder)] * without
    return "\n\n".join([*blocks, "\n".join(notes)])


def ablation_table(sweep: AblationSweep, folder: Path | str) -> str:
    """One ablation, a line per value, 80 columns wide, with or without intervals as in :func:`sweep_table`."""
    columns = [(column, sweep.significant(name)) for name, column in sweep.curves.items()]
    full: list[list[str]] = []
    short: list[list[str]] = []
    for label in sweep.labels:
        entries = [(column.entry(label), " †" * (label in marked)) for column, marked in columns]
        n = max((e["n"] for e, _ in entries if e), default=0)
        for rows, intervals in ((full, True), (short, False)):
            texts = [_entry(entry, n, intervals) + sign for entry, sign in entries]
            rows.append([f"{label}{' (usual)' * (label == sweep.usual)}", str(n), *texts])
    tables, without = _fitted([sweep.ablation.title, "n", *(c.title for c, _ in columns)], full, short)
    notes = ["mean" if without else "mean [95% bootstrap interval over images]"]
    notes += ["†: differs significantly from the usual setting (Wilcoxon, Holm, .05)", *sweep.notes]
    notes += [_where_intervals_are(folder)] * without
    return "\n\n".join([f"# Ablation: {sweep.ablation.title}", sweep.title, *tables, "\n".join(notes)])


def _where_intervals_are(folder: Path | str) -> str:
    return f"95% intervals: python -m experiments.tables results_dir={folder}"


def _fitted(head: Sequence[str], full: Sequence[Sequence[str]], short: Sequence[Sequence[str]]) -> tuple[list[str], bool]:
    """The full lines as one table where there is room for it; else the short ones as several, and True."""
    wide = _width(head, full) > WIDTH
    return [table(h, rows) for h, rows in (_shared(head, short) if wide else [(head, full)])], wide


def _lines(group: Sequence[tuple[str, Result]], titles: Mapping[str, str], intervals: bool) -> list[list[str]]:
    lines = []
    for row, cell in group:
        n = len(cell.records)
        entries = [_entry(cell.entry(name) if name in cell.measures else None, n, intervals) for name in titles]
        cost = [_passes(cell), f"{cell.passes['explain_seconds']:.2f}"]
        name = "\n".join(textwrap.wrap(row, _NAME, break_on_hyphens=False)) or row
        lines.append([name, str(n), *entries, *cost, "\n".join(textwrap.wrap(describe_failures(cell.failures), _NAME))])
    return lines


def _width(head: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    return max(map(len, table(head, rows).splitlines()))


def _shared(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[tuple[list[str], list[list[str]]]]:
    """Tables of so many columns each as there is room for, each with the names of the lines."""
    shared: list[list[int]] = [[0]]
    for column in range(1, len(head)):
        wider = [*shared[-1], column]
        if len(shared[-1]) > 1 and _width([head[c] for c in wider], [[row[c] for c in wider] for row in rows]) > WIDTH:
            shared.append([0])
        shared[-1].append(column)
    return [([head[c] for c in columns], [[row[c] for c in columns] for row in rows]) for columns in shared]


def _measured(cell: Result) -> dict[str, Any]:
    """The columns of a cell, without its costs."""
    return {name: measure for name, measure in cell.measures.items() if measure.metric}


def _entry(entry: Entry | None, n: int, intervals: bool) -> str:
    if entry is None:
        return HOLE
    own = "" if entry["n"] == n else f" (n={entry['n']})"
    return f"{interval(entry) if intervals else number(entry['mean'])}{own}"


def _passes(cell: Result) -> str:
    """Forwards of an explanation; passes of the tail, which are cheaper, beside them."""
    whole, tail = cell.passes["explain_forwards"], cell.passes["explain_tail_forwards"]
    return f"{whole:.0f}+{tail:.0f} tail" if tail else f"{whole:.0f}"


def _failures(cell: Result) -> str:
    text = f"failures: {describe_failures(cell.failures, zeros=True)}"
    return textwrap.fill(text, WIDTH, subsequent_indent=" " * len("failures: "))


def _cost(cell: Result) -> str:
    passes = cell.passes
    return (
        f"{passes['forwards']:.0f} forwards and {passes['seconds']:.2f} s per image, of which\n      the explanation "
        f"{passes['explain_forwards']:.0f} forwards and {passes['explain_seconds']:.2f} s"
    )
