"""A bivariate colour map: two maps in [0, 1], one colour.

Necessity runs from black to blue, sufficiency from black through red to orange, both together through magenta to white.
Every channel, and so the luminance, grows with each of the two.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray


def bivariate(necessity: ArrayLike, sufficiency: ArrayLike) -> NDArray[np.float64]:
    """Colours of pairs of values.

        red = s,   green = s^2 (1 + n^2) / 2,   blue = n

    Args:
        necessity, sufficiency: n and s, in [0, 1], of one shape; values outside are clipped.

    Returns: sRGB in [0, 1], the shape plus a last axis of 3.
    """
    n, s = (np.clip(np.asarray(v, dtype=np.float64), 0.0, 1.0) for v in (necessity, sufficiency))
    return np.stack(np.broadcast_arrays(s, s**2 * (1 + n**2) / 2, n), axis=-1)


def legend(size: int = 64) -> NDArray[np.float64]:
    """The colour square (size, size, 3): sufficiency grows to the right, necessity upwards (row 0 is the top)."""
    axis = np.linspace(0, 1, size)
    return bivariate(axis[::-1, None], axis[None, :])
