"""Every kind of image file becomes upright 8-bit RGB, or is called unreadable."""

from __future__ import annotations

import errno
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suny.errors import UserError
from suny.images.decode import UnreadableImage, decode, stored_size
from tests.conftest import noise


@pytest.fixture
def photo() -> Image.Image:
    y, x = np.mgrid[0:40, 0:60]
    return Image.fromarray(np.stack([x * 4, y * 6, 255 - x * 4], -1).astype(np.uint8))


def test_greyscale(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("L").save(tmp_path / "a.png")
    pixels = np.asarray(decode(tmp_path / "a.png").image)
    assert pixels.shape == (40, 60, 3)
    assert (pixels == np.asarray(photo.convert("L"))[..., None]).all()


def test_cmyk(tmp_path: Path, photo: Image.Image) -> None:
    photo.convert("CMYK").save(tmp_path / "a.jpg", quality=100)
    decoded = decode(tmp_path / "a.jpg").image
    assert decoded.mode == "RGB"
    assert np.abs(np.asarray(decoded, int) - np.asarray(photo, int)).mean() < 6


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert np.asarray(decode(tmp_path / "a.png").image)[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "1"])
def test_other_modes(tmp_path: Path, photo: Image.Image, mode: str) -> None:
    photo.convert(mode).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").image.mode == "RGB"


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_exif_rotation_is_applied(tmp_path: Path, photo: Image.Image, orientation: int) -> None:
    turned = {1: 0, 3: 180, 6: 90, 8: 270}[orientation]  # how the camera was held
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = photo.rotate(turned, expand=True)
    stored.save(tmp_path / "a.jpg", exif=exif, quality=95)
    decoded = decode(tmp_path / "a.jpg")
    assert decoded.orientation == orientation
    assert decoded.stored_size == stored.size
    assert decoded.image.size == photo.size
    assert np.abs(np.asarray(decoded.image, int) - np.asarray(photo, int)).mean() < 6


def test_truncated(tmp_path: Path) -> None:
    pixels = (noise(64, 64, 3).clamp(-2, 2) * 60 + 127).numpy().astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(UnreadableImage, match=r"a\.jpg"):
        decode(tmp_path / "a.jpg")


def test_a_failure_of_the_system_is_no_property_of_the_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "open", lost)
    for read in (decode, stored_size):
        with pytest.raises(UserError, match=r"cannot read .*a\.jpg: Input/output error"):
            read(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0"])
def test_not_an_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UnreadableImage):
        decode(tmp_path / "a.jpg")
