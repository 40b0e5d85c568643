"""Controls: maps that know nothing of the network. A method that does not beat them has shown nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation


@configured
class Center:
    """A Gaussian at the image's centre: photographers put things in the middle.

    Args:
        sigma: standard deviation as a fraction of the image's side.
    """

    name: str = "center"
    sigma: Annotated[float, Field(gt=0)] = 0.25

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """The same map for every image, in (0, 1]; no forward pass."""
        height, width = images.shape[-2:]
        y = (torch.arange(height, device=images.device) + 0.5) / height - 0.5
        x = (torch.arange(width, device=images.device) + 0.5) / width - 0.5
        gaussian = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * self.sigma**2))
        return Explanation(gaussian.expand(len(images), -1, -1).clone())


@configured
class Random:
    """Independent uniform noise in [0, 1) for every pixel, from the image's seed."""

    name: str = "random"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """A map of its own for every image; no forward pass."""
        shape = images.shape[-2:]
        noise = [torch.rand(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return Explanation(torch.stack(noise).to(images.device))
