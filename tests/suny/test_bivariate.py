"""The bivariate colour map: its corners, and that every value can be told."""

from __future__ import annotations

import numpy as np
import pytest

from suny.bivariate import bivariate, legend


@pytest.mark.parametrize(
    ("n", "s", "colour"),
    [(0, 0, (0, 0, 0)), (1, 0, (0, 0, 1)), (0, 1, (1, 0.5, 0)), (1, 1, (1, 1, 1))],  # black, blue, orange, white
)
def test_corners(n: float, s: float, colour: tuple[float, float, float]) -> None:
    assert bivariate(n, s).tolist() == list(colour)


def test_the_middle_of_the_diagonal_is_magenta() -> None:
    red, green, blue = bivariate(0.6, 0.6)
    assert red == blue > 2 * green


def test_luminance_grows_with_both() -> None:
    axis = np.linspace(0, 1, 101)
    srgb = bivariate(axis[:, None], axis[None, :])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)  # IEC 61966-2-1
    luminance = linear @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance, axis=0) > 0).all()
    assert (np.diff(luminance, axis=1) > 0).all()


def test_pairs_have_different_colours() -> None:
    axis = np.linspace(0, 1, 33)
    colours = bivariate(axis[:, None], axis[None, :]).reshape(-1, 3)
    assert len(np.unique(colours.round(9), axis=0)) == 33 * 33


def test_legend_has_necessity_upwards_and_sufficiency_to_the_right() -> None:
    square = legend(8)
    assert square.shape == (8, 8, 3)
    assert square[0, 0].tolist() == [0, 0, 1]
    assert square[-1, -1].tolist() == [1, 0.5, 0]


def test_values_outside_are_clipped() -> None:
    assert bivariate(-1.0, 2.0).tolist() == bivariate(0.0, 1.0).tolist()
