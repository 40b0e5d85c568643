"""Intervals against theory; comparisons against scipy, published examples and simulated nulls."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from metrics.statistics import holm, mean_interval, paired, rank_comparison


def test_the_interval_of_many_values_is_the_normal_one() -> None:
    values = np.random.default_rng(0).exponential(size=2000)
    found = mean_interval(values.tolist())
    half = 1.96 * values.std(ddof=1) / np.sqrt(2000)
    assert found["n"] == 2000
    assert found["mean"] == pytest.approx(values.mean())
    np.testing.assert_allclose(found["ci95"], [values.mean() - half, values.mean() + half], rtol=0.01)


def test_two_values_by_hand() -> None:
    # resamples of (0, 1) have means 0, 1/2, 1 with probabilities 1/4, 1/2, 1/4
    assert mean_interval([0.0, 1.0]) == {"mean": 0.5, "ci95": [0.0, 1.0], "n": 2}


def test_the_same_values_have_the_same_interval() -> None:
    values = [0.1, 0.5, 0.25, 0.75]
    assert mean_interval(values) == mean_interval(list(values))


def test_intervals_that_are_not_defined() -> None:
    assert mean_interval([]) == {"mean": None, "ci95": [None, None], "n": 0}
    assert mean_interval([0.25]) == {"mean": 0.25, "ci95": [None, None], "n": 1}
    assert mean_interval([0.25] * 5) == {"mean": 0.25, "ci95": [0.25, 0.25], "n": 5}


def test_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(200):
        low, high = mean_interval(rng.normal(size=40).tolist())["ci95"]  # type: ignore[misc]
        covered += low <= 0 <= high
    assert 180 <= covered <= 198  # 95% nominal; the percentile bootstrap of 40 values covers a little less


# differences of height, cross- minus self-fertilised (Darwin 1876), the usual example of the signed-rank test
DARWIN = [6, 8, 14, 16, 23, 24, 28, 29, 41, -48, 49, 56, 60, -67, 75]

# AUC of four decision trees on 14 data sets: Demšar, JMLR 2006, table 6 (which ranks the two .975 as different)
DEMSAR = np.array([
    [0.763, 0.768, 0.771, 0.798], [0.599, 0.591, 0.590, 0.569], [0.954, 0.971, 0.968, 0.967], [0.628, 0.661, 0.654, 0.657],
    [0.882, 0.888, 0.886, 0.898], [0.936, 0.931, 0.916, 0.931], [0.661, 0.668, 0.609, 0.685], [0.583, 0.583, 0.563, 0.625],
    [0.775, 0.838, 0.866, 0.875], [1.000, 1.000, 1.000, 1.000], [0.940, 0.962, 0.965, 0.962], [0.619, 0.666, 0.614, 0.669],
    [0.972, 0.981, 0.97501, 0.975], [0.957, 0.978, 0.946, 0.970],
])  # fmt: skip


def test_darwins_plants() -> None:
    found = paired(DARWIN, [0.0] * 15)
    # ranks of |d|: -48 has 10, -67 has 14: W- = 24, W+ = 96; p as tabulated for n = 15
    assert found["effect"] == pytest.approx((96 - 24) / 120)
    assert found["p"] == pytest.approx(0.041259765625)
    assert found["mean"] == pytest.approx(np.mean(DARWIN))
    low, high = found["ci95"]
    independent = stats.bootstrap((np.array(DARWIN, float),), np.mean, method="percentile", n_resamples=20000, rng=3)
    np.testing.assert_allclose([low, high], independent.confidence_interval, atol=0.7)
    mirrored = paired([0.0] * 15, DARWIN)
    assert mirrored["effect"] == -found["effect"]
    assert mirrored["p"] == found["p"]


def test_pairs_without_difference_say_nothing() -> None:
    assert paired([0.5] * 3, [0.5] * 3) == {"mean": 0.0, "ci95": [0.0, 0.0], "n": 3, "p": 1.0, "effect": 0.0}
    some = paired([1.0, 2.0, 3.0, 4.0, 5.0, 9.0], [1.0, 1.0, 1.0, 1.0, 1.0, 1.0])
    assert some["p"] == pytest.approx(2 / 2**5)  # five differences, all positive
    assert some["effect"] == 1.0
    assert paired([0.1 + 0.2], [0.3]) == {"mean": 0.0, "ci95": [None, None], "n": 1, "p": None, "effect": None}
    assert paired([0.1 + 0.2, 1.0], [0.3, 1.0])["p"] == 1.0  # a rounding is no difference
    assert paired([], [])["p"] is None
    with pytest.raises(ValueError, match="not paired"):
        paired([1.0], [1.0, 2.0])


@pytest.mark.parametrize("differences", [[1, 1, 1, -1, 1, 1], [1, -1, 2, 2, 3, 0, 0], [0.5, 0.5], [1] * 9 + [-1] * 5])
def test_tied_differences_as_scipy_has_them(differences: list[float]) -> None:
    found = paired(differences, [0.0] * len(differences))["p"]
    assert found == pytest.approx(stats.wilcoxon([d for d in differences if d]).pvalue)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1: .04 .06 .06 .04, made monotone; in the given order
    np.testing.assert_allclose(holm([0.04, 0.01, 0.03, 0.02]), [0.06, 0.04, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9, 0.001]), [1.0, 1.0, 0.003])
    assert holm([]) == []


def test_demsars_decision_trees() -> None:
    found = rank_comparison(DEMSAR, higher_is_better=True)
    np.testing.assert_allclose(found["ranks"], [3.143, 2.000, 2.893, 1.964], atol=5e-4)
    assert found["critical_difference"] == pytest.approx(2.569 * np.sqrt(4 * 5 / (6 * 14)), abs=1e-3)
    # 9.28 in the paper, whose formula leaves the ties out of account
    assert 12 * 14 / 20 * (np.square(found["ranks"]).sum() - 4 * 25 / 4) == pytest.approx(9.28, abs=0.005)
    assert (found["chi2"], found["p"]) == pytest.approx(stats.friedmanchisquare(*DEMSAR.T))
    lower = rank_comparison(-DEMSAR, higher_is_better=False)
    assert lower["ranks"] == found["ranks"]


@pytest.mark.parametrize(("k", "q"), [(3, 2.343), (5, 2.728), (10, 3.164)])
def test_nemenyis_critical_values(k: int, q: float) -> None:
    values = np.random.default_rng(k).normal(size=(20, k))
    difference = rank_comparison(values, higher_is_better=True)["critical_difference"]
    assert difference == pytest.approx(q * np.sqrt(k * (k + 1) / 120), abs=1e-3)  # Demšar's table 5


def test_methods_that_are_all_the_same() -> None:
    found = rank_comparison(np.ones((5, 3)), higher_is_better=True)
    assert found["ranks"] == [2.0, 2.0, 2.0]
    assert found["p"] == 1.0


def test_false_positives_are_at_their_nominal_rate() -> None:
    """Four methods that differ by noise only, 400 times: at level .05 a test is wrong in 8 to 35 of 400 (99.8 %)."""
    rng = np.random.default_rng(0)
    assert stats.binom.interval(0.998, 400, 0.05) == (8, 35)
    single = family = interval = friedman = 0
    for _ in range(400):
        values = rng.exponential(size=(30, 1)) + rng.normal(size=(30, 4))  # much of the variance is the images'
        found = [paired(values[:, 0], values[:, i]) for i in (1, 2)]
        p = [f["p"] for f in found]
        single += p[0] < 0.05
        family += min(holm(p)) < 0.05
        low, high = found[0]["ci95"]
        interval += not low <= 0 <= high
        friedman += rank_comparison(values, higher_is_better=True)["p"] < 0.05
    assert 8 <= single <= 35
    assert 4 <= family <= 35  # Holm is on the safe side, the more so for correlated tests
    assert 8 <= interval <= 42  # the percentile bootstrap of 30 values covers a little less
    assert 8 <= friedman <= 35


def test_a_real_difference_is_found() -> None:
    rng = np.random.default_rng(1)
    image = rng.normal(size=80)
    a, b = image + rng.normal(scale=0.1, size=80), image - 0.05 + rng.normal(scale=0.1, size=80)
    found = paired(a, b)
    assert found["p"] < 0.01
    assert found["ci95"][0] > 0
    assert found["effect"] > 0.3
    assert stats.ttest_ind(a, b).pvalue > 0.5  # unpaired, the images' own differences hide it
