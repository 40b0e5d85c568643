"""SmoothGrad: an explanation averaged over noisy copies of the image.

    map = mean over i of  explanation(I + e_i),   e_i ~ N(0, (noise * (max I - min I))^2)

Smilkov et al., "SmoothGrad: removing noise by adding noise", 2017. Over Grad-CAM++ (``smoothgrad``) it is most likely
what the published tables call SmoothGrad: its numbers follow Grad-CAM++'s and its picture is a class activation map.
Over the gradient of the logit (``smoothgrad_vanilla``) it is the authors' method; the map is the absolute value of the mean
gradient, summed over colours. Our own: captum's NoiseTunnel draws from the global generator and takes no such map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from baselines.gradient_cams import cam
from suny.classifiers.engine import Engine, batches
from suny.configured import configured
from suny.explanation import Explanation


@configured
class SmoothGrad:
    """SmoothGrad; ``samples`` forward and backward passes per image.

    Args:
        name: the NAME of ``method=NAME``.
        of: ``gradcampp`` maps are averaged, or the ``gradient`` by the pixels.
        samples: how many noisy copies there are.
        noise: standard deviation, as a fraction of the image's range of (normalised) values.
    """

    name: str = "smoothgrad"
    of: Literal["gradcampp", "gradient"] = "gradcampp"
    samples: Annotated[int, Field(ge=1)] = 50
    noise: Annotated[float, Field(ge=0)] = 0.15

    @property
    def needs_layer(self) -> bool:
        return self.of == "gradcampp"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); ``seeds`` draw the noise."""
        maps = [
            self._map(engine, image, int(target), torch.Generator().manual_seed(seed))
            for image, target, seed in zip(images, targets, seeds, strict=True)
        ]
        return Explanation(torch.stack(maps))

    def _map(self, engine: Engine, image: Tensor, target: int, generator: torch.Generator) -> Tensor:
        deviation = self.noise * float(image.max() - image.min())
        total: Tensor | float = 0.0
        for part in batches(self.samples, engine.batch_size):
            count = part.stop - part.start
            # The noise is drawn one by one, so that it is the same whatever the batch size.
            noise = torch.stack([torch.randn(image.shape, generator=generator) for _ in range(count)]).to(image)
            noisy = image + deviation * noise
            if self.of == "gradient":
                total = total + engine.input_gradient(noisy, target).sum(0)
            else:
                total = total + cam(engine, noisy, torch.full((count,), target), "gradcampp").sum(0)
        mean = torch.as_tensor(total) / self.samples
        return mean.abs().sum(0) if self.of == "gradient" else mean
