"""Localization: does the map lie on the object? Boxes and masks are the data set's, followed through resize and crop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from metrics.base import BaseMetric, Case, Frame, Need, Side
from metrics.statistics import Entry, class_mean_interval, maximum_interval
from suny.configured import configured
from suny.images.geometry import Box, box_mask

# MaxBoxAcc resizes maps to this side, and its thresholds are 0, .001, ..., 1.
_SIDE = 224
THRESHOLDS = 1001


@configured
class PointingGame(BaseMetric):
    """1 where the map's maximum lies on the object or near it, at the original resolution; the mean is over classes.

    The first maximum hits if some pixel of the boxes lies at a squared distance strictly under ``tolerance`` squared.

    Args:
        tolerance: pixels of the original image.
    """

    name = "pointing_game"
    higher_is_better = True
    unit = "fraction of images, mean over classes"
    reference = "Zhang et al., Top-down neural attention, ECCV 2016; Fong et al., TorchRay, 2019"
    needs = frozenset({"boxes"})

    tolerance: Annotated[int, Field(ge=0)] = 15

    def measure(self, case: Case) -> float | None:
        if not case.frame or not case.frame.boxes or not case.boxes:  # there are none, or the crop has lost all of them
            return None
        px, py = _pointed(case.saliency, case.frame)
        return float(any(_squared_distance(px, py, b) < max(self.tolerance, 1) ** 2 for b in case.frame.boxes))

    def summarise(self, values: Sequence[Any], classes: Sequence[Any]) -> Entry:
        """The mean over classes of hits / (hits + misses)."""
        return class_mean_interval(values, classes)

    def each(self, values: Sequence[Any], classes: Sequence[Any]) -> list[float]:
        """Hits, weighted so that every class weighs the same."""
        sizes = Counter(str(c) for c in classes)
        return [v * len(values) / (len(sizes) * sizes[str(c)]) for v, c in zip(values, classes, strict=True)]


@configured
class PointingGameMask(PointingGame):
    """1 where the map's maximum lies in the object's mask or near it, as :class:`PointingGame` has it for boxes."""

    name = "pointing_game_mask"
    needs = frozenset({"masks"})

    def measure(self, case: Case) -> float | None:
        if not case.frame or case.frame.mask is None or case.mask is None or not bool(case.mask.any()):
            return None
        px, py = _pointed(case.saliency, case.frame)
        reach = max(self.tolerance, 1)
        top, left = max(py - reach, 0), max(px - reach, 0)
        y, x = np.nonzero(case.frame.mask[top : max(py + reach, 0), left : max(px + reach, 0)])
        return float(((y + top - py) ** 2 + (x + left - px) ** 2 < reach**2).any())


def _pointed(saliency: Tensor, frame: Frame) -> tuple[int, int]:
    """Column and row of the upright image's pixel that the first maximum of a map (H, W) lies in."""
    y, x = divmod(int(saliency.argmax()), saliency.shape[1])
    px, py = (int(np.floor(v)) for v in frame.upright(x + 0.5, y + 0.5))
    return px, py


def _squared_distance(x: int, y: int, box: Box) -> float:
    """The squared distance from a pixel to the nearest pixel of a box, whose pixels are those with their centre inside."""
    first_x, last_x = np.ceil(box.x0 - 0.5), np.ceil(box.x1 - 0.5) - 1
    first_y, last_y = np.ceil(box.y0 - 0.5), np.ceil(box.y1 - 0.5) - 1
    dx, dy = max(first_x - x, 0, x - last_x), max(first_y - y, 0, y - last_y)
    return float(dx * dx + dy * dy)


