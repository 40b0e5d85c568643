"""Necessity (drop) and sufficiency (keep), scored at equal area, and the classical scores of the masked image.

With R_q the q % most salient pixels, removed pixels being mean colour:

    necessity    N(q) = [p_c(I) - p_c(I without R_q)] / p_c(I)        sufficiency    S(q) = p_c(only R_q) / p_c(I)

as areas over q in [0, 100 %] and at fixed q; their harmonic mean as one number. Where an explanation has a map for each
side, each side is scored with its own map and, crossed, with the other.

Average drop max(0, Y - O) / Y and increase in confidence [O > Y], with Y = p_c(I) and O = p_c of the image times the map,
min-max normalised: Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from metrics.base import BaseMetric, Case, Need, Side
from metrics.deletion_insertion import auc
from suny.configured import configured
from suny.explanation import min_max
from suny.interventions.pixels import Substrate, blend, substrate

_OURS = "definition: metrics/drop_keep.py"
Percent = Annotated[float, Field(gt=0, le=100)]
Points = Annotated[int, Field(ge=2)]


def necessity(case: Case, quantiles: list[float], fill: Substrate, side: Side) -> list[float]:
    """N(q) at fractions q; p_c(I) > 0."""
    removed = case.scores("remove", fill, _counts(case, quantiles), side)
    return [(case.p - p) / case.p for p in removed]


def sufficiency(case: Case, quantiles: list[float], fill: Substrate, side: Side) -> list[float]:
    """S(q) at fractions q; p_c(I) > 0."""
    return [p / case.p for p in case.scores("keep", fill, _counts(case, quantiles), side)]


def _counts(case: Case, quantiles: list[float]) -> list[int]:
    return [round(q * case.pixels) for q in quantiles]


@configured
class Necessity(BaseMetric):
    """Area under N(q).

    Args:
        points: how many points the curve has, from 0 to 100 %.
        fill: the substrate where pixels are removed.
        side: the map that ranks the pixels.
    """

    low = -float("inf")
    higher_is_better = True
    unit = "fraction of p(I)"
    reference = _OURS
    has_curve = True

    name: str = "necessity"
    points: Points = 101
    fill: Substrate = "zero"
    side: Side = "saliency"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset() if self.side == "saliency" else frozenset({"sides"})

    def measure(self, case: Case) -> float | None:
        if case.p <= 0 or not case.has(self.side):
            return None
        values, grid = case.curves[self.name] = self._curve(case)
        return auc(values, grid)

    def _curve(self, case: Case) -> tuple[list[float], list[float]]:
        grid = [i / (self.points - 1) for i in range(self.points)]
        return necessity(case, grid, self.fill, self.side), grid


@configured
class Sufficiency(Necessity):
    """Area under S(q); keys as in :class:`Necessity`."""

    low = 0.0
    high = float("inf")

    name: str = "sufficiency"

    def _curve(self, case: Case) -> tuple[list[float], list[float]]:
        grid = [i / (self.points - 1) for i in range(self.points)]
        return sufficiency(case, grid, self.fill, self.side), grid


@configured
class HarmonicMean(Necessity):
    """Harmonic mean of the two areas, a negative one counting as 0; keys as in :class:`Necessity`."""

    low = 0.0
    high = 2.0
    has_curve = False

    name: str = "necessity_sufficiency"

    def measure(self, case: Case) -> float | None:
        if case.p <= 0 or not case.has(self.side):
            return None
        grid = [i / (self.points - 1) for i in range(self.points)]
        n = max(0.0, auc(necessity(case, grid, self.fill, self.side), grid))
        s = auc(sufficiency(case, grid, self.fill, self.side), grid)
        return 2 * n * s / (n + s) if n + s > 0 else 0.0


@configured
class NecessityAt(Necessity):
    """N at one area.

    Args:
        q: percent of the pixels.
    """

    name: str = "necessity_at"
    q: Percent = 10.0

    @property
    def label(self) -> str:
        return f"necessity at {self.q:g} %"

    def measure(self, case: Case) -> float | None:
        return necessity(case, [self.q / 100], self.fill, self.side)[0] if case.p > 0 and case.has(self.side) else None


@configured
class SufficiencyAt(Sufficiency):
    """S at one area.

    Args:
        q: percent of the pixels.
    """

    name: str = "sufficiency_at"
    q: Percent = 10.0

    @property
    def label(self) -> str:
        return f"sufficiency at {self.q:g} %"

    def measure(self, case: Case) -> float | None:
        return sufficiency(case, [self.q / 100], self.fill, self.side)[0] if case.p > 0 and case.has(self.side) else None


@configured
class AverageDrop(BaseMetric):
    """max(0, Y - O) / Y; its mean over images is the average drop."""

    name = "average_drop"
    higher_is_better = False
    unit = "fraction of p(I)"
    reference = "Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1"

    def measure(self, case: Case) -> float | None:
        return max(0.0, case.p - _masked(case)) / case.p if case.p > 0 else None


@configured
class IncreaseInConfidence(BaseMetric):
    """1 where O > Y, strictly; its mean over images is the increase in confidence."""

    name = "increase_in_confidence"
    higher_is_better = True
    unit = "fraction of images"
    reference = "Chattopadhay et al., Grad-CAM++, WACV 2018, section 4.1"

    def measure(self, case: Case) -> float:
        return float(_masked(case) > case.p)


def _masked(case: Case) -> float:
    """O: p_c of the image times the map, min-max normalised; a constant map leaves nothing."""

    def score() -> float:
        mask = min_max(case.saliency[None])
        blank = substrate(case.image, "zero")
        return float(case.score(1, lambda _: blend(case.image, blank, mask))[0])

    return case.once("masked by the map", score)
