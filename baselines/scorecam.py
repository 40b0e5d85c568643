"""Score-CAM: feature maps weighted by p_c of the image that each of them, as a mask, leaves.

    M_f = min-max of A_f upsampled,     w_f = p_c(I * M_f),     map = ReLU(sum_f w_f * upsampled A_f)

Wang et al., "Score-CAM: Score-Weighted Visual Explanations for CNNs", CVPR workshops 2020, eq. 6-8, as in the authors'
code: bilinear upsampling before the min-max, constant maps skipped, softmax over classes, no baseline.
Our own: pytorch-grad-cam holds all masked images of a layer at once. Its variant (corners aligned, weights a softmax over
channels of the logits) is ``scorecam_softmax``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as nnf

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation, min_max, upsample
from suny.interventions.causes import varying_channels
from suny.interventions.pixels import blend


@configured
class ScoreCam:
    """Score-CAM; a forward pass for each channel of the target layer that is not constant, in batches.

    Args:
        name: the NAME of ``method=NAME``.
        weights: ``probability`` (the authors' code), or ``softmax`` over channels of the logits (pytorch-grad-cam).
    """

    needs_layer: ClassVar[bool] = True

    name: str = "scorecam"
    weights: Literal["probability", "softmax"] = "probability"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        maps = [self._map(engine, image, target) for image, target in zip(images, targets.tolist(), strict=True)]
        return Explanation(torch.stack(maps))

    def _map(self, engine: Engine, image: Tensor, target: int) -> Tensor:
        size, blank = image.shape[-2:], torch.zeros_like(image)
        maps = engine.activations(image[None])[0][0].float()
        aligned = self.weights == "softmax"
        some = varying_channels(maps)
        # Constant maps leave nothing of the image: where they have a weight, one pass tells that of all.
        constant = aligned and len(some) < len(maps)
        shown = torch.cat([maps[some], torch.zeros_like(maps[: int(constant)])])

        def build(part: slice) -> Tensor:
            large = nnf.interpolate(shown[part, None], size=size, mode="bilinear", align_corners=aligned)[:, 0]
            return blend(image, blank, min_max(large))

        scores = engine.score(len(shown), build, target, "logit" if aligned else "probability")
        if aligned:
            weights = scores[-1].repeat(len(maps))
            weights[some] = scores[: len(some)]
            weights = weights.softmax(0)
        else:
            weights, maps = scores, maps[some]
        low = torch.einsum("n,nhw->hw", weights, maps)
        low = low.clamp(min=0) if aligned else low
        return upsample(low[None], size)[0].clamp(min=0)
