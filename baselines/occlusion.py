"""Occlusion: how much p_c falls while a grey square covers a place, averaged over the squares that cover it.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. Our own: captum builds every
square by itself, which costs a sixth of the network's throughput.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation
from suny.interventions.pixels import blend


@configured
class Occlusion:
    """Occlusion by 0 of the normalised image (mean colour); where covering raises p_c the map is 0.

    Args:
        name: the NAME of ``method=NAME``.
        window: side of the square, pixels; at most the image's.
        stride: step from one square to the next, pixels; at most ``window``.
    """

    name: str = "occlusion"
    window: Annotated[int, Field(ge=1)] = 32
    stride: Annotated[int, Field(ge=1)] = 8

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        maps = [self._map(engine, image, c) for image, c in zip(images, targets.tolist(), strict=True)]
        return Explanation(torch.stack(maps))

    def _map(self, engine: Engine, image: Tensor, target: int) -> Tensor:
        window = min(self.window, *image.shape[-2:])
        # These say which pixels of an axis each square covers; the last square may reach beyond the image.
        rows, columns = (_coverage(side, window, min(self.stride, window)).to(image) for side in image.shape[-2:])
        places = torch.cartesian_prod(torch.arange(len(rows)), torch.arange(len(columns))).to(image.device)
        blank = torch.zeros_like(image)

        def build(part: slice) -> Tensor:
            y, x = places[part].T
            return blend(image, blank, 1 - rows[y, :, None] * columns[x, None])

        clean = engine.score(1, lambda _: image[None], target)
        fall = (clean - engine.score(len(places), build, target)).reshape(len(rows), len(columns))
        covering = rows.sum(0)[:, None] * columns.sum(0)
        return (rows.T @ fall @ columns / covering).clamp(min=0)


def _coverage(side: int, window: int, stride: int) -> Tensor:
    """Whether a pixel of an axis lies in a square, bool (squares, side); the squares cover all pixels."""
    starts = torch.arange(-(-(side - window) // stride) + 1) * stride
    behind = torch.arange(side) - starts[:, None]
    return (behind >= 0) & (behind < window)
