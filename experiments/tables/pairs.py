"""Any two cells, or one cell and all that were measured like it: every metric, image by image.

Cells are named by a method, or by their hash as ``python -m experiments.list`` shows it. Where a method has several cells,
those are compared that have the same data, network and protocol; cells that are named by their hashes may differ in them, and a
line says so.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tabulate import tabulate

from experiments.store.reading import Result, compare, differing, key_value_text
from experiments.tables.differences import Difference
from experiments.tables.render import as_csv
from experiments.tables.text import HOLE, arrow, bounds, describe_failures, p_value, table
from metrics.statistics import holm
from suny.errors import UserError, nearest

# Columns of a terminal, and those that are left for the first column of a table.
_WIDTH, _FIRST = 80, 19
# A hash may be cut to so many digits.
_DIGITS = 4

_HEAD = ("difference", "95% interval", "n", "p", "p (Holm)", "effect")
_LEGEND = (
    "On the images that both have: mean difference [95% bootstrap interval over images]; p: Wilcoxon's signed ranks, "
    "two-sided, and adjusted over the lines of its table (Holm); effect: rank-biserial correlation, from -1 (smaller on every "
    "image) to 1; n: images on which both have a value."
)


@dataclass(frozen=True, eq=False)
class Cell:
    """A finished cell: one result for each setting in which a metric was measured.

    Args:
        results: at least one.
    """

    results: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.results[0]

    @property
    def place(self) -> str:
        return f"{self.first.dataset} / {self.first.model}"

    @property
    def name(self) -> str:
        """The method with its unusual settings, and the hash."""
        return f"{self.first.row} {self.first.digest}"

    def alike(self, other: Cell) -> bool:
        """Whether another cell has the same data, network and protocol."""
        return self.place == other.place and self.first.protocol == other.first.protocol

    def about(self) -> str:
        r = self.first
        return f"{self.name}: {len(r.records)} of {r.count} images, failures: {describe_failures(r.failures)}."


@dataclass(frozen=True, eq=False)
class Line:
    """A difference, and the cell that is compared."""

    cell: Cell
    measure: str
    difference: Difference


@dataclass(frozen=True, eq=False)
class Section:
    """Cells that are compared with one other cell.

    Args:
        versus: that cell.
        cells: the others.
        tables: the lines by title; p is adjusted over those of one table.
        notes: what differs, what was left out.
    """

    versus: Cell
    cells: Sequence[Cell]
    tables: dict[str, list[Line]]
    notes: Sequence[str]

    @property
    def title(self) -> str:
        """Data and network; those of both where they differ."""
        return " and ".join(dict.fromkeys(c.place for c in (*self.cells, self.versus)))

    @property
    def label(self) -> str:
        """The name of what is compared with, with its hash where another cell has the same name."""
        return _label(self.versus, [*self.cells, self.versus])

    @property
    def lines(self) -> list[Difference]:
        return [line.difference for lines in self.tables.values() for line in lines]


def compare_two(results: Sequence[Result], a: str, b: str, dataset: str = "", model: str = "") -> list[Section]:
    """a - b of every metric, a section for each data set and network that have both.

    Args:
        results: all cells.
        a, b: methods, or hashes.
        dataset, model: only cells of these, unless they are empty.

    Raises:
        UserError: no such cell, several that do not belong together, or nothing that they share.
    """
    cells = _cells(results, dataset, model)
    first, second = find_cells(cells, a), find_cells(cells, b)
    several = [(x, y) for x, y in itertools.product(first, second) if x is not y]
    alike = [(x, y) for x, y in several if x.alike(y)]
    if not alike and len(several) > 1:
        names = "; ".join(f"{c.name} ({c.place})" for c in dict.fromkeys([*first, *second]))
        raise UserError(f"no two cells of {a} and {b} have the same data, network and protocol: give two hashes of: {names}.")
    if not several:
        raise UserError(f"{a} and {b} are the same cell, {first[0].name}: give another one.")
    sections = [_against(y, [x], over_metrics=True) for x, y in alike or several]
    return _some(sections, f"{a} and {b}")


def compare_all(results: Sequence[Result], reference: str, dataset: str = "", model: str = "") -> list[Section]:
    """Every other method minus a reference, a section for each cell that the reference names.

    Args:
        results: all cells.
        reference: a method, or a hash.
        dataset, model: only cells of these, unless they are empty.

    Raises:
        UserError: no such cell, or no other one that was measured like it.
    """
    cells = _cells(results, dataset, model)
    sections = []
    for versus in find_cells(cells, reference):
        alike = [c for c in cells if c is not versus and c.alike(versus)]
        usual = {c.first.method for c in alike if not c.first.settings}
        others = [c for c in alike if not c.first.settings or c.first.method not in usual]
        if others:
            sections.append(_against(versus, _fullest(others), over_metrics=False))
    return _some(sections, f"{reference} and another method")


def _some(sections: Sequence[Section], what: str) -> list[Section]:
    kept = [section for section in sections if section.tables]
    if not kept:
        reasons = " ".join(dict.fromkeys(note for section in sections for note in section.notes))
        raise UserError(f"there is nothing to compare: {what} share no metric on two images or more. {reasons}".strip())
    return kept


def _cells(results: Sequence[Result], dataset: str, model: str) -> list[Cell]:
    by_hash: dict[str, list[Result]] = {}
    for r in results:
        if dataset in ("", r.dataset) and model in ("", r.model):
            by_hash.setdefault(r.card["hash"], []).append(r)
    if not by_hash:
        places = ", ".join(dict.fromkeys(f"dataset={r.dataset} model={r.model}" for r in results))
        raise UserError(f"no cell has dataset={dataset or 'any'} and model={model or 'any'}. There are: {places}.")
    return [Cell(tuple(several)) for several in by_hash.values()]


def find_cells(cells: Sequence[Cell], name: str) -> list[Cell]:
    """The cells that a name means: of a method those with its usual settings, where there are any.

    Args:
        cells: all.
        name: a method, a row of a table (``suny (k=4)``), or a hash, ``suny-12345678`` or ``12345678``, or its beginning.

    Raises:
        UserError: no such cell, or a hash that several cells begin with.
    """
    named = [c for c in cells if name == c.first.row] or [c for c in cells if name == c.first.method]
    if named:
        return _fullest(named)
    method, _, digits = name.rpartition("/")[2].rpartition("-")
    hashed = [
        c
        for c in cells
        if len(digits) >= _DIGITS and c.first.card["hash"].startswith(digits) and method in ("", c.first.method)
    ]
    if len(hashed) == 1:
        return hashed
    if hashed:
        raise UserError(f"{name} is the beginning of several hashes: {', '.join(c.name for c in hashed)}. Give more digits.")
    known = list(dict.fromkeys(c.first.row for c in cells))
    raise UserError(f"{name} is no method or hash of a cell. {nearest(name, known)}Valid: {', '.join(known)}, or a hash.")


def _fullest(cells: Sequence[Cell]) -> list[Cell]:
    """One cell of each row, place and protocol."""
    kept: list[Cell] = []
    for cell in sorted(cells, key=lambda c: -len(c.first.records)):
        if not any(cell.alike(k) and cell.first.row == k.first.row for k in kept):
            kept.append(cell)
    return [c for c in cells if c in kept]


def _against(versus: Cell, cells: Sequence[Cell], over_metrics: bool) -> Section:
    """Cells minus another one.

    Args:
        versus: the other one.
        cells: one, or several.
        over_metrics: there is one table, of all metrics; otherwise a table for each metric.
    """
    everyone = [*cells, versus]
    lines: dict[str, list[Line]] = {}
    notes: list[str] = []
    for cell in cells:
        notes += _differs(cell, versus, everyone)
        for name in dict.fromkeys(n for r in cell.results for n, m in r.measures.items() if m.metric):
            pairs = _measured_alike(cell, versus, name)
            if not pairs:
                notes += _left_out(cell, versus, name)
            protocols = [a.measures[name].protocol for a, _ in pairs]
            keys = differing(protocols)
            for a, b in pairs:
                measure, entry = a.measures[name], compare(a, b, name)
                if entry is None:
                    notes.append(f"{name} is left out for {cell.name}: it has no number on two common images or more.")
                    continue
                more = f" ({key_value_text({k: measure.protocol[k] for k in keys})})" if keys else ""
                title = arrow(measure) + more
                one = Difference(_label(cell, everyone), title, measure.higher_is_better, entry)
                lines.setdefault(title, []).append(Line(cell, name, one))
    if over_metrics:
        together = list(itertools.chain.from_iterable(lines.values()))
        return Section(versus, cells, {"": _adjusted(together)} if together else {}, notes)
    return Section(versus, cells, {title: _adjusted(several) for title, several in lines.items()}, notes)


def _adjusted(lines: Sequence[Line]) -> list[Line]:
    adjusted = holm([line.difference.entry["p"] for line in lines])
    return [
        replace(line, difference=replace(line.difference, entry=line.difference.entry | {"p_holm": p}))
        for line, p in zip(lines, adjusted, strict=True)
    ]


def _measured_alike(a: Cell, b: Cell, name: str) -> list[tuple[Result, Result]]:
    """The results of both cells in which a metric was measured in the same way."""
    return [
        (x, y)
        for x, y in itertools.product(a.results, b.results)
        if name in x.measures and name in y.measures and x.measures[name].protocol == y.measures[name].protocol
    ]


def _left_out(a: Cell, b: Cell, name: str) -> list[str]:
    """Why a metric of a cell has no line; nothing where the other cell simply lacks it."""
    theirs = next((r.measures[name].protocol for r in b.results if name in r.measures), None)
    if theirs is None:
        return []
    own = next(r.measures[name].protocol for r in a.results if name in r.measures)
    keys = differing([own, theirs])
    each = " and ".join(key_value_text({k: p.get(k) for k in keys}) for p in (own, theirs))
    return [f"{name} is left out for {a.name}: it was measured in another way ({each})."]


def _differs(a: Cell, b: Cell, everyone: Sequence[Cell]) -> list[str]:
    """One line where data, network, seed or anything else of the protocol differs."""
    both = [{"data": c.first.dataset, "network": c.first.model, **c.first.protocol} for c in (a, b)]
    keys = differing(both)
    if not keys:
        return []
    each = "; ".join(f"{k} ({both[0].get(k)}, {both[1].get(k)})" for k in keys)
    records = a.first.records, b.first.records
    common = [i for i in records[0] if i in records[1]]
    other = sum(records[0][i]["target"] != records[1][i]["target"] for i in common)
    classes = f" Of {len(common)} common images {other} are explained for another class." if other else ""
    return [f"{_label(a, everyone)} and {_label(b, everyone)} differ in {each}.{classes}"]


def _label(cell: Cell, everyone: Sequence[Cell]) -> str:
    """The name of a method, with its hash where another cell has the same name."""
    same = [c for c in everyone if c.first.row == cell.first.row]
    return cell.name if len(same) > 1 else cell.first.row


def _numbers(difference: Difference) -> list[str]:
    e = difference.entry
    effect = HOLE if e["effect"] is None else f"{e['effect']:+.2f}"
    return [f"{e['mean']:+.3f}", bounds(e), str(e["n"]), p_value(e["p"]), p_value(difference.p), effect]


def _rows(lines: Sequence[Line], by_metric: bool) -> list[list[str]]:
    return [[d.metric if by_metric else d.label, *_numbers(d)] for d in (line.difference for line in lines)]


def _heading(section: Section, title: str) -> str:
    if title:
        return f"{title}: difference to {section.label}"
    return f"{_label(section.cells[0], [*section.cells, section.versus])} - {section.label}"


def console(sections: Sequence[Section]) -> str:
    """The comparisons as text of 80 columns."""

    def wrapped(text: str) -> str:
        return textwrap.fill(text, _WIDTH, break_on_hyphens=False)

    parts = []
    for section in sections:
        parts.append(wrapped(section.title))
        for title, lines in section.tables.items():
            by_metric = not title
            head = ["metric" if by_metric else "method", "diff.", *_HEAD[1:]]
            rows = [
                ["\n".join(textwrap.wrap(first, _FIRST, break_on_hyphens=False)), *rest]
                for first, *rest in _rows(lines, by_metric)
            ]
            text = tabulate(rows, head, tablefmt="simple", disable_numparse=True)
            parts.append(f"{wrapped(_heading(section, title))}\n\n{text}")
        parts += [wrapped(note) for note in section.notes]
        parts.append("\n".join(wrapped(c.about()) for c in (*section.cells, section.versus)))
    return "\n\n".join([*parts, wrapped(_LEGEND)])


def markdown(sections: Sequence[Section]) -> str:
    parts = ["# Comparison", _LEGEND]
    for section in sections:
        parts.append(f"## {section.title}")
        for title, lines in section.tables.items():
            head = ["metric" if not title else "method", *_HEAD]
            parts += [f"### {_heading(section, title)}", table(head, _rows(lines, not title))]
        parts += section.notes
        parts.append("\n".join(f"- {c.about()}" for c in (*section.cells, section.versus)))
    return "\n\n".join(parts) + "\n"


def tidy(sections: Sequence[Section]) -> str:
    """One line per difference."""
    head = (
        "dataset", "model", "method", "hash", "reference", "reference_hash", "measure", "column", "higher_is_better",
        "difference", "low", "high", "n", "p", "p_holm", "effect", "images", "reference_images", "failures",
        "reference_failures",
    )  # fmt: skip
    lines = []
    for section in sections:
        versus = section.versus.first
        for line in itertools.chain.from_iterable(section.tables.values()):
            own, d = line.cell.first, line.difference
            e = d.entry
            lines.append([
                own.dataset, own.model, own.row, own.digest, versus.row, versus.digest, line.measure, d.metric,
                d.higher_is_better, e["mean"], *d.limits, e["n"], e["p"], d.p, e["effect"], len(own.records),
                len(versus.records), describe_failures(own.failures), describe_failures(versus.failures),
            ])  # fmt: skip
    return as_csv(head, lines)


def place_of(folder: Path, stem: str) -> Path:
    """A file in a folder whose name is made of the names that a user gave."""
    return folder / re.sub(r"[^\w.=-]+", "-", stem).strip("-.")
