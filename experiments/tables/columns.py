"""Decides which cells may stand in one column, and which of them are marked.

Cells are compared where they were measured in the same way. A *block* has one data set, one network and one protocol of the
cell (explained class, layer, preprocessing, images, weights, seed, precision); in it a *column* has one measure with one
protocol of its own (points, fill, ...). Where protocols differ, columns or blocks are kept apart and a note says which key
differs.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.store.reading import BASELINE, CONTROL, OWN, Measure, Result, compare, differing, key_value_text
from experiments.tables.text import arrow
from metrics.statistics import Entry, holm

# The published tables' rows, in their order; other methods follow: own, baselines, controls.
PAPER = ("gradcam", "gradcampp", "smoothgrad", "rise", "scorecam", "cexcnn", "groupcam", "suny", "suny_n", "suny_s")
_FAMILIES = (OWN, BASELINE, CONTROL)

# The level of significance of the tests that decide on marks.
LEVEL = 0.05


@dataclass(frozen=True, eq=False)
class Column:
    """One measure of several methods, all measured in the same way.

    Args:
        measure: of the first of its cells; the protocol is that of all.
        title: with the arrow, and with the keys that tell it from a column of the same name.
        cells: by row.
    """

    measure: Measure
    title: str
    cells: Mapping[str, Result]

    def entry(self, row: str) -> Entry | None:
        return self.cells[row].entry(self.measure.name) if row in self.cells else None

    @functools.cached_property
    def ranked(self) -> list[str]:
        """Rows that have a mean, the best first (the larger one, where neither direction is better)."""
        means = {row: cell.entry(self.measure.name)["mean"] for row, cell in self.cells.items()}
        known = [row for row, mean in means.items() if mean is not None]
        return sorted(known, key=means.__getitem__, reverse=self.measure.higher_is_better is not False)

    def against(self, reference: str, rows: Sequence[str]) -> dict[str, Entry]:
        """Each row minus a reference, image by image, with ``p_holm`` adjusted over these rows; rows that can't be compared are
        left out."""
        entries = {}
        for row in rows:
            entry = compare(self.cells[row], self.cells[reference], self.measure.name)
            if entry is not None:
                entries[row] = entry
        adjusted = holm([e["p"] for e in entries.values()])
        return {row: entry | {"p_holm": p} for (row, entry), p in zip(entries.items(), adjusted, strict=True)}

    @functools.cached_property
    def marks(self) -> dict[str, str]:
        """``best``: the best mean and all that do not differ significantly from it; ``second``: the same of the others."""
        if self.measure.metric is None or self.measure.higher_is_better is None or len(self.ranked) < 2:
            return {}  # a cost is no matter of significance
        n = min(self.cells[row].entry(self.measure.name)["n"] for row in self.ranked)
        if (len(self.ranked) - 1) * 2.0 ** (1 - n) >= LEVEL:
            return {}  # even a difference on every image would not be significant
        marks: dict[str, str] = {}
        left = list(self.ranked)
        for mark in ("best", "second"):
            if not left:
                break
            top, *others = left
            apart = self.against(top, others)
            same = {top, *(row for row, entry in apart.items() if entry["p_holm"] >= LEVEL)}
            marks |= dict.fromkeys(same, mark)
            left = [row for row in left if row not in same]
        return marks


@dataclass(frozen=True, eq=False)
class Block:
    """Cells with one protocol.

    Args:
        dataset, model: their names.
        apart: the keys that tell it from another block of this data set and network, with their values.
        protocol: of its cells.
        cells: those that the columns show.
        group: all that have this protocol, those of other settings or with the same numbers too.
        columns: in the table's order.
        rows: in the table's order, those that are always shown included.
        notes: what is kept apart, and by which key.
    """

    dataset: str
    model: str
    apart: Mapping[str, Any]
    protocol: Mapping[str, Any]
    cells: Sequence[Result]
    group: Sequence[Result]
    columns: Sequence[Column]
    rows: Sequence[str]
    notes: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return " / ".join([self.dataset, self.model, *([key_value_text(self.apart)] if self.apart else [])])


def blocks(
    results: Sequence[Result], names: Sequence[str], always: Sequence[str] = (), free: Collection[str] = ()
) -> list[Block]:
    """The blocks of one table.

    Args:
        results: all cells.
        names: of the measures, in the order of the columns.
        always: rows that are shown even where no cell has them.
        free: keys of a protocol that may differ in a block (what an ablation sweeps).
    """
    all_blocks = []
    having = [r for r in results if any(n in r.measures for n in names)]
    for dataset, model in dict.fromkeys((r.dataset, r.model) for r in sorted(having, key=_place)):
        groups: dict[str, list[Result]] = {}
        for result in (r for r in having if (r.dataset, r.model) == (dataset, model)):
            groups.setdefault(_frozen(_without(result.protocol, free)), []).append(result)
        # the fullest first: it is what the others are told to differ from
        ordered = sorted(
            groups.values(), key=lambda g: (-len({r.method for r in g}), -len(g[0].records), g[0].folder.as_posix())
        )
        keys = differing([_without(g[0].protocol, free) for g in ordered])
        notes: list[str] = []
        shown = [g for g in ordered if g is ordered[0] or len({r.method for r in g}) > 1]
        for group in ordered[1:]:
            main = ordered[0][0].protocol
            own = [k for k in keys if group[0].protocol[k] != main[k]]
            why = "; ".join(f"{k} is {group[0].protocol[k]}, not {main[k]}" for k in own)
            where = "a table of their own" if group in shown else "left out"
            notes.append(f"Not in one column with the others: {_named(group)}: {why} ({where}).")
        for at, group in enumerate(shown):
            apart = {k: group[0].protocol[k] for k in keys} if len(shown) > 1 else {}
            block = _block(dataset, model, apart, group, names, always, free)
            block.notes.extend(notes if at == 0 else [])
            all_blocks.append(block)
    return all_blocks


def _block(
    dataset: str,
    model: str,
    apart: Mapping[str, Any],
    group: Sequence[Result],
    names: Sequence[str],
    always: Sequence[str],
    free: Collection[str],
) -> Block:
    columns: list[Column] = []
    notes: list[str] = []
    for name in names:
        own: dict[str, list[Result]] = {}
        for result in (r for r in group if name in r.measures):
            own.setdefault(_frozen(_without(result.measures[name].protocol, free)), []).append(result)
        several = sorted(own.values(), key=lambda g: (-len({r.method for r in g}), _frozen(g[0].measures[name].protocol)))
        keys = differing([_without(g[0].measures[name].protocol, free) for g in several])
        for cells in several:
            measure = cells[0].measures[name]
            more = f" ({key_value_text({k: measure.protocol[k] for k in keys})})" if keys else ""
            columns.append(Column(measure, arrow(measure) + more, _by_row(cells, name)))
        if keys:
            each = "; ".join(
                f"{key_value_text({k: g[0].measures[name].protocol[k] for k in keys})} in {_named(g)}" for g in several
            )
            notes.append(f"Not one column of {name}: {each}.")
    used = list(dict.fromkeys(cell for column in columns for cell in column.cells.values()))
    rows = list(dict.fromkeys([*always, *(row for column in columns for row in column.cells)]))
    by_row = {cell.row: cell for cell in used}
    hidden = [r for r in group if r not in used and r.settings]
    if hidden:
        notes.append(f"Other settings, shown in the tables of ablations: {', '.join(sorted(r.row for r in hidden))}.")
    rows.sort(key=lambda row: _order(row, by_row.get(row)))
    return Block(dataset, model, apart, _without(group[0].protocol, free), used, group, columns, rows, notes)


def _by_row(cells: Sequence[Result], name: str) -> dict[str, Result]:
    """One cell per row: of a method with its usual settings these alone; of several the fullest, then that with curves."""

    def worth(cell: Result) -> tuple[int, bool]:
        return cell.entry(name)["n"], bool(cell.configuration.get("curves"))

    rows: dict[str, Result] = {}
    usual = {c.method for c in cells if not c.settings}
    for cell in cells:
        if cell.settings and cell.method in usual:
            continue
        other = rows.get(cell.row)
        if other is None or worth(cell) > worth(other):
            rows[cell.row] = cell
    return rows


def _order(row: str, cell: Result | None) -> tuple[Any, ...]:
    method = row.split(" (")[0]
    family, place = (cell.family, cell.card.get("order", 0)) if cell else (BASELINE, 0)
    return (0, PAPER.index(method), 0, row) if method in PAPER else (1, _FAMILIES.index(family), place, row)


def _place(result: Result) -> tuple[Any, ...]:
    """The order of data sets and networks: the published ones first, as published."""
    datasets, models = ("ilsvrc2012", "cub"), ("vgg16", "inception_v3", "resnet50")
    d, m = result.dataset, result.model
    return (
        datasets.index(d) if d in datasets else len(datasets), d, models.index(m) if m in models else len(models), m
    )  # fmt: skip


def _named(cells: Sequence[Result]) -> str:
    names = [f"{c.row} {c.digest}" for c in cells]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


def _without(protocol: Mapping[str, Any], free: Collection[str]) -> dict[str, Any]:
    return {k: v for k, v in protocol.items() if k not in free}


def _frozen(protocol: Mapping[str, Any]) -> str:
    return json.dumps(protocol, sort_keys=True)
