"""Scores that are crossed by network, image and method: do orders agree, and where does the variance come from?

All intervals are percentile intervals over resampled images, the same ones for every network and method; networks and methods
are those that there are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from metrics.statistics import RESAMPLES

Floats = NDArray[np.float64]

_SEED = 0  # the interval of the same scores is the same everywhere
_ROUNDING = 12  # decimals; smaller differences come from the order of summation
_LEVEL = 0.95

# What a score's variance is divided into; the last one is the rest, in which the interaction of all three is.
COMPONENTS = ("network", "image", "method", "network x image", "network x method", "image x method", "rest")


@dataclass(frozen=True)
class Estimate:
    """A number and its interval over images; None where it is not defined."""

    value: float | None
    low: float | None
    high: float | None


def agreement(a: Floats, b: Floats) -> Estimate:
    """Kendall's tau-b of the methods' order by their means on two networks.

    Args:
        a, b: scores of the same images and methods, (images, methods), of each network.

    Returns: -1 to 1; None where all methods are tied on a network, no interval where a resample has such a tie.
    """
    tau = kendall(a.mean(0), b.mean(0))
    draws = [kendall(w @ a / len(a), w @ b / len(b)) for w in resampled(len(a))]
    return Estimate(None if np.isnan(tau) else float(tau), *_limits(np.concatenate(draws)))


def kendall(a: Floats, b: Floats) -> Floats:
    """Kendall's tau-b (Kendall, Biometrika 1945) of pairs of rows, (..., m) each; NaN where all values of one are tied."""
    first, second = np.triu_indices(a.shape[-1], 1)
    one, other = (np.sign((x[..., first] - x[..., second]).round(_ROUNDING)) for x in (a, b))
    with np.errstate(invalid="ignore"):
        return (one * other).sum(-1) / np.sqrt((one**2).sum(-1) * (other**2).sum(-1))


def differences(scores: Floats) -> list[list[Estimate]]:
    """Each method minus each other one, image by image: mean and interval.

    Args:
        scores: (images, methods).

    Returns: by the first method and the second.
    """
    n, count = scores.shape
    means = scores.mean(0)
    drawn = np.concatenate([w @ scores / n for w in resampled(n)])
    found = [[Estimate(0.0, 0.0, 0.0)] * count for _ in range(count)]
    for i, j in itertools.permutations(range(count), 2):
        found[i][j] = Estimate(float(means[i] - means[j]), *_limits((drawn[:, i] - drawn[:, j]).round(_ROUNDING)))
    return found


@dataclass(frozen=True)
class Components:
    """The variance of a score: the components, as they are estimated (below 0 where there is nothing), and their shares.

    A share is that of the sum of all components, those below 0 taken as 0.
    """

    variances: dict[str, float]
    shares: dict[str, Estimate]


def variance_components(scores: Floats) -> Components:
    """Variance components of a balanced three-way crossed design with random effects and one score a cell, by moments.

    With a networks, n images and m methods the mean squares of the analysis of variance have the expectations

        E[MS_rest]             = s2_rest
        E[MS_network x image]  = s2_rest + m s2_network x image                             and so on for the other two
        E[MS_network]          = s2_rest + m s2_network x image + n s2_network x method + n m s2_network   and so on

    which are solved for the components (Searle, Casella, McCulloch, "Variance Components", 1992, chapter 4).

    Args:
        scores: (networks, images, methods), two of each at least.
    """
    estimated = _components(scores, np.ones((1, scores.shape[1])))[:, 0]
    drawn = np.concatenate([_components(scores, w) for w in resampled(scores.shape[1])], axis=1)
    own, each = _shares(estimated), _shares(drawn)
    return Components(
        dict(zip(COMPONENTS, map(float, estimated), strict=True)),
        {
            name: Estimate(None if np.isnan(own[at]) else float(own[at]), *_limits(each[at]))
            for at, name in enumerate(COMPONENTS)
        },
    )


def _components(scores: Floats, weights: Floats) -> Floats:
    """The components, (7, r), with each of r weightings of the images, (r, n): how often each of them was drawn."""
    a, n, m = scores.shape
    y = scores - scores.mean()  # sums of squares are differences of large numbers otherwise
    by_network_method = np.einsum("ri,aim->ram", weights, y) / n
    grand = by_network_method.mean((1, 2))
    # sums of squares of the means over the factors that a name leaves out, for each score
    network = n * m * (by_network_method.mean(2) ** 2).sum(1)
    method = n * a * (by_network_method.mean(1) ** 2).sum(1)
    network_method = n * (by_network_method**2).sum((1, 2))
    image = a * m * (weights @ y.mean((0, 2)) ** 2)
    network_image = m * (weights @ (y.mean(2) ** 2).sum(0))
    image_method = a * (weights @ (y.mean(0) ** 2).sum(1))
    total = weights @ (y**2).sum((0, 2))
    all_same = n * a * m * grand**2
    squares = {
        "n": (network - all_same) / (a - 1),
        "i": (image - all_same) / (n - 1),
        "m": (method - all_same) / (m - 1),
        "ni": (network_image - network - image + all_same) / ((a - 1) * (n - 1)),
        "nm": (network_method - network - method + all_same) / ((a - 1) * (m - 1)),
        "im": (image_method - image - method + all_same) / ((n - 1) * (m - 1)),
        "rest": (total - network_image - network_method - image_method + network + image + method - all_same)
        / ((a - 1) * (n - 1) * (m - 1)),
    }
    s = squares
    return np.stack(
        [
            (s["n"] - s["ni"] - s["nm"] + s["rest"]) / (n * m),
            (s["i"] - s["ni"] - s["im"] + s["rest"]) / (a * m),
            (s["m"] - s["nm"] - s["im"] + s["rest"]) / (a * n),
            (s["ni"] - s["rest"]) / m,
            (s["nm"] - s["rest"]) / n,
            (s["im"] - s["rest"]) / a,
            s["rest"],
        ]
    )


def _shares(components: Floats) -> Floats:
    kept = components.round(_ROUNDING).clip(min=0)
    with np.errstate(invalid="ignore"):
        return kept / kept.sum(0)


def resampled(n: int) -> Iterator[Floats]:
    """How often each of n images is drawn in a resample, (r, n), in parts of bounded memory."""
    rng = np.random.default_rng(_SEED)
    part = max(1, 10_000_000 // n)
    for start in range(0, RESAMPLES, part):
        count = min(part, RESAMPLES - start)
        drawn = rng.integers(n, size=(count, n)) + n * np.arange(count)[:, None]
        yield np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n).astype(np.float64)


def _limits(drawn: Floats) -> tuple[float | None, float | None]:
    if np.isnan(drawn).any():
        return None, None
    low, high = np.quantile(drawn, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2])
    return float(low), float(high)
