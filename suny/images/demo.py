"""A handful of real photographs that come inside wheels this project depends on: nothing to download.

Classes and hand-drawn boxes are in ``demo.yaml`` beside this file, which also says where each photograph is from.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import yaml

from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import Dataset, ImageList, Sample, imagenet_classes
from suny.images.geometry import Box


@configured
class Demo(Dataset):
    """The demo photographs; ``root`` is not used."""

    def read(self) -> ImageList:
        classes = imagenet_classes()
        listing = Path(__file__).with_name("demo.yaml")
        samples = []
        for name, entry in yaml.safe_load(listing.read_text(encoding="utf-8")).items():
            samples.append(
                Sample(
                    image=name,
                    path=_package_folder(entry["package"]) / entry["file"],
                    label=classes[entry["wnid"]][0],
                    boxes=tuple(Box(*(float(v) for v in box)) for box in entry["boxes"]),
                    where=str(listing),
                )
            )
        return ImageList(tuple(samples), dict(classes.values()), "imagenet", has_boxes=True)


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(f"the demo photographs need the package {package}: pip install -e . brings it.")
    return Path(next(iter(spec.submodule_search_locations)))
