"""Saliency attack (ours): is the class easier to attack where the map says it is?

An attack that may change pixels by at most epsilon, restricted to the q % most salient pixels, and the same attack on
the q % least salient ones; projected gradient descent on log p_c (Madry et al., ICLR 2018) from the image itself, with signed
steps. With D the relative drop of p_c,

    score = D(most salient) / D(least salient)

Both drops are in the record. The source of the published tables' column of this name is not public: the numbers do not compare.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field

from metrics.base import BaseMetric, Case
from suny.configured import configured

# A drop below this divides nothing.
_SMALLEST = 1e-3


@configured
class SaliencyAttack(BaseMetric):
    """Ratio of two drops; deterministic.

    Args:
        q: the percentage of the pixels that an attack may change.
        epsilon: largest change of a pixel's channel, in units of the normalised image (.1 is about 6 of 255).
        steps: how many steps the descent takes, each of 2.5 * epsilon / steps.
    """

    name = "saliency_attack"
    label = "saliency attack (ours)"
    high = 1 / _SMALLEST
    higher_is_better = True
    unit = "ratio of relative drops"
    reference = "ours: metrics/attack.py"

    q: Annotated[float, Field(gt=0, le=50)] = 10.0
    epsilon: Annotated[float, Field(gt=0)] = 0.1
    steps: Annotated[int, Field(ge=1)] = 5

    def measure(self, case: Case) -> float | None:
        if case.p <= 0:
            return None
        count = round(self.q / 100 * case.pixels)
        rank = case.rank()
        free = torch.stack([rank < count, rank >= case.pixels - count])[:, None]  # (2, 1, H, W)
        attacked = case.image.expand(2, -1, -1, -1).clone()
        step = 2.5 * self.epsilon / self.steps
        for _ in range(self.steps):
            gradient = case.engine.input_gradient(attacked, case.target, "log_probability")
            change = (attacked - step * gradient.sign() - case.image).clamp(-self.epsilon, self.epsilon)
            attacked = case.image + change * free
        after = case.score(2, attacked.__getitem__).tolist()
        most, least = ((case.p - p) / case.p for p in after)
        case.notes["attack_drop_most_salient"], case.notes["attack_drop_least_salient"] = most, least
        return max(most, 0.0) / max(least, _SMALLEST)
