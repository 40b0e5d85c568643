"""The contract of every metric, and the case it measures.

A metric is a :func:`~suny.configured.configured` class: its class attributes say what the number is, its fields are the keys
of ``conf/metrics/<name>.yaml`` and part of its protocol. What several metrics of one image need (a deletion curve, say)
is computed once and kept in the :class:`Case`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from suny.classifiers.engine import Engine
from suny.images.geometry import Box
from suny.images.perturb import pixel_order, rank_of

Need = Literal["boxes"]
T = TypeVar("T")


@dataclass
class Case:
    """One explained image.

    Args:
        engine: runs the network.
        image: normalised, (3, H, W), on the engine's device.
        target: the explained class.
        saliency: the map, (H, W), finite and >= 0, on the engine's device.
        boxes: in pixels of the network's view; empty where there are none.
        notes: what metrics want in the record beside their value.
    """

    engine: Engine
    image: Tensor
    target: int
    saliency: Tensor
    boxes: Sequence[Box] = ()
    notes: dict[str, float] = field(default_factory=dict)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    @cached_property
    def rank(self) -> Tensor:
        """Rank of each pixel by decreasing saliency, int64 (H, W)."""
        return rank_of(pixel_order(self.saliency)).reshape(self.saliency.shape)

    def once(self, key: object, compute: Callable[[], T]) -> T:
        """The value of ``compute()``, computed once for each key."""
        if key not in self._kept:
            self._kept[key] = compute()
        return self._kept[key]


@runtime_checkable
class Metric(Protocol):
    """A number about one explained image.

    Class attributes:
        name: the key in records and tables.
        label: column title.
        low, high: the range.
        higher_is_better: direction of the arrow in tables.
        unit: of the number.
        reference: paper and equation or section.
        version: of the protocol; raised whenever the same map could get another number.
        needs: annotations without which the metric is skipped.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    low: ClassVar[float]
    high: ClassVar[float]
    higher_is_better: ClassVar[bool]
    unit: ClassVar[str]
    reference: ClassVar[str]
    version: ClassVar[int]
    needs: ClassVar[frozenset[Need]]

    def measure(self, case: Case) -> float | None:
        """The number, or None where it is not defined for this image (counted by the smaller n)."""
        ...
