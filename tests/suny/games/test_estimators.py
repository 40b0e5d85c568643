"""Sampled values against exact ones; what is asked for, and when sampling stops."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from captum.attr import ShapleyValueSampling

from suny.games.estimators import Game, exact, sampled
from suny.games.values import Floats, all_coalitions, semivalues, shapley


def random_game(k: int, seed: int = 0) -> tuple[Game, Floats]:
    """A game with a known table, and the table."""
    table = np.random.default_rng(seed).normal(size=2**k)
    return Game(k, lambda c: table[c @ (1 << np.arange(k))]), table


def test_each_coalition_is_asked_once() -> None:
    asked: list[bytes] = []

    def value(c: np.ndarray) -> Floats:
        asked.extend(row.tobytes() for row in c)
        return c.sum(1).astype(float)

    game = Game(6, value)
    game.know(np.zeros((1, 6), dtype=bool), np.zeros(1))
    exact(game)
    assert len(asked) == len(set(asked)) == game.asked == 2**6 - 1
    sampled(game, seed=0)
    assert len(asked) == 2**6 - 1


def test_exact_is_the_table() -> None:
    game, table = random_game(7)
    estimate = exact(game, b=3.0)
    np.testing.assert_allclose(estimate.value, semivalues(table, 3.0))
    assert (estimate.empty, estimate.full, estimate.orders) == (table[0], table[-1], 0)
    assert not estimate.error.any()


def test_too_many_players_to_enumerate() -> None:
    with pytest.raises(ValueError, match="end at 16 players"):
        exact(Game(17, lambda c: c.sum(1).astype(float)))


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("k", [3, 9, 40])
def test_efficiency_is_exact_however_few_the_orders(k: int, antithetic: bool) -> None:
    weights = np.random.default_rng(k).normal(size=k)
    game = Game(k, lambda c: np.sin(c @ weights))
    estimate = sampled(game, seed=1, orders=4, antithetic=antithetic)
    assert estimate.residual == pytest.approx(0, abs=1e-12)
    assert estimate.orders == 4
    np.testing.assert_allclose(estimate.single, np.sin(weights), atol=1e-12)


@pytest.mark.parametrize("b", [1.0, 4.0])
def test_the_mean_over_all_orders_is_the_value(b: float) -> None:
    """The estimator is unbiased: averaged over every order it is the semivalue itself."""
    from suny.games.estimators import _contributions, _positions
    from suny.games.values import size_weights

    game, table = random_game(4)
    orders = [np.array(o) for o in permutations(range(4))]
    walks = [4 * size_weights(4, b)[_positions(o)] * _contributions(game, o) for o in orders]
    np.testing.assert_allclose(np.mean(walks, axis=0), semivalues(table, b), atol=1e-12)


def test_sampled_values_are_within_their_errors() -> None:
    inside = 0
    for seed in range(20):
        game, table = random_game(8, seed)
        estimate = sampled(game, seed=seed, orders=64)
        inside += int((np.abs(estimate.value - shapley(table)) <= 2 * estimate.error).sum())
    assert inside >= 0.9 * 20 * 8  # 95% nominal, errors estimated from 32 pairs


def test_antithetic_pairs_are_better_than_plain_orders() -> None:
    """On a smooth game, at the same number of orders."""

    def loss(antithetic: bool) -> float:
        errors = []
        for seed in range(30):
            weights = np.random.default_rng(seed).uniform(0, 1, 8)
            game = Game(8, lambda c, w=weights: np.tanh(c @ w))
            truth = exact(game).value
            estimate = sampled(game, seed=seed, orders=16, antithetic=antithetic)
            errors.append(np.linalg.norm(estimate.value - truth) / np.linalg.norm(truth))
        return float(np.mean(errors))

    assert loss(antithetic=True) < 0.75 * loss(antithetic=False)


def test_agrees_with_captums_sampling_within_the_errors() -> None:
    k = 6
    game, table = random_game(k, 5)

    def forward(present: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(table)[(present.round().long() * 2 ** torch.arange(k)).sum(1)]

    torch.manual_seed(0)
    ones = torch.ones(1, k, dtype=torch.float64)
    theirs = ShapleyValueSampling(forward).attribute(ones, torch.zeros_like(ones), n_samples=400)[0].numpy()
    ours = sampled(game, seed=0, orders=400)
    assert (np.abs(ours.value - theirs) < 5 * ours.error).all()


def test_a_seed_repeats() -> None:
    one, same, other = (sampled(random_game(6)[0], seed=s, orders=6).value for s in (1, 1, 2))
    assert (one == same).all()
    assert not np.allclose(one, other)


def test_a_budget_is_kept() -> None:
    game = Game(30, lambda c: np.sqrt(c.sum(1)))
    estimate = sampled(game, seed=0, orders=1000, budget=500)
    assert game.asked <= 500
    assert 4 <= estimate.orders < 1000
    assert estimate.residual == pytest.approx(0, abs=1e-12)


def test_a_target_error_stops() -> None:
    game, table = random_game(8)
    loose = sampled(game, seed=0, orders=10_000, target_error=0.1)
    assert loose.error.max() <= 0.1
    assert loose.orders < 10_000
    assert np.abs(loose.value - shapley(table)).max() < 0.4


def test_one_player() -> None:
    for estimate in (exact(random_game(1)[0]), sampled(random_game(1)[0], seed=0)):
        table = random_game(1)[1]
        np.testing.assert_allclose(estimate.value, table[1] - table[0])


def test_the_order_of_a_table_is_the_order_of_its_coalitions() -> None:
    game, table = random_game(5)
    np.testing.assert_array_equal(game(all_coalitions(5)), table)


def test_single_effects_are_exact_and_shapley_values_come_with_them() -> None:
    """With b = inf the values are the single effects, whatever the orders; the same walks give the Shapley values."""
    table = np.random.default_rng(3).normal(size=2**5)
    index = 1 << np.arange(5)

    def game() -> Game:
        return Game(5, lambda rows: table[rows @ index])

    found, plain = (sampled(game(), b, seed=1, orders=6) for b in (float("inf"), 1.0))
    np.testing.assert_allclose(found.value, table[index] - table[0], atol=1e-12)
    assert not found.error.any()
    np.testing.assert_allclose(found.shapley, plain.value, atol=1e-12)
    np.testing.assert_allclose(exact(game(), float("inf")).shapley, exact(game()).value, atol=1e-12)
