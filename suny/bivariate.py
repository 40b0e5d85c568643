"""A bivariate colour map: two maps in [0, 1], one colour.

Necessity runs from dark grey to cyan, sufficiency from dark grey to orange, both together to white. The square of pairs is
laid as a parallelogram into OKLab (Ottosson, "A perceptual color space for image processing", 2020), where distances are
what is seen: a step in n is as far anywhere as a step in s. The two arms are opposite in hue, on the axis from blue to
orange that readers without red, green or blue cones keep. docs/report.md shows the measurements.

The first colours of this project, blue and orange and both white, are kept as ``published``; there every channel, and so the
luminance, grows with each of the two.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Colours = Literal["even", "published"]

# OKLab of nothing, and what one unit of necessity and of sufficiency adds to it: lightness, green to red, blue to yellow.
_NOTHING = np.array([0.30, 0.0, 0.0])
_CHROMA = 0.14 * np.array([np.cos(np.radians(65.0)), np.sin(np.radians(65.0))])
_NECESSITY = np.array([0.35, *-_CHROMA])
_SUFFICIENCY = np.array([0.35, *_CHROMA])

# The matrices of OKLab's definition: one takes OKLab to the cube roots of the cones' responses, the other takes these
# responses to linear sRGB.
_CONES = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LINEAR = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def bivariate(necessity: ArrayLike, sufficiency: ArrayLike, colours: Colours = "even") -> NDArray[np.float64]:
    """Colours of pairs of values.

        even:       OKLab = (0.30, 0, 0) + n (0.35, -c) + s (0.35, c), c = 0.14 (cos 65 degrees, sin 65 degrees)
        published:  red = s,   green = s^2 (1 + n^2) / 2,   blue = n

    Args:
        necessity, sufficiency: n and s, in [0, 1], of one shape; values outside are clipped.
        colours: which of the two.

    Returns: sRGB in [0, 1], the shape plus a last axis of 3.
    """
    n, s = np.broadcast_arrays(*(np.clip(np.asarray(v, dtype=np.float64), 0.0, 1.0) for v in (necessity, sufficiency)))
    if colours == "published":
        return np.stack((s, s**2 * (1 + n**2) / 2, n), axis=-1)
    lab = _NOTHING + n[..., None] * _NECESSITY + s[..., None] * _SUFFICIENCY
    linear = np.clip((lab @ _CONES.T) ** 3 @ _LINEAR.T, 0.0, 1.0)
    # IEC 61966-2-1
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def legend(size: int = 64, colours: Colours = "even") -> NDArray[np.float64]:
    """The colour square (size, size, 3): sufficiency grows to the right, necessity upwards (row 0 is the top)."""
    axis = np.linspace(0, 1, size)
    return bivariate(axis[::-1, None], axis[None, :], colours)
