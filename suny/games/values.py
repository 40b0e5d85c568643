"""Turns a table of coalition values into one value per player; pure functions.

A game of k players is a table v of 2^k numbers: entry S, read as a bit mask, is the value of the coalition that has
player f where bit f is set. v[0] is the empty coalition, v[2^k - 1] the full one.

Semivalues (Dubey, Neyman, Weber 1981; Beta Shapley: Kwon, Zou 2022) weigh the marginal contributions by coalition size:

    R^b(f) = sum over s of  P_b(s) * mean over F' with |F'| = s, f not in F' of [v(F' + f) - v(F')]

with P_b the beta-binomial(k - 1; 1, b). b = 1 is the Shapley value, b = inf the single effect v({f}) - v(empty).
Efficiency (the values sum to v(F) - v(empty)) holds for b = 1 only.
"""

from __future__ import annotations

from math import comb, factorial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from suny.later import Later
from suny.threads import one_thread

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")

Floats = NDArray[np.float64]


def all_coalitions(k: int) -> NDArray[np.bool_]:
    """All 2^k coalitions in the order of a table: row S, column f is True where player f belongs to S."""
    return (np.arange(2**k)[:, None] >> np.arange(k)[None, :] & 1).astype(bool)


def size_weights(k: int, b: float = 1.0) -> Floats:
    """P_b(s), the weight of coalitions of size s = 0..k-1; sums to 1.

    Raises:
        ValueError: b is not positive.
    """
    if not b > 0:
        raise ValueError(f"b of a semivalue must be positive, not {b}")
    if np.isinf(b):
        return np.eye(1, k).ravel()
    return stats.betabinom(k - 1, 1, b).pmf(np.arange(k))


@one_thread
def semivalues(table: ArrayLike, b: float = 1.0) -> Floats:
    """Semivalues R^b of all players.

    Args:
        table: v, 2^k numbers, k >= 0.
        b: >= 1 stresses small coalitions; 1 is Shapley, inf the single effects.

    Returns: float64 (k,).

    Raises:
        ValueError: the table's length is no power of two.
    """
    v, k = _game(table)
    weight = size_weights(k, b) / [comb(k - 1, s) for s in range(k)] if k else np.empty(0)
    sizes = all_coalitions(k).sum(1)
    values = np.empty(k)
    for f in range(k):
        without = np.flatnonzero((np.arange(2**k) >> f & 1) == 0)
        values[f] = weight[sizes[without]] @ (v[without | (1 << f)] - v[without])
    return values


def shapley(table: ArrayLike) -> Floats:
    """Exact Shapley values, float64 (k,).

    R(f) = sum over F' of F \\ {f}:  |F'|! (k - |F'| - 1)! / k!  *  [v(F' + f) - v(F')]

    (Shapley 1953; SUNY's equation for R_N and R_S.) They sum to v(F) - v(empty) (efficiency).

    Raises:
        ValueError: the table's length is no power of two.
    """
    return semivalues(table, 1.0)


def singles(table: ArrayLike) -> Floats:
    """Single effects v({f}) - v(empty), float64 (k,)."""
    v, k = _game(table)
    return v[1 << np.arange(k)] - v[0]


@one_thread
def interactions(table: ArrayLike) -> Floats:
    """The pairwise Shapley interaction index (Grabisch, Roubens 1999), float64 (k, k), zero on the diagonal.

    I(f, g) = sum over F' without f, g:  |F'|! (k - |F'| - 2)! / (k - 1)!  *  [v(F'+f+g) - v(F'+f) - v(F'+g) + v(F')]

    In the sufficiency game positive where two players need each other (AND), negative where either will do (OR); in the
    necessity game the other way round.
    """
    v, k = _game(table)
    index = np.arange(2**k)
    sizes = all_coalitions(k).sum(1)
    weight = np.array([factorial(s) * factorial(k - s - 2) / factorial(k - 1) for s in range(k - 1)])
    out = np.zeros((k, k))
    for f in range(k):
        for g in range(f):
            i, j = 1 << f, 1 << g
            rest = index[(index & (i | j)) == 0]
            out[f, g] = out[g, f] = weight[sizes[rest]] @ (v[rest | i | j] - v[rest | i] - v[rest | j] + v[rest])
    return out


def _game(table: ArrayLike) -> tuple[Floats, int]:
    v = np.asarray(table, dtype=np.float64)
    k = v.size.bit_length() - 1
    if v.ndim != 1 or v.size != 2**k:
        raise ValueError(f"a table of coalition values has 2^k entries, this one has shape {v.shape}")
    return v, k
