"""Means with intervals over images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RESAMPLES = 9999
_SEED = 0  # the interval of the same values is the same everywhere

Entry = dict[str, Any]  # mean, ci95 [low, high], n, and what else a metric has to say


def mean_interval(values: Sequence[float], level: float = 0.95) -> Entry:
    """Mean and percentile bootstrap interval over images.

    Args:
        values: one for each image.
        level: of the interval.

    Returns: ``mean``, ``ci95`` [low, high] and ``n``; None where they are not defined (no value; one value has no interval).
    """
    data = np.asarray(values, dtype=np.float64)
    n = len(data)
    if n < 2:
        return _without_interval(float(data[0]) if n else None, n)
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
    return {"mean": float(data.mean()), "ci95": [float(interval.low), float(interval.high)], "n": n}


def class_mean_interval(values: Sequence[float], classes: Sequence[Any], level: float = 0.95) -> Entry:
    """Mean over classes of the classes' means, with a percentile bootstrap interval over images.

    Args:
        values: one for each image.
        classes: the class of each; classes without images (in a resample too) are left out, not counted as 0.
        level: of the interval.

    Returns: as :func:`mean_interval`, and ``classes``, their number.
    """
    data = np.asarray(values, dtype=np.float64)
    _, members = np.unique(np.asarray([str(c) for c in classes]), return_inverse=True)
    n, count = len(data), int(members.max()) + 1 if len(data) else 0

    def of(rows: NDArray[np.int64]) -> float:
        sums = np.bincount(members[rows], data[rows], count)
        sizes = np.bincount(members[rows], minlength=count)
        return float((sums[sizes > 0] / sizes[sizes > 0]).mean())

    if n < 2:
        return _without_interval(float(data[0]) if n else None, n) | {"classes": count}
    return {"mean": of(np.arange(n)), "ci95": _resampled(of, n, level), "n": n, "classes": count}


def maximum_interval(right: NDArray[np.bool_], level: float = 0.95) -> Entry:
    """The best threshold's share of right images, averaged over criteria.

    The interval is over images; each resample has a best threshold of its own.

    Args:
        right: (criteria, images, thresholds).
        level: of the interval.

    Returns: as :func:`mean_interval`, and for each criterion the ``threshold`` (its index) that is best, and the ``curve``,
        the share at every tenth threshold.
    """
    n = right.shape[1]
    if n == 0:
        return _without_interval(None, 0)
    share = right.mean(1)  # (criteria, thresholds)
    best = {"threshold": share.argmax(1).tolist(), "curve": share[:, ::10].round(6).tolist()}
    value = float(share.max(1).mean())
    if n < 2:
        return _without_interval(value, n) | best
    # thresholds at which the same images are right are one
    columns = [np.unique(criterion, axis=1).astype(np.float32) for criterion in right]

    def of(rows: NDArray[np.int64]) -> float:
        weight = np.bincount(rows, minlength=n).astype(np.float32)
        return float(np.mean([(weight @ column).max() / n for column in columns]))

    return {"mean": value, "ci95": _resampled(of, n, level, resamples=999), "n": n} | best


def _resampled(of: Any, n: int, level: float, resamples: int = RESAMPLES) -> list[float]:
    rng = np.random.default_rng(_SEED)
    values = [of(rng.integers(n, size=n)) for _ in range(resamples)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def _without_interval(mean: float | None, n: int) -> Entry:
    return {"mean": mean, "ci95": [None, None], "n": n}
