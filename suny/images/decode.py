"""Decoding: any image file to upright 8-bit RGB.

Greyscale, palette, CMYK (Adobe's inverted one too) and 16-bit images become RGB; the EXIF orientation is applied.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from suny.errors import UserError

_ORIENTATION = 0x0112


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
    try:
        with Image.open(path) as stored:
            stored.load()
            orientation = stored.getexif().get(_ORIENTATION, 1)
            size = stored.size
            upright = ImageOps.exif_transpose(stored)
            rgb = _to_rgb(upright)
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, Image.DecompressionBombError) as error:
        raise _reason(path, error) from error
    return Decoded(rgb, size, orientation if orientation in range(1, 9) else 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits a pixel: Pillow's own conversion would clip at 255
        deep = np.asarray(image).astype(np.float64)
        image = Image.fromarray((deep / 257.0).round().clip(0, 255).astype(np.uint8))
    return image.convert("RGB")


def stored_size(path: Path) -> tuple[int, int]:
    """(width, height) from the file's header alone.

    Raises:
        UnreadableImage: the header cannot be read.
        UserError: the system does not let it be read.
    """
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise _reason(path, error) from error


def _reason(path: Path, error: Exception) -> Exception:
    """Content that can't be decoded stays so; a failure of the system (rights, a lost disk) does not, and is no record."""
    if isinstance(error, OSError) and error.errno is not None:
        return UserError(f"cannot read {path}: {error.strerror}; mend that, and the same command continues.")
    return UnreadableImage(f"{path}: {error}")
