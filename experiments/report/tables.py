"""The tables of the page, as data: texts of the cells, and the numbers by which they sort and that are copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.store.reading import Result
from experiments.tables.ablations import AblationSweep, ablation_sweeps
from experiments.tables.columns import Block, Column, blocks
from experiments.tables.comparisons import Comparison
from experiments.tables.published import joined
from experiments.tables.render import LEGEND, count_text, failures_text
from experiments.tables.specs import Spec, specs_of
from experiments.tables.text import HOLE, bounds, limits, number, p_value
from metrics.statistics import Entry

Json = dict[str, Any]


def tables(results: Sequence[Result], compared: Sequence[Comparison]) -> list[Json]:
    """Groups of tables: those of the paper and the others, ablations, statistics, the published numbers.

    Args:
        results: cells.
        compared: their comparisons (:func:`experiments.tables.comparisons.compare_columns`).
    """
    legend = LEGEND.replace("*", "")
    shown: set[tuple[str, ...]] = set()
    of_specs = [
        _group(s.title, [s.note, legend], [t for b in blocks(results, s.measures) if (t := _block_table(b, s, shown))])
        for s in specs_of(results)
    ]
    others = [
        _group(
            "Ablations",
            ["Mean [95% interval]; †: differs significantly from the usual setting."],
            [_sweep_table(s) for s in ablation_sweeps(results)],
        ),
        _group(
            "Statistics: differences to the best baseline, image by image",
            ["p: Wilcoxon's signed ranks, two-sided; effect: rank-biserial correlation."],
            [_difference_table(c) for c in compared],
        ),
        _group("Beside the published numbers", [], _published_tables(results)),
    ]
    return [group for group in (*of_specs, *others) if group["tables"]]


def _block_table(block: Block, spec: Spec, shown: set[tuple[str, ...]]) -> Json | None:
    """A block's table without the columns that an earlier table of the page has, which are noted in ``shown``; None where
    nothing is left."""
    columns = [c for c in block.columns if (block.title, c.title, *c.cells) not in shown]
    if not columns:
        return None
    first = not any(key[0] == block.title for key in shown)  # failures are the cells': said once
    shown |= {(block.title, c.title, *c.cells) for c in columns}
    left_out = [c.title for c in block.columns if c not in columns]
    notes = [*block.notes, *([f"In an earlier table: {', '.join(left_out)}."] if left_out else [])]
    rows = []
    for row in block.rows:
        numbers = [_mean(c, row, block) for c in columns]
        rows.append([_cell(row), _cell(count_text(block, row)), *numbers, *([_cell(failures_text(block, row))] * first)])
    head = ["method", "n", *(c.title for c in columns), *(["failures"] * first)]
    # on a narrow screen the measure that sums up the others comes first
    names = [c.measure.name for c in columns]
    key = next((names.index(n) for n in ("overall", "necessity_sufficiency", spec.measures[0]) if n in names), 0)
    return _table(block.title, head, rows, notes, key=2 + key)


def _mean(column: Column, row: str, block: Block) -> Json:
    """The cell of one mean; n where it is not the line's, a star at the best mean."""
    entry = column.entry(row)
    if entry is None or entry["mean"] is None:
        return _cell(HOLE)
    mark = column.marks.get(row, "")
    own = "" if str(entry["n"]) == count_text(block, row).split(" ")[0] else f" (n={entry['n']})"
    star = " ★" if mark and row == column.ranked[0] else ""
    cell = _number(entry, column.measure.digits)
    return cell | {"t": f"{cell['t']}{own}{star}", "k": mark}


def _number(entry: Entry, digits: int = 3) -> Json:
    """A mean with its interval: not printed where it says nothing, as that of passes, which are the same for every image."""
    mean, (low, high) = number(entry["mean"], digits), limits(entry)
    same = low is not None and number(low, digits) == number(high, digits) == mean
    around = "" if low is None or same else f" {bounds(entry, digits)}"
    return {"t": f"{mean}{around}", "v": entry["mean"], "i": [low, high]}


def _sweep_table(sweep: AblationSweep) -> Json:
    marked = {name: sweep.significant(name) for name in sweep.curves}
    rows = []
    for label in sweep.labels:
        cells = [_cell(label + " (usual)" * (label == sweep.usual))]
        for name, column in sweep.curves.items():
            entry = column.entry(label)
            cell = _cell(HOLE) if entry is None or entry["mean"] is None else _number(entry)
            cells.append(cell | {"t": cell["t"] + " †" * (label in marked[name])})
        rows.append(cells)
    head = [sweep.ablation.title, *(c.title for c in sweep.curves.values())]
    return _table(f"{sweep.ablation.title}: {sweep.title}", head, rows, sweep.notes)


def _difference_table(c: Comparison) -> Json:
    rows = [
        [
            _cell(row), _cell(f"{e['mean']:+.3f}", e["mean"]), _cell(bounds(e)), _cell(str(e["n"]), e["n"]),
            *(_cell(p_value(e[key]), e[key]) for key in ("p", "p_holm")), _cell(f"{e['effect']:+.2f}", e["effect"]),
        ]
        for row, e in c.differences.items()
    ]  # fmt: skip
    title = f"{c.block.title}, {c.column.title}: difference to {c.reference}"
    return _table(title, ["method", "difference", "95% interval", "n", "p", "p (Holm)", "effect"], rows)


def _published_tables(results: Sequence[Result]) -> list[Json]:
    rows = [
        [
            *(_cell(v) for v in (x.method, x.dataset, x.model, x.metric)), _cell(number(x.value, 4), x.value),
            _number(x.ours, 4), _cell(str(x.ours["n"]), x.ours["n"]),
            _cell(number(x.difference, 4), x.difference), _cell({True: "yes", False: "no", None: HOLE}[x.within]),
        ]
        for x in joined(results)
        if x.ours
    ]  # fmt: skip
    head = ["method", "data", "network", "metric", "published", "ours", "n", "difference", "in our interval"]
    return [_table("where they compare", head, rows, key=7)] if rows else []


def cells(results: Sequence[Result]) -> Json:
    """The table of what was computed."""
    head = ["method", "data", "network", "hash", "images", "explained class", "layer", "seed", "torch", "revision", "machine"]
    rows = [
        [
            _cell(str(v))
            for v in (
                r.row, r.dataset, r.model, r.digest, f"{len(r.records)} of {r.count}",
                r.protocol["explained_class"], r.protocol["target_layer"], r.protocol["seed"],
                r.card.get("versions", {}).get("torch", HOLE), revision(r), r.card.get("machine", {}).get("device", HOLE),
            )
        ]
        for r in results
    ]  # fmt: skip
    return _group("What was computed", [], [_table("cells", head, rows, key=4)])


def revision(result: Result) -> str:
    """The revision of the code that computed a cell, shortened; a star where files had been changed."""
    git = result.card.get("git", {})
    return str(git.get("revision") or HOLE)[:8] + ("*" if git.get("modified") else "")


def _group(title: str, texts: Sequence[str], tables: Sequence[Json]) -> Json:
    return {"title": title, "texts": [t for t in texts if t], "tables": list(tables)}


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[Json]], texts: Sequence[str] = (), key: int = 1) -> Json:
    """A table; ``key`` is the column that stands first, after the rows' names, where there is room for one."""
    return {"title": title, "head": list(head), "rows": [list(r) for r in rows], "texts": list(texts), "key": key}


def _cell(text: str, value: float | None = None) -> Json:
    return {"t": text} if value is None else {"t": text, "v": value}
