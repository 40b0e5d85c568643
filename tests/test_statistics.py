"""Intervals against theory."""

from __future__ import annotations

import numpy as np
import pytest

from metrics.statistics import mean_interval


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
