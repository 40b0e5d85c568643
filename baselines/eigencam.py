"""Eigen-CAM: the projection of the activation on its first principal direction. It knows nothing of the class.

    A as a matrix (positions x channels) = U S V^T,      map = ReLU(A v_1)

Muhammad and Yeasin, "Eigen-CAM: Class Activation Map using Principal Components", IJCNN 2020, eq. 3.
Our own: pytorch-grad-cam centres the channels first, which the paper does not, and leaves the sign of v_1, which no
decomposition determines, as it comes; a map may then be its own negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation, upsample
from suny.threads import one_thread


@configured
class EigenCam:
    """Eigen-CAM; v_1 is taken with the sign for which the map's sum is positive. One forward pass per image.

    Args:
        name: the NAME of ``method=NAME``.
        centred: subtract each channel's mean first, as pytorch-grad-cam does.
    """

    needs_layer: ClassVar[bool] = True

    name: str = "eigencam"
    centred: bool = False

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); the same map for every class."""
        low = torch.stack([self._project(engine.activations(image[None])[0][0].float()) for image in images])
        return Explanation(upsample(low.clamp(min=0), images.shape[-2:]))

    @one_thread
    def _project(self, activation: Tensor) -> Tensor:
        positions = activation.flatten(1).t()
        if self.centred:
            positions = positions - positions.mean(0)
        _, _, directions = torch.linalg.svd(positions, full_matrices=False)
        # The sum of centred maps is 0, so that the sign comes from the raw activation's projection.
        sign = torch.sign((activation.flatten(1).t() @ directions[0]).sum())
        return (sign * (positions @ directions[0])).reshape(activation.shape[1:])
