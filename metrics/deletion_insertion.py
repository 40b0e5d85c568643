"""Deletion, insertion and overall: how p_c moves while the most salient pixels are removed, or put back.

Deletion starts from the image and replaces pixels by 0 of the normalised image (mean colour); insertion starts from the
blurred image (RISE's own kernel) and restores pixels. Pixels go in order of decreasing saliency, all channels together;
ties in raster order. AUC is the trapezoid over the fraction of pixels, in [0, 1]; overall = insertion - deletion.

The number of points is part of the number: 29 for data sets (RISE's 224 * 8 pixels per step at 224 x 224), 225 for final
numbers. When the last step is shorter, the true fractions are used.

Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metrics.base import BaseMetric, Case
from suny.configured import configured
from suny.interventions.pixels import Substrate, Ties

Points = Annotated[int, Field(ge=2)]


def steps(pixels: int, points: int) -> list[int]:
    """How many pixels are replaced at each point of a curve: 0, s, 2s, ..., all; s = ceil(pixels / (points - 1)).

    The last step may be shorter; where the pixels don't suffice for that many points there are fewer.
    """
    step = -(-pixels // (points - 1))
    return [*range(0, pixels, step), pixels]


def auc(scores: Sequence[float], fractions: Sequence[float]) -> float:
    """Trapezoid of scores over fractions."""
    return float(np.trapezoid(np.asarray(scores, np.float64), np.asarray(fractions, np.float64)))


def curve(
    case: Case, kind: Literal["deletion", "insertion"], fill: Substrate, points: int, ties: Ties = "raster"
) -> tuple[list[float], list[float]]:
    """p_c along a curve and the fractions of pixels replaced, one of each per point."""
    counts = steps(case.pixels, points)
    scores = case.scores("remove" if kind == "deletion" else "keep", fill, counts, ties=ties)
    return scores, [c / case.pixels for c in counts]


@configured
class Deletion(BaseMetric):
    """AUC of p_c while the most salient pixels are removed first; low where the map finds what the class needs.

    Args:
        name: the key in records and tables.
        points: how many points the curve has.
        fill: the substrate that replaces removed pixels.
        ties: how equal pixels are ordered (:func:`suny.interventions.pixels.pixel_order`).
        protocol: names the implementation whose settings these are, where they are not ours.
    """

    higher_is_better = False
    unit = "mean p"
    reference = "Petsiuk et al., RISE, BMVC 2018, section 4.2"
    has_curve = True

    name: str = "deletion"
    points: Points = 29
    fill: Substrate = "zero"
    ties: Ties = "raster"
    protocol: str | None = None

    @property
    def label(self) -> str:
        return f"deletion ({self.protocol})" if self.protocol else "deletion"

    def measure(self, case: Case) -> float:
        scores, fractions = case.curves[self.name] = curve(case, "deletion", self.fill, self.points, self.ties)
        return auc(scores, fractions)


@configured
class Insertion(BaseMetric):
    """AUC of p_c while the most salient pixels are restored first; high where the map finds what suffices.

    The record notes ``insertion_start``, p_c of the blurred image over p_c(I), the share of the class that the blur leaves.
    Keys as in :class:`Deletion`; insertion starts from ``fill``.
    """

    higher_is_better = True
    unit = "mean p"
    reference = "Petsiuk et al., RISE, BMVC 2018, section 4.2"
    has_curve = True

    name: str = "insertion"
    points: Points = 29
    fill: Substrate = "blur"
    ties: Ties = "raster"
    protocol: str | None = None

    @property
    def label(self) -> str:
        return f"insertion ({self.protocol})" if self.protocol else "insertion"

    def measure(self, case: Case) -> float:
        scores, fractions = case.curves[self.name] = curve(case, "insertion", self.fill, self.points, self.ties)
        if scores[-1] > 0:
            case.notes["insertion_start"] = scores[0] / scores[-1]
        return auc(scores, fractions)


@configured
class Overall(BaseMetric):
    """Insertion minus deletion, of the curves with these settings; scored once where deletion and insertion have them too."""

    name = "overall"
    low = -1.0
    higher_is_better = True
    unit = "difference of mean p"
    reference = "Zhang, Rao, Yang, Group-CAM, 2021, section 4.2"

    points: Points = 29
    deletion_fill: Substrate = "zero"
    insertion_fill: Substrate = "blur"
    ties: Ties = "raster"

    def measure(self, case: Case) -> float:
        inserted = auc(*curve(case, "insertion", self.insertion_fill, self.points, self.ties))
        return inserted - auc(*curve(case, "deletion", self.deletion_fill, self.points, self.ties))
