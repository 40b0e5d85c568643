"""Sanity check: does the map change when the network's weights are randomised, layer after layer from the output down?

The layers with weights are randomised cumulatively (each with its own seed, the classifier first), in a few stages; at each
the image is explained again for the same class and compared with the original map by Spearman's rank correlation and by
SSIM (of the min-max normalised maps). A map that stays the same does not come from what the network has learnt.

Two controls are recorded with it: the identical network explained again (1 for a deterministic method), and the same with
another seed, the method's own noise floor.

Adebayo et al., "Sanity Checks for Saliency Maps", NeurIPS 2018, section 3. SSIM: Wang et al., 2004 (scikit-image).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from metrics.base import BaseMetric, Case
from metrics.statistics import Entry, mean_interval
from suny.configured import Seed, configured
from suny.explanation import min_max
from suny.later import Later
from suny.threads import one_thread

if TYPE_CHECKING:
    from scipy import stats
    from skimage import metrics as similarities
else:
    stats = Later("scipy.stats")
    similarities = Later("skimage.metrics")

CONTROLS = ("identical", "other seed")


@configured
class Sanity(BaseMetric):
    """Mean Spearman correlation with the original map over the stages; low where the map depends on the weights.

    Recorded for each image: Spearman and SSIM at each stage and for both controls.

    Args:
        stages: how many, evenly spread over the layers; the last one has all of them randomised.
        seed: draws the weights.
    """

    name = "sanity"
    label = "similarity after randomisation"
    low = -1.0
    higher_is_better = False
    unit = "Spearman's rank correlation"
    reference = "Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018, section 3"
    needs = frozenset({"explain"})

    stages: Annotated[int, Field(ge=1)] = 5
    seed: Seed = 0

    def measure(self, case: Case) -> dict[str, list[float | None]] | None:
        if case.explain is None:
            return None
        stages = {
            CONTROLS[0]: similarity(case.saliency, case.explain(case.engine, case.seed)),
            CONTROLS[1]: similarity(case.saliency, case.explain(case.engine, case.seed + 1)),
        }
        for layer, engine in case.engine.cascade(self.stages, self.seed):
            stages[layer] = similarity(case.saliency, case.explain(engine, case.seed))
        return {stage: list(pair) for stage, pair in stages.items()}

    def summarise(self, values: Sequence[Any], classes: Sequence[Any]) -> Entry:
        """Mean over images and stages; ``stages``: for each its mean Spearman and SSIM with intervals; ``undefined``: how many
        maps had no ranks (constant ones), over images and stages."""
        names = list(values[0]) if values else []
        stages = {
            name: {
                what: mean_interval([v[name][at] for v in values if v[name][at] is not None])
                for at, what in enumerate(("spearman", "ssim"))
            }
            for name in names
        }
        means = [m for m in self.each(values, classes) if m is not None]
        undefined = sum(pair[0] is None for v in values for pair in v.values())
        return mean_interval(means) | {"stages": stages, "undefined": undefined}

    def each(self, values: Sequence[Any], classes: Sequence[Any]) -> list[float | None]:
        """The mean over the stages; None where no map has ranks."""
        means: list[float | None] = []
        for value in values:
            known = [pair[0] for name, pair in value.items() if name not in CONTROLS and pair[0] is not None]
            means.append(float(np.mean(known)) if known else None)
        return means


def similarity(one: Tensor, other: Tensor) -> tuple[float | None, float | None]:
    """Spearman's correlation and SSIM of two maps (H, W); None where a map is constant, which has no ranks."""
    a, b = (x.double().cpu().numpy() for x in (one, other))
    return _spearman(a, b), _ssim(*(min_max(x[None].double())[0].cpu().numpy() for x in (one, other)))


@one_thread
def _spearman(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        value = float(stats.spearmanr(a.ravel(), b.ravel()).statistic)
    return None if np.isnan(value) else value


def _ssim(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    if min(a.shape) < 7 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(similarities.structural_similarity(a, b, data_range=1.0))
