"""What a map is like, whatever it is worth: where ties decide, how spread out it is."""

from __future__ import annotations

from typing import ClassVar

import torch

from metrics.base import Case, Need
from suny.configured import configured
from suny.interventions.pixels import tied_fraction


@configured
class Ties:
    """Share of the pixels that have their value in common with another one: there the tie rule ranks them."""

    name: ClassVar[str] = "tied_pixels"
    label: ClassVar[str] = "tied pixels"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    higher_is_better: ClassVar[bool | None] = None
    unit: ClassVar[str] = "fraction of the pixels"
    reference: ClassVar[str] = "definition: metrics/map_statistics.py"
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()

    def measure(self, case: Case) -> float:
        return tied_fraction(case.saliency)


@configured
class Entropy:
    """Entropy of the map as a distribution over pixels, over that of the uniform one: 0 one pixel, 1 everywhere the same."""

    name: ClassVar[str] = "entropy"
    label: ClassVar[str] = "entropy"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    higher_is_better: ClassVar[bool | None] = None
    unit: ClassVar[str] = "fraction of log(pixels)"
    reference: ClassVar[str] = "definition: metrics/map_statistics.py"
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()

    def measure(self, case: Case) -> float | None:
        values = case.saliency.double().flatten()
        total = float(values.sum())
        if total <= 0:
            return None
        share = values / total
        bits = -float(torch.special.xlogy(share, share).sum())
        return bits / float(torch.log(torch.tensor(float(len(share)), dtype=torch.float64)))


@configured
class HalfMassArea:
    """The smallest share of the pixels that holds half of the map's sum: small for a sharp map, .5 for a constant one."""

    name: ClassVar[str] = "half_mass_area"
    label: ClassVar[str] = "area at half mass"
    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 0.5
    higher_is_better: ClassVar[bool | None] = None
    unit: ClassVar[str] = "fraction of the pixels"
    reference: ClassVar[str] = "definition: metrics/map_statistics.py"
    version: ClassVar[int] = 1
    needs: ClassVar[frozenset[Need]] = frozenset()

    def measure(self, case: Case) -> float | None:
        values = case.saliency.double().flatten().sort(descending=True).values.cumsum(0)
        if float(values[-1]) <= 0:
            return None
        return (int((values < values[-1] / 2).sum()) + 1) / len(values)
