"""What is known about an image whose causes are known: shapes, their places, and the class when only some of them are there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

# an effect of at least so much makes a shape necessary, or sufficient; by the rules an effect is 0 or 1
EFFECT = 0.5

Intervene = Callable[[NDArray[np.bool_]], Tensor]


@dataclass(frozen=True)
class KnownCauses:
    """The shapes of an image as the network sees it.

    Args:
        label: the image's class, of which all else speaks.
        rule: its name.
        masks: pixels of each shape, bool (n, H, W); they do not overlap.
        retained: whether the class is there with a coalition of shapes and nothing else, bool (2^n,), in the order of
            :func:`suny.games.values.all_coalitions`; found by intervening on the scene.
        intervene: makes the images with only some of the shapes: bool (m, n) -> normalised (m, 3, H, W).
    """

    label: int
    rule: str
    masks: Tensor
    retained: NDArray[np.bool_]
    intervene: Intervene

    @property
    def count(self) -> int:
        return len(self.masks)

    @cached_property
    def necessity(self) -> NDArray[np.float64]:
        """E_N of each shape alone: 1 where the class is lost when it is erased, (n,)."""
        all_of_them = 2**self.count - 1
        return 1.0 - self.retained[all_of_them ^ (1 << np.arange(self.count))]

    @cached_property
    def sufficiency(self) -> NDArray[np.float64]:
        """E_S of each shape alone: 1 where the class is there with nothing else, (n,)."""
        return self.retained[1 << np.arange(self.count)] - float(self.retained[0])

    @cached_property
    def matters(self) -> NDArray[np.bool_]:
        """Whether a shape changes the class in any company, (n,): the others are bystanders."""
        coalitions = np.arange(2**self.count)
        return np.array([bool((self.retained[coalitions ^ (1 << i)] != self.retained).any()) for i in range(self.count)], bool)
