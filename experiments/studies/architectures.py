"""Do findings hold on other networks? The same methods on the same images, network beside network.

For each measure: does the order of the methods agree (Kendall's tau), between which methods does it flip, and what share of the
variance of a score is the network's, the image's, the method's (:mod:`experiments.studies.crossed`). Cells are put side by
side where nothing but the network differs, with its own layer, weights and preprocessing.
"""

from __future__ import annotations

import functools
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.store.reading import CONTROL, Measure, Result, numbers
from experiments.studies.crossed import COMPONENTS, Components, Estimate, agreement, differences, variance_components
from experiments.tables.render import as_csv
from experiments.tables.specs import measures_of
from experiments.tables.text import FEWEST, HOLE, arrow, number, table

# every file that the study may have
FILES = ("architectures.md", "architectures.csv")

# What belongs to a network, and may differ between cells that stand side by side.
_OF_THE_NETWORK = ("target_layer", "reshape", "output", "weights", "preprocessing")


@dataclass(frozen=True, eq=False)
class Crossing:
    """One measure of the same methods, measured in the same way on the same images, on two networks or more.

    Args:
        dataset: its name.
        measure: of the first cell.
        cells: by network, then by row.
    """

    dataset: str
    measure: Measure
    cells: Mapping[str, Mapping[str, Result]]

    @functools.cached_property
    def rows(self) -> list[str]:
        """Those that all networks have, in the order of their means on the first one, the best first."""
        first, *others = self.cells.values()
        rows = [row for row in first if all(row in other for other in others)]
        sign = -1 if self.measure.higher_is_better else 1
        return sorted(rows, key=lambda row: sign * first[row].entry(self.measure.name)["mean"])

    @functools.cached_property
    def scores(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """(networks, images, methods) of the images that all cells have; empty where the measure is no number an image."""
        chosen = [cells[row] for cells in self.cells.values() for row in self.rows]
        values = numbers(chosen, self.measure.name) if chosen else None
        if not values or not values[0]:
            return np.empty((len(self.cells), 0, len(self.rows)))
        return np.array(values).reshape(len(self.cells), len(self.rows), -1).transpose(0, 2, 1)

    @property
    def images(self) -> int:
        return self.scores.shape[1]

    @functools.cached_property
    def pairs(self) -> dict[str, Crossing]:
        """Each pair of networks that share images and five methods, by name."""
        pairs = itertools.combinations(self.cells, 2)
        found = {" / ".join(pair): Crossing(self.dataset, self.measure, {n: self.cells[n] for n in pair}) for pair in pairs}
        return {name: both for name, both in found.items() if both.images and len(both.rows) >= FEWEST}

    @functools.cached_property
    def without_controls(self) -> Crossing:
        cells = {n: {r: c for r, c in rows.items() if c.family != CONTROL} for n, rows in self.cells.items()}
        return Crossing(self.dataset, self.measure, cells)

    @functools.cached_property
    def tau(self) -> Estimate:
        """Of two networks; no interval of fewer than five images."""
        found = agreement(*self.scores)
        return found if self.images >= FEWEST else Estimate(found.value, None, None)

    @functools.cached_property
    def told_apart(self) -> list[tuple[str, str, Estimate, Estimate]]:
        """Pairs of methods whose difference has an interval without 0 on both of two networks, the first one the better on the
        first network."""
        if self.images < FEWEST:
            return []
        one, other = (differences(scores) for scores in self.scores)
        sign = 1 if self.measure.higher_is_better else -1
        pairs = []
        for i, j in itertools.permutations(range(len(self.rows)), 2):
            mine, theirs = one[i][j], other[i][j]
            if sign * (mine.value or 0.0) > 0 and _without_zero(mine) and _without_zero(theirs):
                pairs.append((self.rows[i], self.rows[j], mine, theirs))
        return pairs

    @property
    def flips(self) -> list[tuple[str, str, Estimate, Estimate]]:
        """The pairs that are told apart the other way round on the second network."""
        return [pair for pair in self.told_apart if (pair[2].value or 0.0) * (pair[3].value or 0.0) < 0]

    @functools.cached_property
    def components(self) -> Components | None:
        """None for fewer than five images or two methods."""
        return variance_components(self.scores) if self.images >= FEWEST and len(self.rows) > 1 else None


def _without_zero(estimate: Estimate) -> bool:
    return estimate.low is not None and estimate.high is not None and estimate.low * estimate.high > 0


def build(results: Sequence[Result]) -> dict[str, str]:
    """The files by name; none where no methods stand side by side on two networks."""
    found = crossings(results)
    return {"architectures.md": markdown(found), "architectures.csv": tidy(found)} if found else {}


def crossings(results: Sequence[Result]) -> list[Crossing]:
    """Every measure with a direction that two networks or more have of five methods or more, by data set."""
    groups: dict[tuple[str, str], dict[str, dict[str, dict[str, Result]]]] = {}
    order = measures_of(results)
    for result in results:
        common = {k: v for k, v in result.protocol.items() if not k.startswith(_OF_THE_NETWORK)}
        for name in (n for n in order if n in result.measures):
            measure = result.measures[name]
            if measure.metric is None or measure.higher_is_better is None or not result.entry(name)["n"]:
                continue
            protocol = json.dumps([common, name, measure.protocol], sort_keys=True)
            own = json.dumps([v for k, v in result.protocol.items() if k.startswith(_OF_THE_NETWORK)])
            # A network may stand in the results with several weights or target layers: each of these is a variant.
            variants = groups.setdefault((result.dataset, protocol), {}).setdefault(result.model, {})
            rows = variants.setdefault(own, {})
            if result.row not in rows or len(result.records) > len(rows[result.row].records):
                rows[result.row] = result
    found = []
    for (dataset, protocol), networks in groups.items():
        name = json.loads(protocol)[1]
        cells = {model: max(variants.values(), key=len) for model, variants in sorted(networks.items())}
        cells = {model: rows for model, rows in cells.items() if len(rows) >= FEWEST}
        if len(cells) > 1:
            measure = next(iter(next(iter(cells.values())).values())).measures[name]
            crossing = Crossing(dataset, measure, cells)
            if crossing.pairs:
                found.append(crossing)
    return sorted(found, key=lambda c: (c.dataset, order.index(c.measure.name)))


def markdown(found: Sequence[Crossing]) -> str:
    parts = [
        "# Architectures",
        "The same methods on the same images, network beside network; n: the images that all of a line's cells have. [95% "
        "bootstrap interval over images]: networks and methods are those that there are, not drawn from others. Tau: Kendall's "
        "tau-b of the methods' order by their means, 1 the same order, -1 the reverse; noise lowers it, and resampling adds "
        "some, so that its interval lies low and may not hold it. Told apart: pairs of methods whose difference has an "
        "interval without 0 on both networks, not adjusted for the number of pairs; flipped: those of which the other one is "
        "better on the second network.",
    ]
    for dataset in dict.fromkeys(c.dataset for c in found):
        here = [c for c in found if c.dataset == dataset]
        parts += [f"## {dataset}", *_agreement_part(here), *_flips_part(here), *_components_part(here)]
    return "\n\n".join(parts) + "\n"


def _title(crossing: Crossing, others: Sequence[Crossing]) -> str:
    """The measure, with its points where the data set has it with several."""
    points = {c.measure.protocol.get("points") for c in others if c.measure.name == crossing.measure.name}
    title = arrow(crossing.measure)
    return f"{title} ({crossing.measure.protocol.get('points')} points)" if len(points) > 1 else title


def _agreement_part(here: Sequence[Crossing]) -> list[str]:
    lines = [
        [_title(c, here), name, len(both.rows), both.images, _shown(both.tau), len(both.told_apart), len(both.flips)]
        for c in here
        for name, both in c.pairs.items()
    ]
    head = ["measure", "networks", "methods", "n", "tau", "told apart", "flipped"]
    return ["### Does the order of the methods agree?", table(head, lines)]


def _flips_part(here: Sequence[Crossing]) -> list[str]:
    lines = [
        [_title(c, here), name, both.images, first, second, _signed(one), _signed(other)]
        for c in here
        for name, both in c.pairs.items()
        for first, second, one, other in both.flips
    ]
    head = ["measure", "networks", "n", "better on the first", "better on the second", "difference there", "and here"]
    return ["### Where it flips", table(head, lines) if lines else "Nowhere, as far as these images tell methods apart."]


def _components_part(here: Sequence[Crossing]) -> list[str]:
    lines = []
    for c in here:
        for what, chosen in (("all", c), ("without controls", c.without_controls)):
            if chosen.components is not None:
                shares = [_shown(chosen.components.shares[name], 2) for name in COMPONENTS]
                count = f"{len(chosen.rows)} ({what})"
                lines.append([_title(c, here), count, len(c.cells), chosen.images, *shares])
    head = ["measure", "methods", "networks", "n", *(name.replace(" x ", " × ") for name in COMPONENTS)]
    said = (
        "Shares of the variance of a single score: network, image and method as crossed random effects, their interactions, "
        "and the rest (analysis of variance by moments; components below 0 count as 0). The share of two or three networks "
        "rests on as few, whatever its interval over images."
    )
    if not lines:
        return []
    return ["### Where does the variance of a score come from?", said, table(head, lines)]


def _shown(estimate: Estimate, digits: int = 3) -> str:
    if estimate.value is None:
        return HOLE
    return f"{number(estimate.value, digits)} {_bounds(estimate, digits)}"


def _signed(estimate: Estimate) -> str:
    return f"{estimate.value:+.3f} {_bounds(estimate)}"


def _bounds(estimate: Estimate, digits: int = 3) -> str:
    return HOLE if estimate.low is None else f"[{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def tidy(found: Sequence[Crossing]) -> str:
    """One line per number."""
    head = ("dataset", "what", "measure", "points", "networks", "methods", "first", "second", "n", "value", "low", "high")
    lines: list[list[Any]] = []

    def add(
        what: str, c: Crossing, networks: str, methods: str, n: int, e: Estimate, first: str = "", second: str = ""
    ) -> None:
        limits = ("" if x is None else x for x in (e.value, e.low, e.high))
        points = c.measure.protocol.get("points", "")
        lines.append([c.dataset, what, c.measure.name, points, networks, methods, first, second, n, *limits])

    for c in found:
        for name, both in c.pairs.items():
            count = str(len(both.rows))
            add("tau", c, name, count, both.images, both.tau)
            for first, second, one, other in both.flips:
                add("difference on the first", c, name, count, both.images, one, first, second)
                add("difference on the second", c, name, count, both.images, other, first, second)
        for what, chosen in (("", c), (" without controls", c.without_controls)):
            if chosen.components is not None:
                names, count = " / ".join(c.cells), f"{len(chosen.rows)}{what}"
                for component in COMPONENTS:
                    add(f"share of {component}", c, names, count, chosen.images, chosen.components.shares[component])
                    variance = Estimate(chosen.components.variances[component], None, None)
                    add(f"variance of {component}", c, names, count, chosen.images, variance)
    return as_csv(head, lines)
