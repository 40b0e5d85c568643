"""Means with intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

RESAMPLES = 9999
_SEED = 0  # the interval of the same values is the same everywhere


def mean_interval(values: Sequence[float], level: float = 0.95) -> dict[str, object]:
    """Mean and percentile bootstrap interval over images.

    Args:
        values: one for each image.
        level: of the interval.

    Returns: ``mean``, ``ci95`` [low, high] and ``n``; None where they are not defined (no value; one value has no interval).
    """
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if n == 0:
        return {"mean": None, "ci95": [None, None], "n": 0}
    mean = float(data.mean())
    if n == 1:
        return {"mean": mean, "ci95": [None, None], "n": 1}
    result = stats.bootstrap(
        (data,),
        np.mean,
        confidence_level=level,
        n_resamples=RESAMPLES,
        batch=max(1, 10_000_000 // n),
        method="percentile",
        rng=np.random.default_rng(_SEED),
    )
    interval = result.confidence_interval
    return {"mean": mean, "ci95": [float(interval.low), float(interval.high)], "n": n}