@configured
class BoxAccuracy(BaseMetric):
    """MaxBoxAcc: the share of images whose box is found, at the threshold that is best for the whole data set.

    The map is resized to 224 (cubic) and min-max normalised; at each threshold 0, .001, ..., 1 the pixels above it have
    contours and these have boxes. An image is right at a threshold where the box of the largest contour (``largest``), or
    of any contour, has the IoU with a box of the object. The maximum over thresholds is an oracle on the same data.
    Recorded: the ranges of thresholds at which the image is right, for each IoU.

    Args:
        name: the key in records and tables.
        ious: with several, the mean of the maxima, each at a threshold of its own.
        largest: whether the largest contour alone counts.
    """

    higher_is_better = True
    unit = "fraction of images"
    reference = "Choe et al., Evaluating weakly supervised object localization methods right, CVPR 2020"
    needs = frozenset({"boxes"})

    name: str = "max_box_acc"
    ious: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = field(default_factory=lambda: [0.5])
    largest: bool = True

    @property
    def label(self) -> str:
        return {"max_box_acc": "MaxBoxAcc", "max_box_acc_v2": "MaxBoxAccV2"}.get(self.name, self.name)

    def measure(self, case: Case) -> dict[str, list[list[int]]] | None:
        if not case.boxes:
            return None
        best = case.once(("box ious", self.largest), lambda: self._best_ious(case))
        return {f"{iou:g}": _runs(best >= iou) for iou in self.ious}

    def _best_ious(self, case: Case) -> NDArray[np.float64]:
        """The best IoU at each threshold, (THRESHOLDS,)."""
        grey = cv2.resize(case.saliency.cpu().numpy(), (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC).astype(np.float64)
        span = grey.max() - grey.min()
        grey = (grey - grey.min()) / span if span > 0 else np.zeros_like(grey)
        scale = _SIDE / case.saliency.shape[1], _SIDE / case.saliency.shape[0]
        truth = np.array([_inclusive(b.scale(*scale)) for b in case.boxes], dtype=np.float64)
        best = np.zeros(THRESHOLDS)
        steps = np.linspace(0, 1, THRESHOLDS)
        # Pixels change sides only between neighbouring values: a threshold with the same pixels has the same boxes.
        above = np.searchsorted(np.sort(grey, axis=None), steps, side="right")
        for at, threshold in enumerate(steps):
            if at and above[at] == above[at - 1]:
                best[at] = best[at - 1]
            else:
                boxes = contour_boxes(grey > threshold, self.largest)
                best[at] = float(_ious(boxes, truth).max()) if len(boxes) else 0.0
        return best

    def summarise(self, values: Sequence[Any], classes: Sequence[Any]) -> Entry:
        """The mean over the IoUs of the largest share of right images at one threshold."""
        return maximum_interval(self._right(values))

    def each(self, values: Sequence[Any], classes: Sequence[Any]) -> list[float]:
        """The share of the IoUs at which an image is right, at the data set's best thresholds."""
        right = self._right(values)
        best = right.mean(1).argmax(1) if len(values) else np.zeros(len(right), int)
        return right[np.arange(len(right)), :, best].mean(0).tolist()

    def _right(self, values: Sequence[Any]) -> NDArray[np.bool_]:
        """(IoUs, images, thresholds)."""
        right = np.zeros((len(self.ious), len(values), THRESHOLDS), dtype=bool)
        for i, iou in enumerate(self.ious):
            for at, value in enumerate(values):
                for start, end in value[f"{iou:g}"]:
                    right[i, at, start:end] = True
        return right


def contour_boxes(mask: NDArray[np.bool_], largest: bool) -> NDArray[np.float64]:
    """Boxes (n, 4) of the contours of a mask, corners x0 y0 x1 y1; the far ones lie one pixel past the last, at most at
    the border, as in the reference's use of OpenCV: a square of 10 x 10 pixels has a box of 11 x 11 inclusive ones."""
    contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    if largest and contours:
        contours = [max(contours, key=cv2.contourArea)]
    height, width = mask.shape
    boxes = [cv2.boundingRect(c) for c in contours]
    return np.array([[x, y, min(x + w, width - 1), min(y + h, height - 1)] for x, y, w, h in boxes], np.float64).reshape(-1, 4)


def _inclusive(box: Box) -> tuple[float, float, float, float]:
    return box.x0, box.y0, max(box.x1 - 1, box.x0), max(box.y1 - 1, box.y0)


def _ious(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of boxes with inclusive corners, (len(a), len(b))."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    inside = np.clip(high - low + 1, 0, None).prod(2)
    areas = [(x[:, 2:] - x[:, :2] + 1).prod(1) for x in (a, b)]
    return inside / (areas[0][:, None] + areas[1][None, :] - inside)


def _runs(right: NDArray[np.bool_]) -> list[list[int]]:
    """[start, end) of the ranges in which a row is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], right, [False]]).astype(np.int8)))
    return edges.reshape(-1, 2).tolist()


@configured
class RegionIou(BaseMetric):
    """IoU of the boxes' union with the pixels whose min-max normalised value is at least the threshold.

    Args:
        threshold: lies between 0 and 1, the map's least and largest value.
    """

    name = "iou"
    label = "IoU"
    higher_is_better = True
    unit = "fraction"
    reference = "definition: metrics/localization.py"
    needs = frozenset({"boxes"})

    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5

    def measure(self, case: Case) -> float | None:
        if not case.boxes:
            return None
        low, high = case.saliency.min(), case.saliency.max()
        height, width = case.saliency.shape
        inside = box_mask(case.boxes, height, width, case.saliency.device)
        above = (case.saliency - low >= self.threshold * (high - low)) & (high > low)
        either = float((inside | above).sum())
        return float((inside & above).sum()) / either if either else None


@configured
class PartHits(BaseMetric):
    """Share of the visible annotated parts that lie in the most salient pixels of a map.

    The record notes the parts that are hit, so that one sees which parts identify a species.

    Args:
        name: the key in records and tables.
        q: percent of the pixels.
        side: names the map.
    """

    higher_is_better = None
    unit = "fraction of the visible parts"
    reference = "definition: metrics/localization.py"

    name: str = "part_hits"
    q: Annotated[float, Field(gt=0, le=100)] = 5.0
    side: Side = "saliency"

    @property
    def needs(self) -> frozenset[Need]:
        return frozenset({"parts"}) if self.side == "saliency" else frozenset({"parts", "sides"})

    def measure(self, case: Case) -> float | None:
        if not case.parts or not case.has(self.side):
            return None
        height, width = case.saliency.shape
        top = case.rank(self.side) < round(self.q / 100 * case.pixels)
        # A part is a point, and counts as the pixel that holds it.
        places = [(name, min(int(y), height - 1), min(int(x), width - 1)) for name, x, y in case.parts]
        hit = [name for name, y, x in places if bool(top[y, x])]
        case.notes[self.name] = hit
        return len(hit) / len(places)
