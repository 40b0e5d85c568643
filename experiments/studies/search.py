"""The table of a search: every variant on photographs and on networks of known logic, side by side.

The exploration (``results/reference/explored.csv``), the screen, on which variants were tried, and the confirmation, on images
that took no part, are told apart; in each the variants are compared with a reference image by image (bootstrap interval of the
differences, Wilcoxon's signed ranks, Holm over the variants). A variant is on the Pareto front if no other is at least as good
in everything and better in something.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from experiments.command.configuration import CONF
from experiments.store.reading import Result, compare
from experiments.tables.render import as_csv
from experiments.tables.text import HOLE, bounds, interval, limits, number, p_value, table
from metrics.statistics import Entry, holm, mean_interval, paired
from suny.later import Later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")

# The variants that were tried before there were configurations: deletion and insertion (29 points) for every photograph.
EXPLORED = CONF.parent / "results" / "reference" / "explored.csv"

# every file that the study may have
FILES = ("search.md", "search.csv")

PHOTOGRAPHS, KNOWN = "photographs", "causal_shapes"
REFERENCE = "suny_semi"

# stage -> data set (of which the stage is a part, where it has parts), and the world whose networks of known logic go with it
STAGES = {
    "screen": (PHOTOGRAPHS, "dev"),
    "confirm": (PHOTOGRAPHS, "main"),
    "reserve": (PHOTOGRAPHS, "main"),
    "birds": ("cub", "main"),
}
TITLES = {
    "screen": "Screen: what was chosen from",
    "confirm": "Confirmation: images that took no part in the search",
    "reserve": "Reserve",
    "birds": "Birds: another network and data set, which took no part either",
}

OBJECTIVES = (
    "overall",
    "necessity_sufficiency",
    "energy_proportion",
    "pair_accuracy",
    "auroc_n",
    "auroc_s",
    "explain_forwards",
)
_KNOWN = ("pair_accuracy", "auroc_n", "auroc_s")
# The measure of each side by its own map, and by the other side's.
SIDES = {"N": ("necessity_by_n", "necessity_by_s"), "S": ("sufficiency_by_s", "sufficiency_by_n")}
_HEAD = (
    "variant", "front", "n", "overall ↑", f"minus {REFERENCE}", "p (Holm)", "N-S ↑", "energy proportion ↑",
    "N map ahead at N", "S map ahead at S", "pair accuracy ↑", "AUROC N ↑", "AUROC S ↑", "forwards ↓",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Variant:
    """One variant: its cell on the stage's images, and that on images of known causes where there is one."""

    row: str
    images: Result
    known: Result | None

    def entry(self, name: str) -> Entry | None:
        """Mean, interval and n of a measure."""
        cell = self.known if name in _KNOWN else self.images
        return cell.entry(name) if cell is not None and name in cell.measures else None

    @functools.cached_property
    def ahead(self) -> dict[str, Entry]:
        """How much better each side's own map is at it than the other side's, by side."""
        entries = {}
        for side, (own, other) in SIDES.items():
            records = [r for r in self.images.records.values() if r.get(own) is not None and r.get(other) is not None]
            if len(records) > 1:
                entries[side] = paired([r[own] for r in records], [r[other] for r in records])
        return entries


@dataclass(frozen=True, eq=False)
class Stage:
    """All variants that were measured on the same images, the best overall first.

    Args:
        part: a key of :data:`STAGES`.
        variants: in order.
        differences: of ``overall`` to the reference by row, with ``p_holm``; empty without it.
        front: rows on the Pareto front.
    """

    part: str
    variants: Sequence[Variant]
    differences: Mapping[str, Entry]
    front: frozenset[str]


def build(results: Sequence[Result]) -> dict[str, str]:
    """The files by name; none where no cell belongs to the search."""
    found = stages(results)
    return {"search.md": markdown(found), "search.csv": tidy(found)} if found else {}


