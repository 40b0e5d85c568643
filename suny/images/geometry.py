"""Boxes and how they follow an image through EXIF rotation, resize and crop.

A box is given by its edges in continuous pixel coordinates, half open: the pixel in column i covers [i, i + 1). A box
over the whole image of width w is therefore (0, ..., w, ...), and an annotation with inclusive corners xmin..xmax has
the edges xmin and xmax + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Box:
    """An axis-parallel box, edges in pixels: columns [x0, x1), rows [y0, y1)."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        return max(self.x1 - self.x0, 0.0) * max(self.y1 - self.y0, 0.0)

    def clip(self, width: float, height: float) -> Box:
        """The part of the box inside an image; its area is 0 where nothing is left."""

        def within(v: float, end: float) -> float:
            return min(max(v, 0.0), end)

        return Box(within(self.x0, width), within(self.y0, height), within(self.x1, width), within(self.y1, height))

    def overhang(self, width: float, height: float) -> float:
        """By how many pixels the box reaches past the image at its worst side (0 where it lies inside)."""
        return max(-self.x0, -self.y0, self.x1 - width, self.y1 - height, 0.0)

    def scale(self, sx: float, sy: float) -> Box:
        return Box(self.x0 * sx, self.y0 * sy, self.x1 * sx, self.y1 * sy)

    def shift(self, dx: float, dy: float) -> Box:
        return Box(self.x0 + dx, self.y0 + dy, self.x1 + dx, self.y1 + dy)


def upright_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """The box, given in the stored pixels, as it lies in the upright image.

    Args:
        box: edges in the stored image.
        size: (width, height) of the stored image.
        orientation: the EXIF orientation tag, 1..8 (EXIF 2.3, tag 0x0112).
    """
    w, h = size

    def point(x: float, y: float) -> tuple[float, float]:
        return {
            1: (x, y),
            2: (w - x, y),
            3: (w - x, h - y),
            4: (x, h - y),
            5: (y, x),
            6: (h - y, x),
            7: (h - y, w - x),
            8: (y, w - x),
        }[orientation]

    (ax, ay), (bx, by) = point(box.x0, box.y0), point(box.x1, box.y1)
    return Box(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by))


def box_mask(boxes: Sequence[Box], height: int, width: int, device: torch.device | str = "cpu") -> Tensor:
    """The union of the boxes as a mask: a pixel is inside where its centre is.

    Returns: bool tensor (height, width).
    """
    mask = torch.zeros(height, width, dtype=torch.bool, device=device)
    x = torch.arange(width, device=device) + 0.5
    y = torch.arange(height, device=device) + 0.5
    for b in boxes:
        mask |= ((y >= b.y0) & (y < b.y1))[:, None] & ((x >= b.x0) & (x < b.x1))[None, :]
    return mask
