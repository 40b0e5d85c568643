"""Estimating the values of a game whose coalitions are expensive.

:class:`Game` asks for each coalition once. :func:`exact` enumerates all 2^k. :func:`sampled` walks through random orders of the
players: a player's marginal contribution where it enters, averaged over orders, is its Shapley value (Castro et al.
2009). Orders come in antithetic pairs, one and its reverse, whose errors cancel in part (Mitchell et al. 2022). A walk's
contributions telescope, so the values sum to v(F) - v(empty) exactly, however few the orders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from suny.games.values import Floats, all_coalitions, interactions, semivalues, singles, size_weights

EXACT_LIMIT = 16  # players; 2^16 coalitions on each side

Coalitions = NDArray[np.bool_]


class Game:
    """A game of k players that remembers the coalitions it has been asked for.

    Args:
        k: how many players there are.
        value: returns the values of a batch of coalitions, bool (n, k) -> float64 (n,).
    """

    def __init__(self, k: int, value: Callable[[Coalitions], Floats]) -> None:
        self.k = k
        self.asked = 0
        self._value = value
        self._known: dict[bytes, float] = {}

    def know(self, coalitions: Coalitions, values: Floats) -> None:
        """Takes values that are known already."""
        self._known.update(zip(self._keys(coalitions), values.tolist(), strict=True))

    def __call__(self, coalitions: Coalitions) -> Floats:
        """Values of coalitions, bool (n, k); each is evaluated at most once."""
        keys = self._keys(coalitions)
        new = {key: row for key, row in zip(keys, coalitions, strict=True) if key not in self._known}
        if new:
            rows = np.stack(list(new.values()))
            self.know(rows, self._value(rows))
            self.asked += len(rows)
        return np.array([self._known[key] for key in keys])

    @staticmethod
    def _keys(coalitions: Coalitions) -> list[bytes]:
        return [row.tobytes() for row in np.packbits(coalitions, axis=1)]


@dataclass(frozen=True)
class Estimate:
    """Values of a game.

    Args:
        value: semivalues, float64 (k,).
        single: single effects v({f}) - v(empty), float64 (k,).
        error: standard errors of the values, float64 (k,); 0 where they are exact.
        empty, full: v(empty) and v(F).
        shapley: Shapley values from the same coalitions, float64 (k,): ``value`` where b is 1.
        interaction: pairwise interaction index (k, k), where the whole table is known.
        orders: how many orders were walked; 0 where all coalitions were enumerated.
    """

    value: Floats
    single: Floats
    error: Floats
    empty: float
    full: float
    shapley: Floats
    interaction: Floats | None
    orders: int

    @property
    def residual(self) -> float:
        """Efficiency residual: by how much the values miss v(F) - v(empty); 0 for Shapley values up to rounding."""
        return float(self.value.sum() - (self.full - self.empty))


def exact(game: Game, b: float = 1.0) -> Estimate:
    """All 2^k coalitions.

    Raises:
        ValueError: more than 16 players.
    """
    if game.k > EXACT_LIMIT:
        raise ValueError(f"{game.k} players have 2^{game.k} coalitions: exact values end at {EXACT_LIMIT} players")
    table = game(all_coalitions(game.k))
    return Estimate(
        value=semivalues(table, b),
        single=singles(table),
        error=np.zeros(game.k),
        empty=float(table[0]),
        full=float(table[-1]),
        shapley=semivalues(table, 1.0),
        interaction=interactions(table),
        orders=0,
    )


def sampled(
    game: Game,
    b: float = 1.0,
    *,
    seed: int,
    orders: int = 32,
    budget: int | None = None,
    target_error: float | None = None,
    antithetic: bool = True,
) -> Estimate:
    """Random orders of the players.

    Args:
        game: asked for the coalitions along each order.
        b: the semivalue; other than 1, contributions are weighed by the position where they arise. The single effects of
            b = inf are exact.
        seed: draws the orders.
        orders: how many at most; in pairs where ``antithetic``.
        budget: stops before the game has evaluated more than so many coalitions (at least two samples are taken).
        target_error: stops once the largest standard error is below (of Shapley values, where b = inf).
        antithetic: pairs each order with its reverse.

    Returns: values with the standard error of their mean over samples (an order, or a pair of orders).
    """
    k = game.k
    rng = np.random.default_rng(seed)
    weight = k * size_weights(k, b) if np.isfinite(b) else np.ones(k)
    ends = game(np.array([[False] * k, [True] * k]))
    single = game(np.eye(k, dtype=bool)) - ends[0]
    each = 2 if antithetic else 1
    samples: list[Floats] = []
    plain: list[Floats] = []
    while len(samples) < max(2, orders // each):
        started = game.asked
        order = rng.permutation(k)
        walks = [order, order[::-1]] if antithetic else [order]
        steps = [_contributions(game, w) for w in walks]
        samples.append(np.mean([weight[_positions(w)] * c for w, c in zip(walks, steps, strict=True)], axis=0))
        plain.append(np.mean(steps, axis=0))
        if len(samples) < 2:
            continue
        error = _standard_error(samples)
        if target_error is not None and error.max() <= target_error:
            break
        if budget is not None and 2 * game.asked - started > budget:  # the next sample may cost as much as this one
            break
    return Estimate(
        value=np.mean(samples, axis=0) if np.isfinite(b) else single,
        single=single,
        error=_standard_error(samples) if np.isfinite(b) else np.zeros(k),
        empty=float(ends[0]),
        full=float(ends[1]),
        shapley=np.mean(plain, axis=0),
        interaction=None,
        orders=each * len(samples),
    )


def _contributions(game: Game, order: NDArray[np.int64]) -> Floats:
    """Each player's marginal contribution where it enters, by player."""
    k = len(order)
    present = np.zeros((k + 1, k), dtype=bool)
    for step, player in enumerate(order):
        present[step + 1 :, player] = True
    out = np.empty(k)
    out[order] = np.diff(game(present))
    return out


def _positions(order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each player in an order, by player."""
    positions = np.empty_like(order)
    positions[order] = np.arange(len(order))
    return positions


def _standard_error(samples: list[Floats]) -> Floats:
    return np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))
