"""Images made by a seeded generator, whose class follows from which shapes are there (:mod:`suny.images.scenes`).

The first use writes the images to disk, so that any tool can read them:

    <root>/<world>-<size>px-<count>-seed<seed>/
        images/0007-and.png         what is explained
        backgrounds/0007-and.png    the same without any shape
        owners/0007-and.png         0: background, i: shape i (1..n), in drawing order
        truth.json                  for each image: rule, label, kinds of its shapes, necessity and sufficiency of each,
                                    whether it matters at all, and whether the class is retained by each coalition

The image in which a shape is erased is the image with the background put where that shape is; keep only it: the background
with the image there. All rules of the world have equally many images; none is of the class ``none``.
"""

from __future__ import annotations

import json
import re
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
from filelock import FileLock
from PIL import Image
from pydantic import Field
from tqdm import tqdm

from suny.configured import Seed, configured
from suny.errors import UserError
from suny.images.dataset import Dataset, ImageList, Sample, is_hidden
from suny.images.geometry import Box
from suny.images.known_causes import KnownCauses
from suny.images.scenes import WORLDS, World, WorldName, compose, draw_scene, only, retained
from suny.images.view import View
from suny.later import Later

if TYPE_CHECKING:
    from torchvision.transforms import functional as tvf
else:
    tvf = Later("torchvision.transforms.functional")

# raised whenever the generator would make other images or another truth from the same seed
GENERATOR = 1

# the names of the folders that the generator makes
_MADE = re.compile(rf"({'|'.join(WORLDS)})-\d+px-\d+-seed\d+")