def stages(results: Sequence[Result]) -> list[Stage]:
    """The stages that have cells, each with the points that most of its cells have; birds with the reference among them."""
    all_stages = []
    for part, (dataset, world) in STAGES.items():
        cells = [r for r in results if r.dataset == dataset and r.configuration["dataset"].get("part", part) == part]
        cells = _alike(cells)
        if dataset != PHOTOGRAPHS and all(_row(cell) != REFERENCE for cell in cells):
            continue  # a benchmark, not a stage of a search
        known = {_row(r): r for r in results if r.dataset == KNOWN and r.configuration["dataset"]["world"] == world}
        variants = [Variant(_row(cell), cell, known.get(_row(cell))) for cell in cells if cell.entry("overall")["n"]]
        variants.sort(key=lambda v: -v.images.entry("overall")["mean"])
        if variants:
            all_stages.append(Stage(part, variants, _differences(variants), front(variants)))
    return all_stages


def _alike(cells: Sequence[Result]) -> list[Result]:
    """The largest group of cells whose images, class and points are the same; of a row the fullest."""
    groups: dict[str, dict[str, Result]] = {}
    for cell in cells:
        if "overall" not in cell.measures:
            continue
        protocol = {k: v for k, v in cell.protocol.items() if k != "target_layer"}
        group = groups.setdefault(repr((protocol, cell.measures["overall"].protocol)), {})
        other = group.get(_row(cell))
        if other is None or len(cell.records) > len(other.records):
            group[_row(cell)] = cell
    return list(max(groups.values(), key=len).values()) if groups else []


def _row(cell: Result) -> str:
    """The method, its unusual keys, and the layer where it is not the model's usual one."""
    layer = cell.configuration["model"].get("target_layer")
    return f"{cell.row} at {layer}" if layer else cell.row


def _differences(variants: Sequence[Variant]) -> dict[str, Entry]:
    reference = next((v for v in variants if v.row == REFERENCE), None)
    entries = {}
    for variant in variants:
        if reference is not None and variant is not reference:
            entry = compare(variant.images, reference.images, "overall")
            if entry is not None:
                entries[variant.row] = entry
    adjusted = holm([e["p"] for e in entries.values()])
    return {row: entry | {"p_holm": p} for (row, entry), p in zip(entries.items(), adjusted, strict=True)}


def front(variants: Sequence[Variant]) -> frozenset[str]:
    """Rows that no other row dominates; what a row lacks counts as worst."""

    def point(variant: Variant) -> tuple[float, ...]:
        values = []
        for name in OBJECTIVES:
            entry = variant.entry(name)
            mean = entry["mean"] if entry else None
            sign = -1 if name == "explain_forwards" else 1
            values.append(float("-inf") if mean is None else sign * mean)
        return tuple(values)

    points = {v.row: point(v) for v in variants}
    return frozenset(
        row
        for row, own in points.items()
        if not any(other != own and all(o >= x for o, x in zip(other, own, strict=True)) for other in points.values())
    )


def explored(table: pd.DataFrame) -> list[list[Any]]:
    """A line per variant of the exploration, round by round, the best first.

    A line has round, variant, forwards, n, overall, the difference to the best of its round, and its p (Holm).
    """
    lines = []
    for number_of_round, tried in table.assign(overall=table["insertion"] - table["deletion"]).groupby("round"):
        values = tried.pivot(index="image", columns="variant", values="overall")
        ordered = values.mean().sort_values(ascending=False, kind="stable").index
        forwards = tried.groupby("variant")["forwards"].first()
        tests = {v: paired(values[v].tolist(), values[ordered[0]].tolist()) for v in ordered[1:]}
        adjusted = dict(zip(tests, holm([e["p"] for e in tests.values()]), strict=True))
        for variant in ordered:
            own = tests.get(variant)
            difference = [f"{own['mean']:+.3f} {bounds(own)}", p_value(adjusted[variant])] if own else [HOLE, HOLE]
            overall = interval(mean_interval(values[variant].tolist()))
            lines.append([number_of_round, variant, forwards[variant], len(values), overall, *difference])
    return lines


