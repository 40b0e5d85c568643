"""Boxes through EXIF rotation, resize and crop: checked on the pixels themselves."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from suny.images.geometry import Box, box_mask, upright_box
from suny.images.view import View

VIEW = View(resize=64, crop=48, interpolation="bilinear", mean=(0.5, 0.25, 0.0), std=(0.5, 1.0, 2.0))


def painted(size: tuple[int, int], box: tuple[int, int, int, int]) -> Image.Image:
    """Black, white inside the box."""
    pixels = np.zeros((size[1], size[0], 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = 255
    return Image.fromarray(pixels)


def bright(image: Image.Image) -> Box:
    """The box around the pixels that are more than half white."""
    y, x = np.nonzero(np.asarray(image)[..., 0] > 127)
    return Box(x.min(), y.min(), x.max() + 1, y.max() + 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_upright_box_follows_the_pixels(orientation: int) -> None:
    stored = painted((40, 25), (3, 5, 17, 12))
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    stored.save(file, "png", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(file))
    assert upright_box(Box(3, 5, 17, 12), stored.size, orientation) == bright(upright)


@settings(max_examples=60)
@given(w=st.integers(8, 400), h=st.integers(8, 400), data=st.data())
def test_a_mask_that_is_a_box_follows_the_view_as_the_box(w: int, h: int, data: st.DataObject) -> None:
    x0, y0 = data.draw(st.integers(0, w - 1)), data.draw(st.integers(0, h - 1))
    box = (x0, y0, data.draw(st.integers(x0 + 1, w)), data.draw(st.integers(y0 + 1, h)))
    inside = np.asarray(painted((w, h), box))[..., 0] > 0
    seen, _ = VIEW.boxes([Box(*box)], (w, h))
    assert (VIEW.mask(inside) == box_mask(seen, 48, 48).numpy()).all()


def test_masks_follow_the_view_by_hand() -> None:
    """A picture of 4 x 2 pixels: halved, doubled, and smaller than the crop."""
    mask = np.array([[1, 0, 0, 1], [0, 0, 1, 1]], bool)
    view = replace(VIEW, resize=2, crop=2)
    assert view.mask(mask).tolist() == [[False, False], [False, True]]
    assert replace(view, resize=4, crop=4).mask(mask).tolist() == [[False] * 4] * 2 + [[False, False, True, True]] * 2
    assert replace(view, resize=1, crop=1).mask(mask).tolist() == [[False]]  # the centre lies in row 1, column 1
    assert replace(view, resize=2, crop=6).mask(mask).astype(int).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 1, 0, 0, 1, 0],
        [0, 0, 0, 1, 1, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


@settings(max_examples=60)
@given(w=st.integers(60, 400), h=st.integers(60, 400), data=st.data())
def test_boxes_follow_the_view(w: int, h: int, data: st.DataObject) -> None:
    x0 = data.draw(st.integers(0, w - 20))
    y0 = data.draw(st.integers(0, h - 20))
    box = (x0, y0, data.draw(st.integers(x0 + 20, w)), data.draw(st.integers(y0 + 20, h)))
    seen, lost = VIEW.boxes([Box(*box)], (w, h))
    visible = np.asarray(VIEW.visible(painted((w, h), box)))[..., 0] > 127
    if lost:
        assert seen == []
        assert visible.sum() <= 3 * 48  # the box ends within a pixel of the crop's edge
        return
    assert len(seen) == 1
    inside = box_mask(seen, 48, 48).numpy()
    edge = 2 * (seen[0].x1 - seen[0].x0 + seen[0].y1 - seen[0].y0) + 8
    assert (inside != visible).sum() <= 1.5 * edge  # at most the blurred border differs


def test_a_box_by_hand() -> None:
    # 100 x 200 -> shorter side 64: 64 x 128, crop 48: 8 off the left, 40 off the top
    assert VIEW.boxes([Box(25, 100, 75, 200)], (100, 200)) == ([Box(8, 24, 40, 48)], 0)


def test_a_box_that_the_crop_loses_is_counted() -> None:
    assert VIEW.boxes([Box(0, 0, 10, 10), Box(0, 0, 100, 200)], (100, 200)) == ([Box(0, 0, 48, 48)], 1)


def test_normalisation_is_of_pixels_in_0_1() -> None:
    x = VIEW(Image.new("RGB", (64, 64), (255, 51, 0)))
    assert x.shape == (3, 48, 48)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x[:, 0, 0].numpy(), [1.0, (0.2 - 0.25) / 1.0, 0.0], atol=1e-7)


def test_mask_is_the_union_by_pixel_centres() -> None:
    mask = box_mask([Box(0.6, 0, 2.5, 1), Box(2, 0, 3, 2)], 2, 4)
    assert mask.tolist() == [[False, True, True, False], [False, False, True, False]]
    assert not box_mask([], 2, 4).any()


@given(st.tuples(*[st.floats(-50, 150)] * 4))
def test_clipping_stays_in_the_image(edges: tuple[float, float, float, float]) -> None:
    clipped = Box(*edges).clip(100, 80)
    assert 0 <= clipped.x0 <= 100
    assert 0 <= clipped.y1 <= 80
    assert clipped.overhang(100, 80) == 0
