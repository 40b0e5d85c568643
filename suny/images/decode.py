"""Decoding: any image file to upright 8-bit RGB.

Greyscale, palette, CMYK (Adobe's inverted one too) and 16-bit images become RGB; the EXIF orientation is applied. Of files with
several frames or pages the first one is taken. Transparency is dropped, as torchvision's loader does: a pixel counts with its
colour, however transparent it is. Pixels whose range a file does not say (32-bit integers, floating-point numbers outside
0..1) are refused, since any guess would change the brightness.

Files are not trusted: only the formats of photographs are decoded, whatever a file is called (Pillow would start Ghostscript
for others), and images of more than :data:`MOST_PIXELS` are refused by their header, before anything is unpacked.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from suny.errors import UserError

# a camera of the largest kind has 100 million; decoded they take 400 MB
MOST_PIXELS = 128 * 2**20

# Pillow warns from two thirds of that on; images are measured here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# JPEG has cameras' files of several pictures in it, of which the first one is taken
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")

_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnreadableImage(Exception):
    """The file is there but cannot be decoded (truncated, not an image, too large to be one)."""


@dataclass(frozen=True)
class Decoded:
    """An upright RGB image, and how it was stored: ``stored_size`` (width, height), EXIF ``orientation`` 1..8."""

    image: Image.Image
    stored_size: tuple[int, int]
    orientation: int


def decode(path: Path) -> Decoded:
    """Reads an image file.

    Raises:
        UnreadableImage: the file cannot be decoded in full.
        UserError: the system does not let it be read.
    """
    with _opened(path) as stored:
        stored.load()
        orientation = _orientation(stored)
        size = stored.size
        return Decoded(_to_rgb(turned_upright(stored, orientation), stored.format), size, orientation)


def _orientation(image: Image.Image) -> int:
    """The EXIF tag, 1..8; nonsense beside the pixels is no reason to lose them."""
    try:
        tag = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return int(tag) if tag in range(1, 9) else 1


def _to_rgb(image: Image.Image, file_format: str | None) -> Image.Image:
    # Pillow's own conversion of these would clip at 255; it has mode "I" for 16-bit portable graymaps too
    if image.mode.startswith("I;16") or (image.mode == "I" and file_format == "PPM"):
        return _grey(np.asarray(image).astype(np.float64) / 257.0)
    if image.mode == "I":
        raise ValueError("pixels are 32-bit integers, whose range the file does not say: save it with 8 or 16 bits a channel")
    if image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        low, high = values.min(), values.max()
        if not (low >= 0 and high <= 1):  # not a number either
            raise ValueError(f"pixels are numbers from {low:g} to {high:g}, not 0 to 1: save it with 8 or 16 bits a channel")
        return _grey(values * 255.0)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without Pillow's warning
    return image.convert("RGB")


def _grey(values: NDArray[np.float64]) -> Image.Image:
    """Values 0..255 (H, W) as a grey RGB image."""
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8)).convert("RGB")


def turned_upright(stored: Image.Image, orientation: int) -> Image.Image:
    """A stored picture as its EXIF orientation 1..8 says that it is to be looked at."""
    return stored.transpose(_UPRIGHT[orientation]) if orientation > 1 else stored


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header alone.

    Raises:
        UnreadableImage: the header cannot be read.
        UserError: the system does not let it be read.
    """
    with _opened(path) as image:
        return image.size


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """An image whose header is read.

    Content that can't be decoded stays so, whatever a decoder raises about it; a failure of the system (rights, a lost disk, no
    memory) does not, and must not become a record.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            if image.width * image.height > MOST_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels; at most {MOST_PIXELS} are decoded")
            yield image
    except (OSError, MemoryError) as error:
        if isinstance(error, OSError) and error.errno is None:  # Pillow's own
            raise UnreadableImage(f"{path}: {error}") from error
        said = "not enough memory" if isinstance(error, MemoryError) else error.strerror
        raise UserError(f"cannot read {path}: {said}; mend that, and the same command continues.") from error
    except Exception as error:
        raise UnreadableImage(f"{path}: {error}") from error
