"""How maps lie over a photograph: values by hand."""

from __future__ import annotations

import numpy as np
import pytest

from suny import plots
from suny.bivariate import bivariate

PHOTO = np.full((9, 9, 3), (0.2, 0.4, 0.6))
GREY = 0.2126 * 0.2 + 0.7152 * 0.4 + 0.0722 * 0.6


def test_a_map_that_is_0_leaves_the_photograph_in_grey() -> None:
    seen = plots.two_sided(PHOTO, np.zeros((9, 9)), 0.0)
    np.testing.assert_allclose(seen, GREY)


def test_the_cover_grows_to_three_quarters() -> None:
    colour, strength = np.zeros((9, 9, 3)), np.zeros((9, 9))
    strength[0, :4] = [0.0, 0.25, 0.5, 1.0]  # half of the scale covers as much as all of it
    seen = plots.over(PHOTO, colour, strength)
    np.testing.assert_allclose(seen[0, :4, 0], GREY * np.array([1, 1 - 0.375, 0.25, 0.25]))


def test_sides_are_outlined_where_they_are_half_of_the_scale() -> None:
    necessity = np.zeros((9, 9))
    necessity[2:7, 2:7] = 0.6
    necessity[4, 4] = 0.4  # a hole
    seen = plots.two_sided(PHOTO, necessity, 0.0)
    np.testing.assert_allclose(seen[2, 2], bivariate(1, 0))  # the line inside
    np.testing.assert_allclose(seen[1, 3], 0.3 * GREY)  # the dark one outside
    np.testing.assert_allclose(seen[3, 4], bivariate(1, 0))  # beside the hole
    np.testing.assert_allclose(seen[3, 3], 0.25 * GREY + 0.75 * bivariate(0.6, 0))
    np.testing.assert_allclose(seen[0, 0], GREY)


def test_a_weak_side_is_said() -> None:
    weak, strong = np.full((9, 9), 0.09), np.full((9, 9), 1.0)
    titles = [title for title, _ in plots.panels(PHOTO, strong, strong, weak)]
    assert titles == ["input", "necessity", "sufficiency near 0", "both", "overlay"]
    assert plots.named_side("necessity", np.full(3, 0.1)) == "necessity"


def test_published_colours_are_an_option() -> None:
    side = np.full((9, 9), 1.0)
    seen = plots.two_sided(PHOTO, side, side, "published")
    np.testing.assert_allclose(seen[4, 4], 0.25 * GREY + 0.75)
    both = dict(plots.panels(PHOTO, side, side, side, "published"))["both"]
    np.testing.assert_allclose(both, 1)
    maps = {"saliency": side, "necessity": side, "sufficiency": side}
    np.testing.assert_array_equal(plots.overlay(PHOTO, maps, "published"), seen)


@pytest.mark.parametrize("width", [1, 2, 3])
def test_masks_grow_by_steps(width: int) -> None:
    mask = np.zeros((9, 9), bool)
    mask[4, 4] = True
    rows, columns = np.indices((9, 9))
    np.testing.assert_array_equal(plots._grown(mask, width), abs(rows - 4) + abs(columns - 4) <= width)
