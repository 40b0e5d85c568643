"""Means with intervals over images, and methods compared image by image.

Two methods are compared on the images that both have (the differences' mean with its bootstrap interval, Wilcoxon's signed
ranks, the matched-pairs rank-biserial correlation as the size of the effect), several at once by their ranks on each image:
Friedman's test and Nemenyi's critical difference (Demšar, "Statistical comparisons of classifiers over multiple data sets",
JMLR 2006).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from suny.later import Later
from suny.threads import one_thread

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")

RESAMPLES = 9999
_SEED = 0  # the interval of the same values is the same everywhere
_ENUMERATED = 13  # differences; beyond, scipy too takes the normal approximation where there are ties
_ROUNDING = 12  # decimals; smaller differences come from the order of summation

Entry = dict[str, Any]  # mean, ci95 [low, high], n, and further keys of a metric's own


def mean_interval(values: Sequence[float], level: float = 0.95) -> Entry:
    """Mean and percentile bootstrap interval over images.

    Args:
        values: one for each image.
        level: the confidence level of the interval.

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


@one_thread
def mean_band(curves: NDArray[np.float64], level: float = 0.95) -> tuple[NDArray[np.float64], ...]:
    """Mean curve and pointwise percentile bootstrap interval over images.

    Args:
        curves: (images, points).
        level: the confidence level of the interval.

    Returns: mean, low and high, (points,); of one image all three are its curve.
    """
    n = len(curves)
    counts = np.random.default_rng(_SEED).multinomial(n, np.full(n, 1 / n), size=999)
    low, high = np.quantile(counts @ curves / n, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return curves.mean(0), low, high


def class_mean_interval(values: Sequence[float], classes: Sequence[Any], level: float = 0.95) -> Entry:
    """Mean over classes of the classes' means, with a percentile bootstrap interval over images.

    Args:
        values: one for each image.
        classes: the class of each; classes without images (in a resample too) are left out, not counted as 0.
        level: the confidence level of the interval.

    Returns: as :func:`mean_interval`, and ``classes``, their number.
    """
    data = np.asarray(values, dtype=np.float64)
    _, members = np.unique(np.asarray([str(c) for c in classes]), return_inverse=True)
    n, count = len(data), int(members.max()) + 1 if len(data) else 0

    def statistic(rows: NDArray[np.int64]) -> float:
        sums = np.bincount(members[rows], data[rows], count)
        sizes = np.bincount(members[rows], minlength=count)
        return float((sums[sizes > 0] / sizes[sizes > 0]).mean())

    if n < 2:
        return _without_interval(float(data[0]) if n else None, n) | {"classes": count}
    return {"mean": statistic(np.arange(n)), "ci95": _resample(statistic, n, level), "n": n, "classes": count}


def maximum_interval(right: NDArray[np.bool_], level: float = 0.95) -> Entry:
    """The best threshold's share of right images, averaged over criteria.

    The thresholds that are best for these images stay the same in all resamples. If each resample had a best threshold of its
    own, every one of them would add the optimism of its choice, and the interval would lie above the mean. The optimism of
    the one choice that the mean itself makes stays in both; it is small where there are many images (the test of the coverage
    has 60).

    Args:
        right: (criteria, images, thresholds).
        level: the confidence level of the interval.

    Returns: as :func:`mean_interval`, and for each criterion the ``threshold`` (its index) that is best, and the ``curve``,
        the share at every tenth threshold.
    """
    if right.shape[1] == 0:
        return _without_interval(None, 0)
    share = right.mean(1)  # (criteria, thresholds)
    best = share.argmax(1)
    each = right[np.arange(len(right)), :, best].mean(0)
    return mean_interval(each.tolist(), level) | {"threshold": best.tolist(), "curve": share[:, ::10].round(6).tolist()}


def paired(a: Sequence[float], b: Sequence[float]) -> Entry:
    """a - b, image by image.

    Args:
        a, b: one number per image, of the same images in the same order.

    Returns: ``mean``, ``ci95`` and ``n`` of the differences as in :func:`mean_interval`; ``p``, two-sided, of Wilcoxon's
        signed-rank test (images without a difference are left out, as in Wilcoxon's paper); ``effect``, the rank-biserial
        correlation (W+ - W-) / (W+ + W-) in [-1, 1], 1 where a is larger on every image. Without a single difference p is 1 and
        the effect 0; without two images both are None.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values are not paired")
    differences = (np.asarray(a, np.float64) - np.asarray(b, np.float64)).round(_ROUNDING)
    entry = mean_interval(differences.tolist())
    moved = differences[differences != 0]
    if len(differences) < 2:
        return entry | {"p": None, "effect": None}
    if not len(moved):
        return entry | {"p": 1.0, "effect": 0.0}
    ranks = stats.rankdata(np.abs(moved))
    effect = float((ranks * np.sign(moved)).sum() / ranks.sum())
    return entry | {"p": _signed_rank_p(moved, ranks), "effect": effect}


def comparable(metric: Any, columns: Sequence[Sequence[Any]], classes: Sequence[Any]) -> list[list[float]] | None:
    """The values of several methods as one number per image, of the images on which all methods have one.

    Args:
        metric: what was measured; None for a cost, or for a metric that is not known here.
        columns: for each method its values, of the same images in the same order; None where there is none.
        classes: the class of each image.

    Returns: a list for each method; None where the metric is no number per image.
    """
    each = getattr(metric, "each", None)
    if hasattr(metric, "summarise") and each is None:
        return None
    known = [at for at in range(len(classes)) if all(column[at] is not None for column in columns)]
    values = [[column[at] for at in known] for column in columns]
    if each:
        values = [each(column, [classes[at] for at in known]) for column in values]
    elif any(not isinstance(v, Real) for column in values for v in column):
        return None
    both = [row for row in zip(*values, strict=True) if all(v is not None for v in row)]
    return [[float(row[at]) for row in both] for at in range(len(columns))]


@one_thread
def _signed_rank_p(moved: NDArray[np.float64], ranks: NDArray[np.float64]) -> float:
    """The two-sided p of Wilcoxon's signed-rank test; few differences with ties are enumerated by all 2^n signs, as in
    scipy, but thousands of times faster."""
    n = len(moved)
    if n > _ENUMERATED or len(np.unique(ranks)) == n:
        return float(stats.wilcoxon(moved).pvalue)
    sums = ((np.arange(2**n)[:, None] >> np.arange(n)) & 1) @ ranks
    observed = ranks[moved > 0].sum()
    return float(min(1.0, 2 * min((sums >= observed).mean(), (sums <= observed).mean())))


def holm(p: Sequence[float]) -> list[float]:
    """Holm's adjustment of several p-values (Scandinavian Journal of Statistics, 1979), in their order.

    The probability of one false positive or more among the hypotheses with an adjusted p below a level is below that level.
    """
    order = np.argsort(p, kind="stable")
    steps = np.asarray(p, np.float64)[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(steps)) if len(p) else steps
    return adjusted.tolist()


def rank_comparison(values: NDArray[np.float64], higher_is_better: bool, level: float = 0.95) -> Entry:
    """Several methods by their ranks on each image.

    Args:
        values: (images, methods), at least 2 x 3.
        higher_is_better: rank 1 is the largest value; otherwise the smallest.
        level: the confidence level of the critical difference.

    Returns: ``ranks``, the average rank of each method (equal values share theirs); ``chi2`` and ``p`` of Friedman's test;
        ``critical_difference``: average ranks that are further apart differ (Nemenyi; Demšar's equation for CD).
    """
    n, k = values.shape
    rounded = values.round(_ROUNDING)
    ranks = stats.rankdata(-rounded if higher_is_better else rounded, axis=1)
    if (ranks == ranks[0, 0]).all():  # all methods have the same rank on every image
        chi2, p = 0.0, 1.0
    else:
        chi2, p = (float(x) for x in stats.friedmanchisquare(*rounded.T))
    q = float(stats.studentized_range.ppf(level, k, np.inf)) / np.sqrt(2)
    return {
        "ranks": ranks.mean(0).tolist(),
        "chi2": chi2,
        "p": p,
        "critical_difference": float(q * np.sqrt(k * (k + 1) / (6 * n))),
        "n": n,
    }


def _resample(statistic: Callable[[NDArray[np.int64]], float], n: int, level: float) -> list[float]:
    rng = np.random.default_rng(_SEED)
    values = [statistic(rng.integers(n, size=n)) for _ in range(RESAMPLES)]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return [float(low), float(high)]


def _without_interval(mean: float | None, n: int) -> Entry:
    return {"mean": mean, "ci95": [None, None], "n": n}
