"""Integrated gradients: the gradient of p_c along the straight path from a blank image, times the way.

    a = (I - I_0) * integral over t in [0, 1] of  d p_c / d I at I_0 + t (I - I_0)

Sundararajan, Taly, Yan, "Axiomatic Attribution for Deep Networks", ICML 2017, eq. 1. I_0 is 0 of the normalised image
(mean colour). The map is the positive part of the sum of a over the colours, which speaks for the class.
Implementation: captum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import torch
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation
from suny.later import Later

if TYPE_CHECKING:
    from captum import attr as captum
else:
    captum = Later("captum.attr")


@configured
class IntegratedGradients:
    """Integrated gradients; ``steps`` forward and backward passes per image.

    Args:
        name: the NAME of ``method=NAME``.
        steps: points of the integral (Gauss-Legendre).
    """

    name: str = "integrated_gradients"
    steps: Annotated[int, Field(ge=1)] = 50

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); deterministic, ``seeds`` are not used."""
        maps = []
        with engine.differentiable() as network:
            method = captum.IntegratedGradients(lambda x: engine.read(network(x)))
            for image, target in zip(images, targets.tolist(), strict=True):

                def integrated(image: Tensor = image, target: int = target) -> Tensor:
                    size = engine.gradient_batch_size
                    return method.attribute(image[None].clone(), target=target, n_steps=self.steps, internal_batch_size=size)

                maps.append(engine.fitting(integrated)[0].detach().float().sum(0).clamp(min=0))
        return Explanation(torch.stack(maps))
