"""Any folder of class folders, ``ROOT/<class>/<image>``, without boxes.

Class folders named by WordNet ids (n01440764) get ImageNet's class indices; any other names are numbered in sorted order,
as torchvision's ImageFolder does.

For training there are two parts: the folders ROOT/train and ROOT/test (or ROOT/val), or, where the root has no such folders,
a share of each class drawn by seed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from suny.configured import Seed, configured
from suny.errors import UserError
from suny.images.dataset import (
    IMAGE_SUFFIXES,
    Dataset,
    ImageList,
    LabelSpace,
    Sample,
    find_root,
    imagenet_classes,
    set_apart,
)

_TEST_FOLDERS = ("test", "val")


@configured
class ImageFolder(Dataset):
    """A folder of class folders.

    Args:
        split: ``all`` images, or the ``train`` or ``test`` part.
        test_share: of each class, where the root has no folders train and test (or val).
        split_seed: of that draw.
    """

    split: Literal["all", "train", "test"] = "all"
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.3
    split_seed: Seed = 0

    def read(self) -> ImageList:
        parts = self._parts()
        if self.split != "all" and parts:
            known = sorted({p.parent.name for part in parts for p in _images(part)})
            return self._listed(parts[0] if self.split == "train" else parts[1], known)
        root = find_root(self.root, self.name, lambda f: any(_images(f)), "<class folder>/<image>.jpg")
        every = self._listed(root, sorted({p.parent.name for p in _images(root)}))
        if self.split == "all":
            return every
        train, test = set_apart(every.samples, self.test_share, self.split_seed)
        chosen = train if self.split == "train" else test
        drawn = f"{len(chosen)} of {len(every.samples)} images are the {self.split} part, drawn by dataset.split_seed"
        return replace(every, samples=tuple(chosen), notes=(*every.notes, drawn))

    def _parts(self) -> tuple[Path, Path] | None:
        """The folders of the train and the test part; None where the root has none."""
        root = Path(str(self.root)).expanduser()
        tests = [root / name for name in _TEST_FOLDERS if any(_images(root / name))]
        return (root / "train", tests[0]) if tests and any(_images(root / "train")) else None

    def _listed(self, root: Path, folders: list[str]) -> ImageList:
        files = sorted(_images(root))
        imagenet = imagenet_classes()
        known = [f for f in folders if f in imagenet]
        space: LabelSpace = "imagenet" if len(known) == len(folders) else "folders"
        if known and space == "folders":
            other = next(f for f in folders if f not in imagenet)
            raise UserError(
                f"dataset.root={self.root}: class folder '{other}' is no ImageNet WordNet id, but {len(known)} "
                "others are: name all class folders by WordNet ids, or none."
            )
        label = {f: imagenet[f][0] if space == "imagenet" else i for i, f in enumerate(folders)}
        names = dict(imagenet.values()) if space == "imagenet" else dict(enumerate(folders))
        stems = [str(p.relative_to(root).with_suffix("")) for p in files]
        ids = stems if len(set(stems)) == len(stems) else [str(p.relative_to(root)) for p in files]
        samples = tuple(Sample(i, p, label[p.parent.name]) for i, p in zip(ids, files, strict=True))
        inside = root != Path(str(self.root)).expanduser()
        notes = (f"images are taken from {root}",) if inside else ()
        return ImageList(samples, names, space, has_boxes=False, notes=notes)


def _images(folder: Path) -> Iterator[Path]:
    return (p for p in folder.glob("*/*") if p.suffix.lower() in IMAGE_SUFFIXES)
