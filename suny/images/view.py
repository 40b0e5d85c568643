"""The network's view of an image: resize the shorter side, crop the centre, normalise; boxes follow.

Resize and crop are torchvision's, so that a published network sees what it was evaluated on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from suny.images.geometry import Box
from suny.images.masks import Mask
from suny.later import Later

if TYPE_CHECKING:
    from torchvision.transforms import functional as tvf
else:
    tvf = Later("torchvision.transforms.functional")


# An image is resized whole if the result has at most so many pixels. A photograph of 4000 x 3000 pixels becomes 0.1 million
# pixels. A strip that is 1 pixel wide and 20,000 high would become 1300 million, and the crop shows few of them.
_MOST_RESIZED = 2**24


@dataclass(frozen=True)
class View:
    """Preprocessing of a network.

    Args:
        resize: length of the shorter side after the resize, pixels.
        crop: side of the square centre crop, pixels; the network's input size.
        interpolation: ``bilinear`` or ``bicubic`` (antialiased, on 8-bit pixels).
        mean, std: of each RGB channel, for pixels in [0, 1].
        channels: the order in which the network takes them.
    """

    resize: int
    crop: int
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Literal["rgb", "bgr"] = "rgb"

    def settings(self) -> dict[str, Any]:
        """All of it, for cards and digests; the order of channels where it is not the usual one."""
        return {k: v for k, v in asdict(self).items() if (k, v) != ("channels", "rgb")}

    def __call__(self, image: Image.Image) -> Tensor:
        """The normalised input of the network, float32 (3, crop, crop)."""
        return self.normalised(tvf.pil_to_tensor(self.visible(image)))

    def normalised(self, pixels: Tensor) -> Tensor:
        """RGB pixels 0..255, (..., 3, H, W) of any type, as the network takes them: float32."""
        # in units of 0..255, so that a mean of 127 and a standard deviation of 128 are exact
        mean = torch.tensor(self.mean, dtype=torch.float64)[:, None, None] * 255.0
        std = torch.tensor(self.std, dtype=torch.float64)[:, None, None] * 255.0
        found = (pixels.to(torch.float32) - mean.to(pixels.device, torch.float32)) / std.to(pixels.device, torch.float32)
        return found.flip(-3) if self.channels == "bgr" else found

    def visible(self, image: Image.Image) -> Image.Image:
        """What the network sees, as a picture (crop, crop)."""
        if math.prod(self._resized(*image.size)) > _MOST_RESIZED:
            resized = self._resized_part(image)
        else:
            resized = tvf.resize(image, [self.resize], interpolation=tvf.InterpolationMode(self.interpolation))
        return tvf.center_crop(resized, [self.crop, self.crop])

    def _resized_part(self, image: Image.Image) -> Image.Image:
        """The part of the resized image that the crop shows, as far as the longer side goes.

        The filter and its places are those of the whole image; Pillow may take its two passes in another order and round
        between them, which changes a last digit.
        """
        size = self._resized(*image.size)
        long = 0 if size[0] > size[1] else 1
        shown = min(size[long], self.crop)
        begin = round((size[long] - shown) / 2.0)
        part, box = list(size), [0.0, 0.0, *map(float, image.size)]
        part[long] = shown
        box[long], box[long + 2] = (edge * image.size[long] / size[long] for edge in (begin, begin + shown))
        filter_ = Image.Resampling[self.interpolation.upper()]
        return image.resize((part[0], part[1]), filter_, box=(box[0], box[1], box[2], box[3]))

    def boxes(self, boxes: Sequence[Box], size: tuple[int, int]) -> tuple[list[Box], int]:
        """Boxes of the upright image as they lie in the view.

        Args:
            boxes: edges in the upright image, pixels.
            size: (width, height) of the upright image.

        Returns:
            The boxes clipped to the view, and how many the crop has lost.
        """
        (sx, sy), (left, top) = self._placed(size)
        seen = [b.scale(sx, sy).shift(-left, -top).clip(self.crop, self.crop) for b in boxes]
        kept = [b for b in seen if b.area > 0]
        return kept, len(boxes) - len(kept)

    def mask(self, mask: Mask) -> Mask:
        """A mask of the upright image, bool (height, width), as it lies in the view, bool (crop, crop).

        A pixel of the view is inside where its centre lies in a pixel of the mask, as it is inside a box where its centre is;
        nothing is interpolated. What the crop adds beside a small image is outside.
        """
        height, width = mask.shape
        (sx, sy), (left, top) = self._placed((width, height))
        centres = np.arange(self.crop) + 0.5
        x, y = np.floor((centres + left) / sx).astype(int), np.floor((centres + top) / sy).astype(int)
        inside = ((y >= 0) & (y < height))[:, None] & ((x >= 0) & (x < width))[None, :]
        return mask[np.ix_(y.clip(0, height - 1), x.clip(0, width - 1))] & inside

    def point(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """A place of the upright image (of size (width, height)) in the view, pixels; outside [0, crop) the crop lost it."""
        (sx, sy), (left, top) = self._placed(size)
        return x * sx - left, y * sy - top

    def upright(self, x: float, y: float, size: tuple[int, int]) -> tuple[float, float]:
        """A place of the view in the upright image, pixels: the inverse of :meth:`point`."""
        (sx, sy), (left, top) = self._placed(size)
        return (x + left) / sx, (y + top) / sy

    def _placed(self, size: tuple[int, int]) -> tuple[tuple[float, float], tuple[int, int]]:
        """Scale (x, y) of the resize, and left and top edge of the crop."""
        w, h = size
        rw, rh = self._resized(w, h)
        return (rw / w, rh / h), (round((rw - self.crop) / 2.0), round((rh - self.crop) / 2.0))

    def _resized(self, w: int, h: int) -> tuple[int, int]:
        """torchvision's rule: the shorter side becomes ``resize``, the longer one is cut to an integer."""
        return (self.resize, int(self.resize * h / w)) if w <= h else (int(self.resize * w / h), self.resize)