@configured
class CausalShapes(Dataset):
    """Generated images with known causes.

    Args:
        root: the folder below which they are written, and read again when they are there; it may hold nothing else.
        world: ``main``; ``dev``, for finding settings: other shapes, hues and rules; ``colours``: kinds are hues.
        size: side of the images, pixels.
        count: how many images; each rule has equally many, up to one.
        generator_seed: of the images; sets of different seeds share none.
    """

    world: WorldName = "main"
    size: Annotated[int, Field(ge=64, le=224)] = 64
    count: Annotated[int, Field(ge=1, le=100_000)] = 200
    generator_seed: Seed = 0

    @property
    def folder(self) -> Path:
        if not self.root:
            raise UserError(f"dataset '{self.name}' needs a folder to write its images to: give dataset.root=PATH.")
        return Path(self.root).expanduser() / f"{self.world}-{self.size}px-{self.count}-seed{self.generator_seed}"

    @cached_property
    def _truth(self) -> dict[str, Any]:
        """Content of truth.json; the images are made where they are not there."""
        file = self.folder / "truth.json"
        settings = {"generator": GENERATOR, "world": self.world, "size": self.size, "count": self.count}
        settings["seed"] = self.generator_seed
        if not file.is_file():
            self._write(settings)
        try:
            found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            if found["settings"] == settings:
                return found
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise UserError(f"{file} is damaged or of another version of the generator: remove the folder, it is made again.")

    def read(self) -> ImageList:
        images: dict[str, Any] = self._truth["images"]
        samples = [
            Sample(
                image=name,
                path=self.folder / "images" / f"{name}.png",
                label=entry["label"],
                boxes=tuple(Box(*box) for box, matters in zip(entry["boxes"], entry["matters"], strict=True) if matters),
                where=str(self.folder / "truth.json"),
            )
            for name, entry in images.items()
        ]
        notes = (f"images and truth: {self.folder}",)
        classes = WORLDS[self.world].classes
        return ImageList(tuple(samples), classes, "own", has_boxes=True, has_causes=True, notes=notes)

    def known_causes(self, sample: Sample, view: View, device: torch.device | str = "cpu") -> KnownCauses:
        entry = self._truth["images"][sample.image]
        image, background, owner = (
            np.asarray(_opened(self.folder / kind / f"{sample.image}.png")) for kind in ("images", "backgrounds", "owners")
        )
        count = len(entry["kinds"])

        def intervene(keep: np.ndarray[Any, np.dtype[np.bool_]]) -> torch.Tensor:
            return torch.stack([view(Image.fromarray(only(image, background, owner, row))) for row in keep]).to(device)

        seen = tvf.resize(Image.fromarray(owner), [view.resize], interpolation=tvf.InterpolationMode.NEAREST)
        places = torch.from_numpy(np.array(tvf.center_crop(seen, [view.crop, view.crop])))
        masks = places[None] == torch.arange(1, count + 1)[:, None, None]
        return KnownCauses(
            label=entry["label"],
            rule=entry["rule"],
            masks=masks.to(device),
            retained=np.array(entry["retained"], dtype=bool),
            intervene=intervene,
        )

    def _refuse_others_folder(self) -> None:
        """Raises UserError for a root with files of somebody else: pictures that are made there would be taken for theirs."""
        parent = self.folder.parent
        if not parent.is_dir():
            return
        others = sorted(p.name for p in parent.iterdir() if not is_hidden(p.name) and not _MADE.fullmatch(p.name))
        if others:
            raise UserError(
                f"dataset.root={self.root} holds other files (first: {others[0]}): dataset '{self.name}' makes its images, "
                "and reads none of yours; give a folder that is empty or new, or leave dataset.root out."
            )

    def _write(self, settings: dict[str, Any]) -> None:
        """Makes all images in a folder beside, which then takes its place: a reader sees all of them or none."""
        world, folder = WORLDS[self.world], self.folder
        entries: dict[str, Any] = {}
        try:
            self._refuse_others_folder()
            folder.parent.mkdir(parents=True, exist_ok=True)
            there = folder.with_name(f".{folder.name}.new")
            with FileLock(f"{there}.lock"):
                if (folder / "truth.json").is_file():  # another process was faster
                    return
                shutil.rmtree(there, ignore_errors=True)  # left behind by one that was killed
                for kind in ("images", "backgrounds", "owners"):
                    (there / kind).mkdir(parents=True)
                for index in tqdm(
                    range(self.count), desc=f"making {folder.name}", unit="img", disable=self.count < 1000 or None
                ):
                    name, entry, pixels = make(world, index, self.size, self.generator_seed)
                    entries[name] = entry
                    for kind, content in pixels.items():
                        Image.fromarray(content).save(there / kind / f"{name}.png")
                text = json.dumps({"settings": settings, "classes": world.classes, "images": entries}, indent=1)
                (there / "truth.json").write_text(text, encoding="utf-8")
                if folder.is_dir() and not (folder / "truth.json").is_file():  # left behind without its list
                    shutil.rmtree(folder)
                there.rename(folder)
        except OSError as error:
            raise UserError(f"the images of dataset '{self.name}' cannot be written to {folder}: {error}.") from error


def make(world: World, index: int, size: int, seed: int) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """One image of a data set: its id, its entry in truth.json, and the pixels of the three pictures."""
    rng = np.random.default_rng([seed, index])
    rule = world.rules[index % len(world.rules)]
    kinds = compose(world, rule, rng)
    scene = draw_scene(world, kinds, size, rng)
    found = KnownCauses(
        world.label(kinds), rule.name, torch.empty(len(kinds), 0), retained(world, kinds), lambda _: torch.empty(0)
    )
    entry = {
        "rule": rule.name,
        "label": found.label,
        "kinds": list(kinds),
        "boxes": [_box(scene.owner == i + 1) for i in range(len(kinds))],
        "necessity": found.necessity.tolist(),
        "sufficiency": found.sufficiency.tolist(),
        "matters": found.matters.tolist(),
        "retained": found.retained.astype(int).tolist(),
    }
    pixels = {"images": scene.image, "backgrounds": scene.background, "owners": scene.owner}
    return f"{index:04d}-{rule.name}", entry, pixels


def _box(inside: np.ndarray[Any, np.dtype[np.bool_]]) -> list[float]:
    """Edges of the pixels' bounding box."""
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(path).copy()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}): remove its folder's parent, the images are made again.") from error