def markdown(stages: Sequence[Stage]) -> str:
    tried = explored(pd.read_csv(EXPLORED))
    parts = [
        "# Search",
        "Overall = insertion - deletion; N-S: harmonic mean of necessity and sufficiency at equal area; N (S) map "
        "ahead: its score at its own side minus the other map's. Known causes (dataset=causal_shapes): pair accuracy, AUROC. "
        f"Mean [95% bootstrap interval]; difference to {REFERENCE} image by image, p of Wilcoxon's signed ranks adjusted over "
        "the lines (Holm). ●: no other line is at least as good in overall, N-S, energy, pair accuracy, both AUROC and "
        "forwards, and better in one.",
    ]
    for stage in stages:
        one = stage.variants[0].images
        points = one.measures["overall"].protocol.get("points")
        parts += [
            f"## {TITLES[stage.part]}",
            f"Variants: {len(stage.variants)}; {one.count} images, {points} points on the curves.",
            table(_HEAD, [_line(stage, v) for v in stage.variants]),
        ]
    parts += [
        "## Exploration: what the screen was chosen from",
        f"{len(tried)} variants of fields over tiles on the screen's photographs, 29 points, in four rounds; "
        "measured before they could be configured, with the same engine, substrates and curves. Difference to the best of the "
        "round, image by image. Unless said otherwise: 28 x 28 tiles, blocks of 32 pixels at a random offset, shares uniform "
        "in [0, 1], a smooth fit; in round 2 shares are extreme, Beta(1, 2) of both sides.",
        table(["round", "variant", "forwards", "n", "overall ↑", "minus the best", "p (Holm)"], tried),
    ]
    return "\n\n".join(parts) + "\n"


def _line(stage: Stage, variant: Variant) -> list[Any]:
    difference = stage.differences.get(variant.row)

    def mean(name: str) -> str:
        entry = variant.entry(name)
        return HOLE if entry is None or entry["mean"] is None else interval(entry)

    def ahead(side: str) -> str:
        entry = variant.ahead.get(side)
        return HOLE if entry is None else f"{entry['mean']:+.3f} {bounds(entry)}"

    forwards = variant.entry("explain_forwards")
    images = variant.images.count
    n = variant.images.entry("overall")["n"]
    return [
        variant.row,
        "●" if variant.row in stage.front else "",
        n if n == images else f"{n} of {images}",
        mean("overall"),
        HOLE if difference is None else f"{difference['mean']:+.3f} {bounds(difference)}",
        HOLE if difference is None else p_value(difference["p_holm"]),
        mean("necessity_sufficiency"),
        mean("energy_proportion"),
        ahead("N"),
        ahead("S"),
        *(mean(name) for name in _KNOWN),
        HOLE if forwards is None else number(forwards["mean"], 0),
    ]


def tidy(stages: Sequence[Stage]) -> str:
    """One line per number."""
    head = ("stage", "variant", "front", "measure", "mean", "low", "high", "n", "p", "p_holm", "hash")
    lines = []
    for stage in stages:
        for v in stage.variants:
            differences = {
                **{f"overall minus {REFERENCE}": e for e in [stage.differences.get(v.row)] if e},
                **{" minus ".join(SIDES[side]): e for side, e in v.ahead.items()},
            }
            entries = {name: v.entry(name) for name in OBJECTIVES} | differences
            for name, e in entries.items():
                if e is None or e["mean"] is None:
                    continue
                tests = [e.get("p", ""), e.get("p_holm", "")]
                cell = v.known if name in _KNOWN and v.known else v.images
                lines.append(
                    [stage.part, v.row, v.row in stage.front, name, e["mean"], *limits(e), e["n"], *tests, cell.digest]
                )
    return as_csv(head, lines)
