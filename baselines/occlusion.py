"""Occlusion: how much p_c falls while a grey square covers a place, averaged over the squares that cover it.

Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014, section 4.2. Implementation: captum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from captum.attr import Occlusion as CaptumOcclusion
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation


@configured
class Occlusion:
    """Occlusion by 0 of the normalised image (mean colour); where covering raises p_c the map is 0.

    Args:
        name: as in ``method=NAME``.
        window: side of the square, pixels; at most the image's.
        stride: step from one square to the next, pixels; at most ``window``.
    """

    name: str = "occlusion"
    window: Annotated[int, Field(ge=1)] = 32
    stride: Annotated[int, Field(ge=1)] = 8

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        method = CaptumOcclusion(engine.probabilities)
        window = min(self.window, *images.shape[-2:])
        stride = min(self.stride, window)
        maps = []
        for image, target in zip(images, targets.tolist(), strict=True):
            found = method.attribute(
                image[None],
                target=target,
                sliding_window_shapes=(3, window, window),
                strides=(3, stride, stride),
                perturbations_per_eval=engine.batch_size,
            )
            maps.append(found[0, 0].float().clamp(min=0))  # all colours are covered together
        return Explanation(torch.stack(maps))
