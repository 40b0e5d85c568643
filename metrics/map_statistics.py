"""Properties of a map, whatever it is worth: where ties decide, how spread out it is."""

from __future__ import annotations

import torch

from metrics.base import BaseMetric, Case
from suny.configured import configured
from suny.interventions.pixels import tied_fraction


@configured
class Ties(BaseMetric):
    """Share of the pixels that have their value in common with another one: there the tie rule ranks them."""

    name = "tied_pixels"
    higher_is_better = None
    unit = "fraction of the pixels"
    reference = "definition: metrics/map_statistics.py"

    def measure(self, case: Case) -> float:
        return tied_fraction(case.saliency)


@configured
class Entropy(BaseMetric):
    """Entropy of the map as a distribution over pixels, over that of the uniform one: 0 one pixel, 1 everywhere the same."""

    name = "entropy"
    higher_is_better = None
    unit = "fraction of log(pixels)"
    reference = "definition: metrics/map_statistics.py"

    def measure(self, case: Case) -> float | None:
        values = case.saliency.double().flatten()
        total = float(values.sum())
        if total <= 0:
            return None
        share = values / total
        bits = -float(torch.special.xlogy(share, share).sum())
        return bits / float(torch.log(torch.tensor(float(len(share)), dtype=torch.float64)))


@configured
class HalfMassArea(BaseMetric):
    """The smallest share of the pixels that holds half of the map's sum: small for a sharp map, .5 for a constant one."""

    name = "half_mass_area"
    label = "area at half mass"
    high = 0.5
    higher_is_better = None
    unit = "fraction of the pixels"
    reference = "definition: metrics/map_statistics.py"

    def measure(self, case: Case) -> float | None:
        values = case.saliency.double().flatten().sort(descending=True).values.cumsum(0)
        if float(values[-1]) <= 0:
            return None
        return (int((values < values[-1] / 2).sum()) + 1) / len(values)
