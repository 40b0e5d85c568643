"""Orders and variance components of crossed scores: by hand, by enumeration, by scipy, and by simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.studies import crossed
from experiments.studies.crossed import COMPONENTS, agreement, differences, kendall, resampled, variance_components
from metrics.statistics import RESAMPLES, paired

SIGNS = np.array([-1.0, 1.0])
NETWORK, IMAGE, METHOD = SIGNS[:, None, None], SIGNS[None, :, None], SIGNS[None, None, :]


@pytest.mark.parametrize("seed", range(5))
def test_kendalls_tau_is_scipys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = rng.integers(0, 4, (2, 9)).astype(float)  # with ties
    assert kendall(a, b) == pytest.approx(stats.kendalltau(a, b).statistic, abs=1e-12)
    several = rng.normal(size=(2, 6, 7))
    expected = [stats.kendalltau(x, y).statistic for x, y in zip(*several, strict=True)]
    np.testing.assert_allclose(kendall(*several), expected, rtol=0, atol=1e-12)


def test_agreement_of_an_order_that_every_image_has() -> None:
    scores = np.arange(5.0) + np.arange(8.0)[:, None]
    same = agreement(scores, 3 * scores)
    assert (same.value, same.low, same.high) == (1.0, 1.0, 1.0)
    reverse = agreement(scores, -scores)
    assert (reverse.value, reverse.low, reverse.high) == (-1.0, -1.0, -1.0)
    tied = agreement(scores, np.ones_like(scores))
    assert (tied.value, tied.low, tied.high) == (None, None, None)


def test_agreements_interval_by_enumeration() -> None:
    """Three images have 27 equally likely resamples."""
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=(2, 3, 6))
    taus = np.sort(
        [
            stats.kendalltau(a[list(drawn)].mean(0), b[list(drawn)].mean(0)).statistic
            for drawn in itertools.product(range(3), repeat=3)
        ]
    )
    found = agreement(a, b)
    assert found.value == pytest.approx(stats.kendalltau(a.mean(0), b.mean(0)).statistic)
    assert found.low == pytest.approx(taus[0])  # one in 27 is more than 2.5 %
    assert found.high == pytest.approx(taus[-1])


def test_differences_and_their_intervals_are_those_of_the_tables() -> None:
    scores = np.random.default_rng(0).normal(size=(12, 3))
    found = differences(scores)
    for i, j in itertools.permutations(range(3), 2):
        expected = paired(scores[:, i].tolist(), scores[:, j].tolist())
        assert found[i][j].value == pytest.approx(expected["mean"], abs=1e-12)
        assert [found[i][j].low, found[i][j].high] == pytest.approx(expected["ci95"], abs=1e-9)


def test_additive_effects_by_hand() -> None:
    """Effects of +-1, +-2, +-3 have the variances 2, 8, 18 (of two values, one degree of freedom), and nothing interacts."""
    found = variance_components(5.0 + NETWORK + 2 * IMAGE + 3 * METHOD)
    assert found.variances == pytest.approx(dict(zip(COMPONENTS, (2, 8, 18, 0, 0, 0, 0), strict=True)), abs=1e-9)
    assert [found.shares[name].value for name in COMPONENTS] == pytest.approx([2 / 28, 8 / 28, 18 / 28, 0, 0, 0, 0])


def test_an_interaction_by_hand() -> None:
    """Two by two by two, y = 3 s_network s_method: SS = 8 * 9 = 72 with one degree of freedom and all others 0, so that the
    interaction has 72 / 2 images = 36, network and method (0 - 72) / (2 * 2) = -18."""
    found = variance_components(3 * NETWORK * METHOD + 0 * IMAGE)
    by_hand = {
        "network": -18,
        "method": -18,
        "image": 0,
        "network x method": 36,
        "network x image": 0,
        "image x method": 0,
        "rest": 0,
    }
    assert found.variances == pytest.approx(by_hand, abs=1e-9)
    assert found.shares["network x method"].value == pytest.approx(1.0)
    assert found.shares["network"].value == 0.0


def test_the_interaction_of_all_three_is_the_rest_by_hand() -> None:
    """y = s s s: MS_rest = 8, of one degree of freedom; a two-way component (0 - 8) / 2, a main one (0 - 0 - 0 + 8) / 4."""
    found = variance_components(NETWORK * IMAGE * METHOD)
    assert [found.variances[name] for name in COMPONENTS] == pytest.approx([2, 2, 2, -4, -4, -4, 8])


def textbook(y: np.ndarray) -> list[float]:
    """The same components by effects: sums of squares of effects that are subtracted level by level."""
    a, n, m = y.shape
    grand = y.mean()
    net, img, met = (y.mean(axes) - grand for axes in ((1, 2), (0, 2), (0, 1)))
    ni = y.mean(2) - grand - net[:, None] - img
    nm = y.mean(1) - grand - net[:, None] - met
    im = y.mean(0) - grand - img[:, None] - met
    left = y - grand - net[:, None, None] - img[:, None] - met - ni[:, :, None] - nm[:, None, :] - im
    ms = {
        "n": n * m * (net**2).sum() / (a - 1),
        "i": a * m * (img**2).sum() / (n - 1),
        "m": a * n * (met**2).sum() / (m - 1),
        "ni": m * (ni**2).sum() / ((a - 1) * (n - 1)),
        "nm": n * (nm**2).sum() / ((a - 1) * (m - 1)),
        "im": a * (im**2).sum() / ((n - 1) * (m - 1)),
        "e": (left**2).sum() / ((a - 1) * (n - 1) * (m - 1)),
    }
    two = [(ms["ni"] - ms["e"]) / m, (ms["nm"] - ms["e"]) / n, (ms["im"] - ms["e"]) / a]
    one = [
        (ms["n"] - ms["e"]) / (n * m) - two[0] / n - two[1] / m,
        (ms["i"] - ms["e"]) / (a * m) - two[0] / a - two[2] / m,
        (ms["m"] - ms["e"]) / (a * n) - two[1] / a - two[2] / n,
    ]
    return [*one, *two, ms["e"]]


def drawn(rng: np.random.Generator, shape: tuple[int, int, int], variances: tuple[float, ...]) -> np.ndarray:
    """Scores with crossed random effects of these variances, in the order of the components."""
    a, n, m = shape
    sizes = ((a, 1, 1), (1, n, 1), (1, 1, m), (a, n, 1), (a, 1, m), (1, n, m), shape)
    return sum(np.sqrt(v) * rng.normal(size=size) for v, size in zip(variances, sizes, strict=True))


@pytest.mark.parametrize("shape", [(2, 3, 4), (3, 11, 5), (4, 6, 2)])
def test_components_are_the_textbooks(shape: tuple[int, int, int]) -> None:
    y = 100.0 + drawn(np.random.default_rng(1), shape, (1.0, 0.5, 2.0, 0.3, 0.2, 0.1, 0.4))
    found = variance_components(y)
    assert [found.variances[name] for name in COMPONENTS] == pytest.approx(textbook(y), abs=1e-9)
    kept = np.clip(textbook(y), 0, None)
    assert [found.shares[name].value for name in COMPONENTS] == pytest.approx(kept / kept.sum(), abs=1e-9)


def test_components_are_unbiased() -> None:
    rng = np.random.default_rng(7)
    truth = (1.0, 0.5, 2.0, 0.3, 0.2, 0.1, 0.4)
    each = np.array([crossed._components(drawn(rng, (3, 6, 5), truth), np.ones((1, 6)))[:, 0] for _ in range(3000)])
    error = each.std(0) / np.sqrt(len(each))
    assert (np.abs(each.mean(0) - truth) < 4 * error).all()


def test_weights_are_images_that_come_several_times() -> None:
    y = drawn(np.random.default_rng(2), (3, 4, 5), (1.0,) * 7)
    repeated = crossed._components(y[:, [0, 0, 2, 3]], np.ones((1, 4)))
    np.testing.assert_allclose(crossed._components(y, np.array([[2.0, 0, 1, 1]])), repeated, rtol=0, atol=1e-9)


def test_every_resample_draws_as_many_images_as_there_are() -> None:
    whole = np.concatenate(list(resampled(7)))
    assert whole.shape == (RESAMPLES, 7)
    assert (whole.sum(1) == 7).all()
    assert np.abs(whole.mean(0) - 1).max() < 0.05
    # a share of the variance is the same however often it is asked for
    y = drawn(np.random.default_rng(2), (2, 7, 5), (1.0,) * 7)
    assert variance_components(y) == variance_components(y.copy())


def test_scores_that_do_not_vary_have_no_shares() -> None:
    found = variance_components(np.full((2, 5, 3), 0.25))
    assert {share.value for share in found.shares.values()} == {None}
