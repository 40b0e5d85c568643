"""Methods that remove one filter after the other from the activation; only the tail of the network runs.

Ablation-CAM: filters weighted by the relative drop of the class's logit y,

    w_f = (y - y without f) / |y|,      map = ReLU(sum_f w_f A_f)

Desai and Ramaswamy, "Ablation-CAM: Visual Explanations for Deep Convolutional Network via Gradient-free Localization",
WACV 2020, eq. 3-4. Our own: pytorch-grad-cam's recomputes the whole network for every filter and fails on layers that are
called with keyword arguments. The paper divides by y, which turns the map around where the logit is negative.

CexCNN: filters weighted by their responsibility for the class, after Halpern and Pearl. With d_f = p_c(I) - p_c(without f)
and a threshold t: 1 where d_f >= t; 0 where d_f <= 0; else 1 / (w + 1), with w the number of other positive filters below t,
largest first, that have to be removed with f until the drops sum to t (0 where they never do).

Debbi, "Causal Explanation of Convolutional Neural Networks", ECML PKDD 2021. Its t is set by hand for each class; here it
is a fraction of the sum of all positive drops, so that it follows the scale of class and network. Our own: no library has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine, Output
from suny.configured import configured
from suny.explanation import Explanation, upsample
from suny.interventions.causes import FilterCauses


@configured
class AblationCam:
    """Ablation-CAM; per image one forward pass, and one pass of the tail per channel."""

    needs_layer: ClassVar[bool] = True

    name: str = "ablationcam"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        weighted = []
        for image, target in zip(images, targets.tolist(), strict=True):
            activation, whole, without = ablate(engine, image, target, "logit")
            weighted.append((activation, (whole - without) / (whole.abs() if float(whole) else 1.0)))
        return _explanation(weighted, images)


@configured
class CexCnn:
    """CexCNN; per image one forward pass, and one pass of the tail per channel.

    Args:
        name: the NAME of ``method=NAME``.
        threshold: t as a fraction of the sum of all positive drops.
    """

    needs_layer: ClassVar[bool] = True

    name: str = "cexcnn"
    threshold: Annotated[float, Field(gt=0, le=1)] = 0.1

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        weighted = []
        for image, target in zip(images, targets.tolist(), strict=True):
            activation, whole, without = ablate(engine, image, target, "probability")
            drops = (whole - without).double().cpu()  # the loops below go through them one by one
            weights = responsibility(drops, self.threshold * float(drops.clamp(min=0).sum()))
            weighted.append((activation, weights.to(activation)))
        return _explanation(weighted, images)


def _explanation(weighted: Sequence[tuple[Tensor, Tensor]], images: Tensor) -> Explanation:
    """Maps from each image's activation (C, h, w) and weights (C,), rectified and upsampled."""
    low = torch.stack([torch.einsum("c,chw->hw", weights, activation) for activation, weights in weighted])
    channels = torch.stack([weights.expand(2, -1) for _, weights in weighted])
    return Explanation(upsample(low.clamp(min=0), images.shape[-2:]), channels=channels)


def ablate(engine: Engine, image: Tensor, target: int, output: Output) -> tuple[Tensor, Tensor, Tensor]:
    """The activation (C, h, w) of an image (3, H, W), the class's output, and the output without each filter (C,)."""
    activation, carried = engine.activations(image[None])
    channels = torch.eye(activation.shape[1], dtype=torch.bool, device=image.device)
    size = (int(image.shape[-2]), int(image.shape[-1]))
    filters = FilterCauses(engine, activation[0], carried, target, size, channels, output=output)
    players = torch.arange(len(channels), device=image.device)
    without = filters.removed(players, torch.cat([torch.zeros_like(channels[:1]), channels]))
    return activation[0].float(), without[0], without[1:]


def responsibility(drops: Tensor, threshold: float) -> Tensor:
    """Responsibility of each filter, (C,) in [0, 1].

    Args:
        drops: d_f, (C,).
        threshold: t > 0; 0 where no drop is positive, and all responsibilities are then 0.
    """
    out = torch.zeros_like(drops)
    if threshold <= 0:
        return out
    out[drops >= threshold] = 1.0
    partial = torch.nonzero((drops > 0) & (drops < threshold))[:, 0]
    order = partial[torch.argsort(drops[partial], descending=True, stable=True)]
    running = drops[order].cumsum(0)  # the sums of the largest 1, 2, ... of them
    for position, f in enumerate(order.tolist()):
        # The others, largest first: before this filter's place they are the first ones, beyond it this one is left out.
        sums = torch.cat([running[:position] + drops[f], running[position + 1 :]])
        enough = torch.nonzero(sums >= threshold)
        if len(enough):
            out[f] = 1.0 / (int(enough[0, 0]) + 2)
    return out
