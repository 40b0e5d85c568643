"""Energy-based pointing game: the share of a map's energy that lies inside the object ("proportion").

    sum of the map inside the union of the boxes / sum of the map

Pixels of the network's view whose centre is inside a box count as inside. The zero map has no proportion. The published metric
takes boxes, as most data sets have them; the same with masks counts what lies in a box beside the object as outside.

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for CNNs", CVPR workshops 2020, section 4.3.
"""

from __future__ import annotations

from torch import Tensor

from metrics.base import BaseMetric, Case
from suny.configured import configured
from suny.images.geometry import box_mask


@configured
class EnergyProportion(BaseMetric):
    """Share of the map inside the boxes, a fraction (the published tables give percent)."""

    name = "energy_proportion"
    higher_is_better = True
    unit = "fraction of the map's sum"
    reference = "Wang et al., Score-CAM, CVPR workshops 2020, section 4.3"
    needs = frozenset({"boxes"})

    def measure(self, case: Case) -> float | None:
        if not case.boxes:
            return None
        height, width = case.saliency.shape
        return _share(case.saliency, box_mask(case.boxes, height, width, case.saliency.device))


@configured
class EnergyProportionMask(BaseMetric):
    """Share of the map inside the object's mask, a fraction."""

    name = "energy_proportion_mask"
    higher_is_better = True
    unit = "fraction of the map's sum"
    reference = "Wang et al., Score-CAM, CVPR workshops 2020, section 4.3, with masks for boxes"
    needs = frozenset({"masks"})

    def measure(self, case: Case) -> float | None:
        if case.mask is None or not bool(case.mask.any()):  # there is none, or the crop has lost it
            return None
        return _share(case.saliency, case.mask)


def _share(saliency: Tensor, inside: Tensor) -> float | None:
    """The share of a map (H, W) that is inside, bool (H, W); None of the zero map."""
    saliency = saliency.double()
    total = float(saliency.sum())
    return float(saliency[inside].sum()) / total if total > 0 else None
