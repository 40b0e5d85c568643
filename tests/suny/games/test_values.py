"""Shapley values from a table, against games solved by hand, captum, and the axioms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValues
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from suny.games.values import all_coalitions, interactions, semivalues, shapley, singles, size_weights


def tables(k: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.float64, 2**k, elements=st.floats(-10, 10, allow_nan=False))


def game(k: int, value: object) -> np.ndarray:
    return np.array([value(set(np.flatnonzero(row))) for row in all_coalitions(k)], dtype=float)  # type: ignore[operator]


def test_coalitions_are_the_bits_of_their_index() -> None:
    assert all_coalitions(3)[5].tolist() == [True, False, True]
    assert all_coalitions(0).shape == (1, 0)
    assert all_coalitions(4).sum() == 4 * 2**3


@pytest.mark.parametrize(
    ("k", "value", "expected"),
    [
        (2, lambda s: len(s) == 2, [1 / 2, 1 / 2]),  # AND
        (2, lambda s: len(s) >= 1, [1 / 2, 1 / 2]),  # OR: the same values, so they can't tell the two apart
        (3, lambda s: len(s) >= 2, [1 / 3] * 3),  # majority
        (3, lambda s: 0 in s and (1 in s or 2 in s), [2 / 3, 1 / 6, 1 / 6]),  # the glove game: one left, two right
        (3, lambda s: 2.0 * (0 in s) + 3.0 * (1 in s), [2, 3, 0]),  # additive, the third player is null
        (1, lambda s: 4.0 if s else 1.0, [3]),
        (4, lambda s: 12.0 * ({0, 1, 2} <= s), [4, 4, 4, 0]),  # unanimity of three
    ],
)
def test_games_solved_by_hand(k: int, value: object, expected: list[float]) -> None:
    np.testing.assert_allclose(shapley(game(k, value)), expected, atol=1e-15)


def test_singles_are_effects_over_the_empty_coalition() -> None:
    assert singles([1.0, 3.0, 2.5, 9.0]).tolist() == [2.0, 1.5]


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5])
def test_agrees_with_captum(k: int) -> None:
    table = np.random.default_rng(k).normal(size=2**k)

    def forward(present: torch.Tensor) -> torch.Tensor:
        index = (present.round().long() * 2 ** torch.arange(k)).sum(1)
        return torch.from_numpy(table)[index]

    theirs = ShapleyValues(forward).attribute(torch.ones(1, k, dtype=torch.float64), torch.zeros(1, k, dtype=torch.float64))
    np.testing.assert_allclose(shapley(table), theirs[0].numpy(), atol=1e-6)  # captum sums in float32


@given(tables(5))
def test_efficiency(v: np.ndarray) -> None:
    np.testing.assert_allclose(shapley(v).sum(), v[-1] - v[0], atol=1e-10)


@given(tables(4), tables(4), st.floats(-3, 3))
def test_linearity(v: np.ndarray, w: np.ndarray, a: float) -> None:
    np.testing.assert_allclose(shapley(v + a * w), shapley(v) + a * shapley(w), atol=1e-9)


@given(tables(4))
def test_null_player_gets_nothing(v: np.ndarray) -> None:
    without = np.arange(16) & ~0b0100
    np.testing.assert_allclose(shapley(v[without])[2], 0, atol=1e-12)


@given(tables(4), st.permutations(range(4)))
def test_renaming_the_players_renames_the_values(v: np.ndarray, order: list[int]) -> None:
    rows = all_coalitions(4)
    renamed = np.empty(16)
    for index, row in enumerate(rows):
        renamed[(row[order] * 2 ** np.arange(4)).sum()] = v[index]
    np.testing.assert_allclose(shapley(renamed), shapley(v)[order], atol=1e-10)


@given(tables(4))
def test_a_monotone_game_has_no_negative_value(v: np.ndarray) -> None:
    rows = all_coalitions(4)
    monotone = np.array([max(v[j] for j in range(16) if (rows[j] <= rows[i]).all()) for i in range(16)])
    assert (shapley(monotone) >= -1e-12).all()


@given(tables(4))
def test_dual_games_have_the_same_values(v: np.ndarray) -> None:
    dual = v[-1] - v[::-1]  # v*(S) = v(F) - v(F without S); the complement of index i is 15 - i
    np.testing.assert_allclose(shapley(dual), shapley(v), atol=1e-10)


@pytest.mark.parametrize("length", [0, 3, 6, 12])
def test_a_table_has_a_power_of_two_entries(length: int) -> None:
    with pytest.raises(ValueError, match=r"2\^k entries"):
        shapley(np.zeros(length))


# semivalues and interactions


@pytest.mark.parametrize("b", [0.5, 1, 2, 8, 1000])
def test_size_weights_are_the_beta_binomial(b: float) -> None:
    k = 5
    # P(s) = C(k-1, s) B(s + 1, k - 1 - s + b) / B(1, b), by its definition
    from scipy.special import beta, comb

    s = np.arange(k)
    expected = comb(k - 1, s) * beta(s + 1, k - 1 - s + b) / beta(1, b)
    np.testing.assert_allclose(size_weights(k, b), expected, rtol=1e-9)
    assert size_weights(k, b).sum() == pytest.approx(1)


@given(tables(4))
def test_b_of_1_is_shapley_and_b_of_infinity_the_single_effects(v: np.ndarray) -> None:
    np.testing.assert_allclose(semivalues(v, 1.0), shapley(v), atol=1e-12)
    np.testing.assert_allclose(semivalues(v, np.inf), singles(v), atol=1e-12)
    np.testing.assert_allclose(semivalues(v, 1e9), singles(v), atol=1e-5)


def test_semivalues_tell_and_from_or() -> None:
    both, either = game(2, lambda s: len(s) == 2), game(2, lambda s: len(s) >= 1)
    # P(0) = b / (b + 1): AND pays when the other is there, OR when it is not
    np.testing.assert_allclose(semivalues(both, 3.0), [1 / 4] * 2)
    np.testing.assert_allclose(semivalues(either, 3.0), [3 / 4] * 2)


@given(tables(4), st.floats(0.2, 50))
def test_semivalues_of_an_additive_game_are_its_terms(v: np.ndarray, b: float) -> None:
    terms = v[:4]
    additive = all_coalitions(4) @ terms
    np.testing.assert_allclose(semivalues(additive, b), terms, atol=1e-9)


@pytest.mark.parametrize("b", [0.0, -1.0, float("nan")])
def test_b_has_to_be_positive(b: float) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        semivalues([0.0, 1.0], b)


@pytest.mark.parametrize(
    ("k", "value", "expected"),
    [
        (2, lambda s: len(s) == 2, 1.0),  # AND: they need each other
        (2, lambda s: len(s) >= 1, -1.0),  # OR: either will do
        (3, lambda s: {0, 1} <= s, 1.0),
        (3, lambda s: len(s) >= 2, 0.0),  # majority: needed with one, in the way of the other
        (3, lambda s: 2.0 * (0 in s) + 3.0 * (1 in s), 0.0),
        (3, lambda s: float(s == {0, 1, 2}), 1 / 2),
    ],
)
def test_interactions_by_hand(k: int, value: object, expected: float) -> None:
    index = interactions(game(k, value))
    assert index[0, 1] == index[1, 0] == pytest.approx(expected)
    assert index[0, 0] == 0


@given(tables(4))
def test_interaction_is_the_difference_of_two_shapley_values(v: np.ndarray) -> None:
    """I(f, g): f's Shapley value in the game where g is always there, less that where g is never there."""
    rows = np.arange(16)
    g = 3
    without = rows[rows >> g & 1 == 0]
    present, absent = shapley(v[without | (1 << g)] - v[1 << g]), shapley(v[without] - v[0])
    np.testing.assert_allclose(interactions(v)[:3, g], present - absent, atol=1e-9)
