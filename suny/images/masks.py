"""Masks of objects: which pixels of an image belong to them.

A data set keeps a mask as COCO compresses it: lengths of runs outside and inside the object, column by column, in text of a few
hundred bytes, which pycocotools makes of polygons and of run lengths. An array of it is made where it is measured.

A mask follows its image as boxes do: through a resized copy, EXIF rotation, and the network's view
(:meth:`suny.images.view.View.mask`). A pixel of the new frame takes the value of the pixel in which its centre lies.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from suny.errors import UserError
from suny.images.decode import turned_upright

Mask = NDArray[np.bool_]


def run_lengths() -> Any:
    """pycocotools' functions on run lengths.

    Raises:
        UserError: it is not installed.
    """
    try:
        from pycocotools import mask
    except ImportError as error:
        raise UserError(
            "masks are read with pycocotools, which is not installed: pip install -c constraints.txt -e '.[coco]', or do "
            "without masks (dataset.masks=false)."
        ) from error
    return mask


def mask_of(runs: bytes, size: tuple[int, int]) -> Mask:
    """The mask, bool (height, width), of compressed run lengths; ``size`` is (width, height)."""
    return run_lengths().decode({"size": [size[1], size[0]], "counts": runs}).astype(bool)


def resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """A mask (height, width) by its nearest pixels at another size (width, height)."""
    if mask.shape[::-1] == size:
        return mask
    return np.asarray(Image.fromarray(mask.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)).astype(bool)


def upright_mask(mask: Mask, orientation: int) -> Mask:
    """A mask of the stored pixels on the upright image; ``orientation`` is the EXIF tag, 1..8."""
    return np.asarray(turned_upright(Image.fromarray(mask.astype(np.uint8)), orientation)).astype(bool)
