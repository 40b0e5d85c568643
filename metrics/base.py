"""The contract of every metric, and the case it measures.

A metric is a :func:`~suny.configured.configured` class: its attributes describe the number, its fields are the keys of
``conf/metrics/<name>.yaml`` and part of its protocol. Whatever several metrics of one image need (p_c of the same perturbed
image, say) is computed once and kept in the :class:`Case`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeVar, get_args, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import place_of
from suny.errors import UserError
from suny.images.geometry import Box
from suny.images.known_causes import KnownCauses
from suny.images.masks import Mask
from suny.interventions.pixels import Substrate, Ties, pixel_order, rank_of, replace_top, substrate

# A metric may need these beside the saliency map: annotated boxes, masks or parts, known causes, the two maps of the two sides,
# to explain the image again, or the method's values of the channels.
Need = Literal["boxes", "masks", "parts", "causes", "sides", "explain", "channels"]
Side = Literal["saliency", "necessity", "sufficiency"]
Change = Literal["remove", "keep"]
Part = tuple[str, float, float]

T = TypeVar("T")

# A number may lie outside its range by so much, relative to the range's end: sums are rounded.
_ROUNDING = 1e-6


class NotFinite(ArithmeticError):
    """The network returned NaN for a perturbed image, and nothing that is computed from it has a value."""


@dataclass(frozen=True)
class Frame:
    """The upright image that the network's view was cut from.

    Args:
        boxes: edges in pixels of the upright image, in full.
        mask: the object's mask on the upright image, bool (height, width), on the CPU; None where there is none.
        upright: maps a place (x, y) of the view to the upright image, pixels.
    """

    boxes: Sequence[Box]
    upright: Callable[[float, float], tuple[float, float]]
    mask: Mask | None = None


@dataclass
class Case:
    """One explained image.

    Args:
        engine: runs the network.
        image: normalised, (3, H, W), on the engine's device.
        target: the explained class.
        saliency: the map, (H, W), finite and >= 0, on the engine's device.
        boxes: in pixels of the network's view; empty where there are none.
        parts: named points (x, y) in pixels of the network's view.
        necessity, sufficiency: maps of the two sides, as ``saliency``; None where the method has one map.
        frame: the upright image; None where it is not known.
        causes: the image's causes; None where they are not known.
        channels: the method's N and S value of every channel of the target layer, (2, C); None where it has none.
        clean: p_c(I) where it is known already.
        seed: the seed of the image, for metrics that draw random numbers.
        explain: explains the image again, with another engine and seed: -> (H, W); None where it can't be.
        mask: the object's mask in the network's view, bool (H, W), on the engine's device; None where there is none.
        notes: entries that metrics want in the record beside their value.
        curves: whole curves by name: values and fractions of pixels, one of each per point.
    """

    engine: Engine
    image: Tensor
    target: int
    saliency: Tensor
    boxes: Sequence[Box] = ()
    parts: Sequence[Part] = ()
    necessity: Tensor | None = None
    sufficiency: Tensor | None = None
    frame: Frame | None = None
    causes: KnownCauses | None = None
    channels: Tensor | None = None
    clean: float | None = None
    seed: int = 0
    explain: Callable[[Engine, int], Tensor] | None = None
    mask: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def p(self) -> float:
        """p_c(I)."""
        if self.clean is None:
            self.clean = float(self.score(1, lambda _: self.image[None])[0])
        return self.clean

    @property
    def pixels(self) -> int:
        return self.saliency.numel()

    def map(self, side: Side) -> Tensor:
        """The map of a side, (H, W).

        Raises:
            ValueError: the method has one map only.
        """
        values = {"saliency": self.saliency, "necessity": self.necessity, "sufficiency": self.sufficiency}[side]
        if values is None:
            raise ValueError(f"this explanation has no {side} map")
        return values

    def has(self, side: Side) -> bool:
        return side == "saliency" or getattr(self, side) is not None

    def rank(self, side: Side = "saliency", ties: Ties = "raster") -> Tensor:
        """Rank of each pixel by decreasing value of a side's map, int64 (H, W)."""

        def compute() -> Tensor:
            values = self.map(side)
            return rank_of(pixel_order(values, ties)).reshape(values.shape)

        return self.once(("rank", side, ties), compute)

    def score(self, count: int, build: Callable[[slice], Tensor]) -> Tensor:
        """p_c of changed images, float64 (count,) on the engine's device; see :meth:`suny.classifiers.engine.Engine.score`.

        Raises:
            NotFinite: some of it is NaN.
        """
        p = self.engine.score(count, build, self.target).double()
        spoilt = int((~p.isfinite()).sum())
        if spoilt:
            raise NotFinite(f"the network returns NaN for {spoilt} of {count} changed images")
        return p

    def scores(
        self, change: Change, fill: Substrate, counts: Sequence[int], side: Side = "saliency", ties: Ties = "raster"
    ) -> list[float]:
        """p_c with so many of the most salient pixels removed, or with these alone kept; the rest is the substrate.

        Each perturbed image is scored once, whichever metrics ask for it. Nothing removed and everything kept are the
        clean image; everything removed and nothing kept are the bare substrate.

        Args:
            change: ``remove`` or ``keep``.
            fill: the substrate.
            counts: pixels, 0..H*W.
            side: its map ranks the pixels.
            ties: see :func:`suny.interventions.pixels.pixel_order`.
        """
        known: dict[Any, float] = self.once("scores", dict)

        def key(count: int) -> Any:
            taken = count if change == "remove" else self.pixels - count  # so many pixels of the image are gone
            if taken == 0:
                return "clean"
            return ("blank", fill) if taken == self.pixels else (change, fill, side, ties, count)

        if any(key(c) == "clean" for c in counts):
            known["clean"] = self.p
        missing = [c for c in dict.fromkeys(counts) if key(c) not in known]
        if missing:
            blank = self.once(("substrate", fill), lambda: substrate(self.image, fill))
            start, finish = (self.image, blank) if change == "remove" else (blank, self.image)
            rank, which = self.rank(side, ties), torch.tensor(missing)
            p = self.score(len(missing), lambda batch: replace_top(start, finish, rank, which[batch]))
            known.update(zip([key(c) for c in missing], p.tolist(), strict=True))
        return [known[key(c)] for c in counts]

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """The value of ``compute()``, computed once for each key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


@runtime_checkable
class Metric(Protocol):
    """A number about one explained image; :class:`BaseMetric` has what most of them say alike.

    Attributes:
        name: the key in records and tables.
        label: column title.
        low, high: the range.
        higher_is_better: direction of the arrow in tables; None where neither is better.
        unit: the unit of the number.
        reference: paper and equation or section.
        version: the version of the protocol; raised whenever the same map could get another number.
        needs: the metric is skipped without these.
        has_curve: optional; True for a metric that leaves a whole curve under its name in :attr:`Case.curves`.
        group: optional; the table in which the metric stands, one of :data:`experiments.tables.specs.SPECS` or any other name;
            without it the table of other metrics.

    A metric over the whole data set that is no mean of numbers also has ``summarise(values, classes)``, its entry in a
    summary, and, so that methods can be compared image by image, ``each(values, classes)``: one number per image (None where
    it has none) whose mean is the summary's.
    """

    needs: ClassVar[frozenset[Need]]
    version: ClassVar[int]
    low: ClassVar[float]
    high: ClassVar[float]
    higher_is_better: ClassVar[bool | None]
    unit: ClassVar[str]
    reference: ClassVar[str]

    @property
    def name(self) -> str: ...

    @property
    def label(self) -> str: ...

    def measure(self, case: Case) -> Any:
        """The number, or None where it is not defined for this image (counted by the smaller n).

        Raises:
            NotFinite: the network returned NaN; a number that is not finite itself is taken for the same.
        """
        ...


class BaseMetric:
    """Defaults of a :class:`Metric`, which then states only its direction, unit and reference, and whatever differs."""

    low: ClassVar[float] = 0.0
    high: ClassVar[float] = 1.0
    version: ClassVar[int] = 1
    has_curve: ClassVar[bool] = False
    group: ClassVar[str] = "other metrics"

    @property
    def name(self) -> str:
        raise NotImplementedError

    @property
    def label(self) -> str:
        """The name with spaces."""
        return self.name.replace("_", " ")

    @property
    def needs(self) -> frozenset[Need]:
        """Nothing."""
        return frozenset()


def check_metric(metric: Metric) -> None:
    """Raises UserError for a metric whose class does not say what tables and checks need to know, or says it wrongly."""
    where = f"metric '{metric.name}' of {place_of(type(metric))}"
    if not (_is_number(metric.low) and _is_number(metric.high) and metric.low < metric.high):
        raise UserError(f"{where} has the range low={metric.low!r}, high={metric.high!r}: give two numbers, low < high.")
    if metric.higher_is_better not in (True, False, None):
        raise UserError(f"{where} has higher_is_better={metric.higher_is_better!r}: give True, False, or None for neither.")
    needs = metric.needs if isinstance(metric.needs, set | frozenset) else None
    if needs is None or not needs <= set(get_args(Need)):
        raise UserError(f"{where} has needs={metric.needs!r}: give a set of {', '.join(get_args(Need))}.")


def measure(metric: Metric, case: Case, image: str) -> Any:
    """The value of a metric for one image, as records keep it; its curve, where it has one, is in the case.

    Args:
        metric: the metric.
        case: the explained image.
        image: its id, for messages.

    Returns: a number within the metric's range, or what its ``summarise`` takes; None where it is not defined; NaN where the
        network returned NaN, or the metric did.

    Raises:
        UserError: the value breaks the contract (:class:`Metric`).
    """
    try:
        value = metric.measure(case)
    except NotFinite:
        return math.nan
    if value is None:
        return None
    where = f"metric '{metric.name}' of {place_of(type(metric))}, image {image}"
    if metric.name in case.curves:
        case.curves[metric.name] = _checked_curve(case.curves[metric.name], where)
    if hasattr(metric, "summarise"):
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UserError(f"{where}: measure returned {_short(value)}, which no record can keep ({error}).") from error
        return value
    if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1:
        value = value.item()
    if not _is_number(value):
        raise UserError(f"{where}: measure returned {_short(value)}: return a float, or None where there is no value.")
    low, high = (end + sign * _ROUNDING * max(1.0, abs(end)) for end, sign in ((metric.low, -1), (metric.high, 1)))
    if math.isfinite(value) and not low <= value <= high:
        raise UserError(
            f"{where}: measure returned {value:g}, outside of its range [{metric.low:g}, {metric.high:g}]: mend the metric, or "
            "its low and high."
        )
    return float(value) if isinstance(value, bool) else value


def _checked_curve(curve: Any, where: str) -> tuple[list[float], list[float]]:
    """A curve as two lists of floats.

    Raises:
        UserError: it is no two lists of equally many numbers.
    """
    try:
        values, fractions = ([float(number) for number in numbers] for numbers in curve)
    except (TypeError, ValueError):
        values, fractions = [], [0.0]
    if len(values) != len(fractions):
        raise UserError(
            f"{where}: measure left {_short(curve)} in case.curves under its name: put (values, fractions of pixels) there, "
            "two lists of equally many numbers."
        )
    return values, fractions


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _short(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray):
        return f"{type(value).__name__} of shape {tuple(value.shape)}"
    return f"{type(value).__name__} {value!a:.60}"
