"""Finds the images of a finished cell, as the network saw them, and its stored maps."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from numpy.typing import NDArray
from PIL import Image

from baselines.precomputed import Precomputed
from experiments.command.configuration import file_cache, make_target
from experiments.command.program import composed
from experiments.store.reading import Result
from suny.errors import UserError
from suny.explanation import MissingMap
from suny.images.dataset import Dataset, Sample, upright_annotation
from suny.images.decode import UnreadableImage, decode
from suny.images.geometry import Box
from suny.images.view import View

Maps = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class CellImages:
    """The images of a cell.

    Args:
        samples: by id; empty where the data set can't be read any more.
        class_names: by class index.
        view: shows an image as the network saw it.
        why: the reason where there are none.
    """

    samples: Mapping[str, Sample]
    class_names: Mapping[int, str]
    view: View
    why: str = ""

    def class_name(self, index: int | None) -> str:
        return "-" if index is None else self.class_names.get(index, f"class {index}")

    def seen(self, image: str) -> tuple[Image.Image, list[Box]] | None:
        """The network's view and the boxes in it, pixels of the view; None where the image is not there or can't be decoded.

        An annotation that does not fit its image gives no box.
        """
        sample = self.samples.get(image)
        if sample is None or not sample.path.is_file():
            return None
        try:
            decoded = decode(sample.path)
        except UnreadableImage:
            return None
        try:
            boxes, _ = self.view.boxes(upright_annotation(sample, decoded), decoded.image.size)
        except UserError:
            boxes = []
        return self.view.visible(decoded.image), boxes

    def visible(self, image: str) -> Image.Image | None:
        """The network's view; None where the image is not there or can't be decoded."""
        seen = self.seen(image)
        return None if seen is None else seen[0]


def images_of(result: Result, root: str | None = None) -> CellImages:
    """The images that a cell's card names, found again below a root, or where its data set lay."""
    configuration = dict(result.configuration["dataset"]) | {"strict": False}
    for place in [*([root] if root else []), configuration["root"]]:
        samples, names, why = _loaded(json.dumps(configuration | {"root": place}), result.card["identity"]["images"]["sha256"])
        if not why:
            break
    return CellImages(samples, names, view_of(result), why)


def view_of(result: Result) -> View:
    keys = result.card["identity"]["preprocessing"]
    return View(keys["resize"], keys["crop"], keys["interpolation"], tuple(keys["mean"]), tuple(keys["std"]))


@functools.cache
def _loaded(configuration: str, digest: str) -> tuple[dict[str, Sample], dict[int, str], str]:
    """Samples and class names of a data set, and why there are none: other images than the cell's are not shown as its own."""
    try:
        dataset = make_target(json.loads(configuration), "dataset", Dataset)
        images = dataset.load(file_cache(dataset, composed([]).caches))
    except (UserError, OSError) as error:
        return {}, {}, str(error)
    if images.digest != digest:
        return {}, images.class_names, "the data set has changed since the cell was computed"
    return {s.image: s for s in images.samples}, images.class_names, ""


def maps_folder(result: Result) -> Path:
    """The folder of a cell's maps, if it has any."""
    return Path(result.configuration["method"]["maps"]).expanduser() if result.stored else result.folder / "maps"


def maps_of(result: Result, image: str) -> Maps | None:
    """``saliency`` and, of a two-sided method, ``necessity`` and ``sufficiency``, of the size of the network's view; None where
    they were not stored."""
    crop = view_of(result).crop
    try:
        explanation = Precomputed(maps=str(maps_folder(result))).load(image, torch.empty(3, crop, crop))
    except (MissingMap, UserError):
        return None
    maps = {"saliency": explanation.saliency, "necessity": explanation.necessity, "sufficiency": explanation.sufficiency}
    return {name: torch.nan_to_num(m[0], posinf=0.0, neginf=0.0).numpy() for name, m in maps.items() if m is not None}
