"""The bivariate colour map: its corners, every value has its own, and steps look alike, to colour-blind readers too."""

from __future__ import annotations

import itertools
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from suny.bivariate import Colours, bivariate, legend

KINDS = get_args(Colours)
# Machado, Oliveira and Fernandes, "A physiologically-based model for simulation of color vision deficiency", 2009, at full
# severity, on linear RGB
BLIND = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(srgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """IEC 61966-2-1"""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def appearance(srgb: NDArray[np.float64], blind: str | None = None) -> NDArray[np.float64]:
    """CAM02-UCS of colours, as they are seen by readers without one kind of cones."""
    convert = pytest.importorskip("colorspacious", reason="needs colorspacious").cspace_convert
    if blind:
        seen = np.clip(linear(srgb) @ np.array(BLIND[blind]).T, 0, 1)
        srgb = convert(seen, "sRGB1-linear", "sRGB1")
    return convert(np.clip(srgb, 0, 1), "sRGB1", "CAM02-UCS")


def square(colours: Colours, count: int = 17) -> NDArray[np.float64]:
    axis = np.linspace(0, 1, count)
    return bivariate(axis[:, None], axis[None, :], colours)


def steps(colours: Colours) -> NDArray[np.float64]:
    """How far neighbours of a grid are apart."""
    seen = appearance(square(colours))
    return np.concatenate([np.linalg.norm(np.diff(seen, axis=axis), axis=-1).ravel() for axis in (0, 1)])


@pytest.mark.parametrize(
    ("n", "s", "colour"),
    [(0, 0, (0, 0, 0)), (1, 0, (0, 0, 1)), (0, 1, (1, 0.5, 0)), (1, 1, (1, 1, 1))],  # black, blue, orange, white
)
def test_corners_as_published(n: float, s: float, colour: tuple[float, float, float]) -> None:
    assert bivariate(n, s, "published").tolist() == list(colour)


def test_corners() -> None:
    nothing, both = bivariate(0, 0), bivariate(1, 1)
    # 0.3 cubed is the luminance of this grey; white is the largest value there is
    assert linear(nothing) == pytest.approx([0.027] * 3, abs=1e-6)
    assert both == pytest.approx([1.0] * 3, abs=1e-4)
    red, green, blue = bivariate(1, 0)
    assert blue > green > 0.5 > red + 0.2  # cyan
    red, green, blue = bivariate(0, 1)
    assert red > 0.75 > green > 0.4 > blue + 0.3  # orange


def test_no_colour_is_cut_off() -> None:
    """The parallelogram lies in the gamut: no pair has the colour of another one because a channel was clipped."""
    srgb = square("even", 65)
    assert (srgb[:-1, :-1] > 0).all()
    assert (srgb[:-1, :-1] < 1).all()


def test_the_middle_of_the_diagonal() -> None:
    red, green, blue = bivariate(0.6, 0.6, "published")
    assert red == blue > 2 * green
    grey = bivariate(0.6, 0.6)
    assert np.ptp(grey) < 1e-4  # the arms' hues are opposite


@pytest.mark.parametrize("colours", KINDS)
def test_luminance_grows_with_both(colours: Colours) -> None:
    luminance = linear(square(colours, 101)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance, axis=0) > 0).all()
    assert (np.diff(luminance, axis=1) > 0).all()


def test_steps_look_alike() -> None:
    even, published = steps("even"), steps("published")
    assert even.max() / even.min() < 1.7
    assert published.max() / published.min() > 10  # why it is not the usual one


@pytest.mark.parametrize("blind", [None, *BLIND])
def test_corners_are_told_apart(blind: str | None) -> None:
    """By readers with all cones and without one kind: 5 is a difference that is seen side by side."""
    corners = appearance(square("even", 2).reshape(4, 3), blind)
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(corners, 2)) > 40


@pytest.mark.parametrize("colours", KINDS)
def test_pairs_have_different_colours(colours: Colours) -> None:
    assert len(np.unique(square(colours, 33).reshape(-1, 3).round(9), axis=0)) == 33 * 33


@pytest.mark.parametrize("colours", KINDS)
def test_legend_has_necessity_upwards_and_sufficiency_to_the_right(colours: Colours) -> None:
    drawn = legend(8, colours)
    assert drawn.shape == (8, 8, 3)
    assert drawn[0, 0] == pytest.approx(bivariate(1, 0, colours), abs=1e-12)
    assert drawn[-1, -1] == pytest.approx(bivariate(0, 1, colours), abs=1e-12)


@pytest.mark.parametrize("colours", KINDS)
def test_values_outside_are_clipped(colours: Colours) -> None:
    assert bivariate(-1.0, 2.0, colours).tolist() == bivariate(0.0, 1.0, colours).tolist()
