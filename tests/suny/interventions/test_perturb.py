"""Perturbation of pixels: kernels, orders, replacements."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from suny.interventions.pixels import blend, pixel_order, rank_of, replace_top, rise_kernel, substrate, tied_fraction
from tests.conftest import noise


def test_the_kernel_of_rise_is_nearly_a_box() -> None:
    kernel = rise_kernel()
    assert kernel.shape == (11, 11)
    assert float(kernel[0, 0] / kernel[5, 5]) == pytest.approx(0.876, abs=5e-4)
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    # a truncated Gaussian, which other libraries use, is another kernel
    assert np.exp(-2 * 5**2 / (2 * 5**2)) == pytest.approx(0.368, abs=5e-4)


def test_blur_is_that_kernel_with_zeros_around_the_image() -> None:
    image = noise(3, 20, 17)
    blurred = substrate(image, "blur")
    for c in range(3):
        expected = ndimage.correlate(image[c].numpy(), rise_kernel().numpy(), mode="constant", cval=0.0)
        np.testing.assert_allclose(blurred[c].numpy(), expected, atol=1e-6)


def test_zero_is_the_mean_colour() -> None:
    assert torch.equal(substrate(noise(3, 4, 4), "zero"), torch.zeros(3, 4, 4))


def test_blend_by_hand() -> None:
    image, background = torch.full((3, 1, 2), 8.0), torch.full((3, 1, 2), 4.0)
    keep = torch.tensor([[[1.0, 0.0]], [[0.25, 0.5]]])
    expected = torch.tensor([[8.0, 4.0], [5.0, 6.0]])[:, None, None, :].expand(2, 3, 1, 2)
    assert torch.equal(blend(image, background, keep), expected)


def test_ties_keep_raster_order() -> None:
    saliency = torch.tensor([[0.0, 2.0, 1.0], [2.0, 0.0, 1.0]])
    assert pixel_order(saliency).tolist() == [1, 3, 2, 5, 0, 4]
    assert rank_of(pixel_order(saliency)).tolist() == [4, 0, 2, 1, 5, 3]


def test_a_constant_map_is_in_raster_order() -> None:
    assert pixel_order(torch.zeros(50, 40)).tolist() == list(range(2000))


@pytest.mark.parametrize(
    ("values", "expected"), [([0, 0, 0, 0], 1.0), ([0, 1, 2, 3], 0.0), ([0, 0, 1, 2], 0.5), ([5, 5, 7, 7], 1.0)]
)
def test_tied_fraction(values: list[float], expected: float) -> None:
    assert tied_fraction(torch.tensor(values, dtype=torch.float32).reshape(2, 2)) == expected


def test_replace_top_by_hand() -> None:
    start, finish = torch.zeros(3, 2, 2), torch.arange(1.0, 13.0).reshape(3, 2, 2)
    rank = torch.tensor([[2, 0], [3, 1]])
    out = replace_top(start, finish, rank, torch.tensor([0, 1, 3, 4]))
    assert torch.equal(out[0], start)
    assert out[1, :, 0, 1].tolist() == [2, 6, 10]  # all channels of the most salient pixel
    assert int((out[1] != 0).sum()) == 3
    assert out[2, 0].tolist() == [[1, 2], [0, 4]]
    assert torch.equal(out[3], finish)


@given(arrays(np.float32, (4, 5), elements=st.floats(0, 3, width=32)), st.integers(0, 20))
def test_replaced_pixels_are_the_most_salient(values: np.ndarray, count: int) -> None:
    saliency = torch.from_numpy(values)
    rank = rank_of(pixel_order(saliency)).reshape(4, 5)
    taken = replace_top(torch.zeros(3, 4, 5), torch.ones(3, 4, 5), rank, torch.tensor([count]))[0, 0].bool()
    assert int(taken.sum()) == count
    if 0 < count < 20:
        assert float(saliency[taken].min()) >= float(saliency[~taken].max())
