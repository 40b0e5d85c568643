"""Controls: maps that know nothing of the network, or of what it has learnt. A method that does not beat them has shown
nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from baselines.gradient_cams import Kind, cam
from suny.classifiers.engine import Engine
from suny.configured import Seed, configured
from suny.explanation import Explanation, Family
from suny.later import Later

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = Later("scipy.ndimage")


@configured
class Center:
    """A Gaussian at the image's centre: photographers put things in the middle.

    Args:
        sigma: standard deviation as a fraction of the image's side.
    """

    family: ClassVar[Family] = "control"

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

    family: ClassVar[Family] = "control"

    name: str = "random"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """A map of its own for every image; no forward pass."""
        shape = images.shape[-2:]
        noise = [torch.rand(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
        return Explanation(torch.stack(noise).to(images.device))


@configured
class Constant:
    """1 everywhere: what a metric gives for no explanation at all; recorded as degenerate, and all pixels tie."""

    family: ClassVar[Family] = "control"

    name: str = "constant"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """The same map for every image; no forward pass."""
        return Explanation(torch.ones_like(images[:, 0]))


@configured
class Edges:
    """The image's edges: the magnitude of the gradient of its brightness (Adebayo et al., 2018, use such a detector).

    Args:
        sigma: standard deviation of the Gaussian whose derivatives are taken, pixels.
    """

    family: ClassVar[Family] = "control"

    name: str = "edges"
    sigma: Annotated[float, Field(gt=0)] = 2.0

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """A map of its own for every image; no forward pass."""
        grey = images.mean(1).cpu().numpy()
        maps = [torch.from_numpy(ndimage.gaussian_gradient_magnitude(g, self.sigma, mode="nearest")) for g in grey]
        return Explanation(torch.stack(maps).float().to(images.device))


@configured
class RandomWeights:
    """The explanation of a network with the same architecture and random weights: only architecture and image shape it.

    Args:
        name: the NAME of ``method=NAME``.
        kind: names the map that explains it (:mod:`baselines.gradient_cams`).
        seed: draws the weights.
    """

    family: ClassVar[Family] = "control"
    needs_layer: ClassVar[bool] = True

    name: str = "random_weights"
    kind: Kind = "gradcam"
    seed: Seed = 0

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """One forward and one backward pass of the tail per image; one network for all images."""
        return Explanation(cam(engine.randomised(self.seed), images, targets, self.kind))
