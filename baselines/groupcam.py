"""Group-CAM: groups of channels as masks, weighted by what each adds to a blurred image.

Channels weighted by their pooled gradients, in consecutive groups, are summed and rectified; in each group's map values
below a percentile are set to 0; upsampled and min-max normalised it is the mask M_l. With b a blurred image:

    w_l = ReLU(p_c(I * M_l + b * (1 - M_l)) - p_c(b)),      map = ReLU(sum_l w_l M_l)

Zhang, Rao, Yang, "Group-CAM: Group Score-Weighted Visual Explanations for Deep Convolutional Networks", 2021, section 3;
the blur (51 x 51, sigma 50) as in the authors' code. Our own: no maintained library has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation, min_max, upsample
from suny.interventions.pixels import blend, truncated_gaussian


@configured
class GroupCam:
    """Group-CAM; ``groups`` + 2 forward passes and one backward pass of the tail per image.

    Args:
        name: the NAME of ``method=NAME``.
        groups: how many groups the consecutive channels form.
        percentile: values of a group's map below this percentile are set to 0 (the paper's de-noising); 0 for none.
        kernel, sigma: side and standard deviation of the blur, pixels.
    """

    needs_layer: ClassVar[bool] = True

    name: str = "groupcam"
    groups: Annotated[int, Field(ge=1)] = 32
    percentile: Annotated[float, Field(ge=0, lt=100)] = 70.0
    kernel: Annotated[int, Field(ge=1)] = 51
    sigma: Annotated[float, Field(gt=0)] = 50.0

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        maps = [self._map(engine, image, target) for image, target in zip(images, targets.tolist(), strict=True)]
        return Explanation(torch.stack(maps))

    def _map(self, engine: Engine, image: Tensor, target: int) -> Tensor:
        activation, gradient = (x[0] for x in engine.activation_gradient(image[None], torch.tensor([target])))
        weighted = gradient.mean((1, 2), keepdim=True) * activation
        low = torch.stack([group.sum(0) for group in weighted.chunk(self.groups)]).clamp(min=0)
        if self.percentile > 0:
            limit = torch.quantile(low.flatten(1), self.percentile / 100, dim=1)[:, None, None]
            low = torch.where(low > limit, low, 0.0)
        masks = min_max(upsample(low, image.shape[-2:]))
        blurred = truncated_gaussian(image, self.kernel, self.sigma)
        # The blurred image itself, of which nothing is kept, comes first.
        keep = torch.cat([torch.zeros_like(masks[:1]), masks])
        p = engine.score(len(keep), lambda part: blend(image, blurred, keep[part]), target)
        weights = (p[1:] - p[0]).clamp(min=0)
        return torch.einsum("n,nhw->hw", weights, masks)
