"""Class activation maps weighted by gradients: Grad-CAM and its relatives, at the engine's target layer.

With A_f the feature maps, g_f the gradient of the class's logit by them, sums over positions:

    gradcam    map = ReLU(sum_f mean(g_f) A_f)                               Selvaraju et al., ICCV 2017
    gradcampp  map = ReLU(sum_f w_f A_f), w_f = sum(alpha_f ReLU(g_f)),      Chattopadhay et al., WACV 2018, eq. 10, 19
               alpha_f = g_f^2 / (2 g_f^2 + sum(A_f) g_f^3 + 1e-6)       the 1e-6 is pytorch-grad-cam's
    xgradcam   map = ReLU(sum_f w_f A_f), w_f = sum(g_f A_f / sum(A_f))      Fu et al., BMVC 2020, eq. 8
    hirescam   map = ReLU(sum_f g_f A_f)                                     Draelos, Carin, 2020
    layercam   map = ReLU(sum_f ReLU(g_f) A_f)                               Jiang et al., IEEE TIP 2021, eq. 5

The formulas are pytorch-grad-cam's, on the engine's activations and gradients. Its own upsampling min-max normalises the
map, which changes every metric that sums it, so the raw map is upsampled here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation, upsample
from suny.later import Later

if TYPE_CHECKING:
    import pytorch_grad_cam
else:
    pytorch_grad_cam = Later("pytorch_grad_cam")

Kind = Literal["gradcam", "gradcampp", "xgradcam", "hirescam", "layercam"]
_FORMULAS = {
    "gradcam": "GradCAM",
    "gradcampp": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
}


@configured
class GradientCam:
    """One of the maps above; one forward and one backward pass of the tail per image.

    Args:
        name: the NAME of ``method=NAME``.
        kind: names the map.
    """

    needs_layer: ClassVar[bool] = True

    name: str = "gradcam"
    kind: Kind = "gradcam"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        return Explanation(cam(engine, images, targets, self.kind))


def cam(engine: Engine, images: Tensor, targets: Tensor, kind: Kind) -> Tensor:
    """Maps of a batch of any length, (B, H, W), >= 0."""
    library = getattr(pytorch_grad_cam, _FORMULAS[kind])(engine.network, [])
    low = []
    for image, target in zip(images, targets, strict=True):  # one by one, as a map must not depend on its batch mates
        activation, gradient = (x.cpu().numpy() for x in engine.activation_gradient(image[None], target[None]))
        low.append(torch.from_numpy(library.get_cam_image(image[None], engine.network.cut, [], activation, gradient, False)))
    return upsample(torch.cat(low).float().to(images.device).clamp(min=0), images.shape[-2:])
