"""Grad-CAM: ReLU of the sum over channels of the pooled gradient of the class's logit times the activation.

    w_f = mean over positions of d y_c / d A_f,     map = ReLU(sum over f of w_f A_f)

Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization", ICCV 2017.
Implementation: pytorch-grad-cam, up to the raw low-resolution map. Its own upsampling min-max normalises the map, which
changes every metric that sums it, so the raw map is upsampled here.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation, upsample


@configured
class GradCam:
    """Grad-CAM at the engine's target layer; one forward and one backward pass an image."""

    name: str = "gradcam"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        maps = []
        with engine.differentiable() as network:
            for image, target in zip(images, targets.tolist(), strict=True):
                maps.append(_raw_map(engine, network, image, target))
        low = torch.stack(maps).to(images.device).clamp(min=0)
        return Explanation(upsample(low, images.shape[-2:]))


def _raw_map(engine: Engine, network: torch.nn.Module, image: Tensor, target: int) -> Tensor:
    """sum_f w_f A_f, (h, w), before the ReLU."""
    inputs = engine.as_input(image[None])
    wanted = [ClassifierOutputTarget(target)]
    cam = GradCAM(model=network, target_layers=[engine.cut])
    try:  # not its own context manager, which swallows IndexError
        outputs = cam.activations_and_grads(inputs)
        torch.stack([t(o) for t, o in zip(wanted, outputs, strict=True)]).sum().backward()
        (activation,) = (a.float().numpy() for a in cam.activations_and_grads.activations)
        (gradient,) = (g.float().numpy() for g in cam.activations_and_grads.gradients)
        raw = cam.get_cam_image(inputs, engine.cut, wanted, activation, gradient)
    finally:
        cam.activations_and_grads.release()
    return torch.from_numpy(raw[0]).float()
