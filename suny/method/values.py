"""From a table of coalition values to one value for each player; pure functions.

A game of k players is a table v of 2^k numbers: entry S, read as a bit mask, is the value of the coalition that has
player f where bit f is set. v[0] is the empty coalition, v[2^k - 1] the full one.
"""

from __future__ import annotations

from math import factorial

import numpy as np
from numpy.typing import ArrayLike, NDArray


def all_coalitions(k: int) -> NDArray[np.bool_]:
    """All 2^k coalitions in the order of a table: row S, column f is True where player f belongs to S."""
    return (np.arange(2**k)[:, None] >> np.arange(k)[None, :] & 1).astype(bool)


def shapley(table: ArrayLike) -> NDArray[np.float64]:
    """Exact Shapley values.

    R(f) = sum over F' of F \\ {f}:  |F'|! (k - |F'| - 1)! / k!  *  [v(F' + f) - v(F')]

    (Shapley 1953; SUNY's equation for R_N and R_S.) They sum to v(F) - v(empty) (efficiency).

    Args:
        table: v, 2^k numbers, k >= 0.

    Returns: float64 (k,).

    Raises:
        ValueError: the table's length is no power of two.
    """
    v = np.asarray(table, dtype=np.float64)
    k = _players(v)
    sizes = all_coalitions(k).sum(1)
    weight = np.array([factorial(s) * factorial(k - s - 1) / factorial(k) for s in range(k)])
    values = np.empty(k)
    for f in range(k):
        without = np.flatnonzero((np.arange(2**k) >> f & 1) == 0)
        values[f] = weight[sizes[without]] @ (v[without | (1 << f)] - v[without])
    return values


def singles(table: ArrayLike) -> NDArray[np.float64]:
    """Single effects v({f}) - v(empty), float64 (k,)."""
    v = np.asarray(table, dtype=np.float64)
    return v[1 << np.arange(_players(v))] - v[0]


def _players(v: NDArray[np.float64]) -> int:
    k = v.size.bit_length() - 1
    if v.ndim != 1 or v.size != 2**k:
        raise ValueError(f"a table of coalition values has 2^k entries, this one has shape {v.shape}")
    return k
