"""Energy-based pointing game: the share of a map's energy that lies inside the object's boxes ("proportion").

    sum of the map inside the union of the boxes / sum of the map

Pixels of the network's view whose centre is inside a box count as inside. The zero map has no proportion.

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for CNNs", CVPR workshops 2020, section 4.3.
"""

from __future__ import annotations

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
        saliency = case.saliency.double()
        total = float(saliency.sum())
        height, width = saliency.shape
        inside = box_mask(case.boxes, height, width, saliency.device)
        return float(saliency[inside].sum()) / total if total > 0 else None
