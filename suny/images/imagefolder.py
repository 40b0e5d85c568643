"""Any folder of class folders, ``ROOT/<class>/<image>``, or a flat folder of photographs, without boxes.

Class folders named by WordNet ids (n01440764) get ImageNet's class indices; any other names are numbered in sorted order.
Folders are read as torchvision's ImageFolder reads them: each folder in the root is a class, also an empty one, and images in
folders inside it belong to it. What is different: names that are hidden (:func:`suny.images.dataset.is_hidden`) are no classes
and no images. Photographs that lie in the root itself have no labels where there are no class folders.

For training there are two parts: the folders ROOT/train and ROOT/test (or ROOT/val), or, where the root has no such folders,
a share of each class drawn by seed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
    count_of,
    given_root,
    ids_of,
    imagenet_classes,
    inner_folders,
    is_hidden,
    places,
    set_apart,
    wrong_layout,
)

_TEST_FOLDERS = ("test", "val")

# folders of these names are parts of a data set, no classes, where class folders lie in them
_PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}

# The layouts that are read, for messages.
_LAYOUT = "<class folder>/<image>.jpg, or <image>.jpg without class folders"


@configured
class ImageFolder(Dataset):
    """A folder of class folders, or of photographs.

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
            train, test = map(Contents.of, parts)
            return self._listed(train if self.split == "train" else test, [train, test])
        root = self._find()
        if root is None:
            return self._unlabelled(given_root(self.root, self.name, _LAYOUT))
        contents = Contents.of(root)
        every = self._listed(contents, [contents])
        if self.split == "all":
            return every
        learnt, tested = set_apart(every.samples, self.test_share, self.split_seed)
        chosen = learnt if self.split == "train" else tested
        drawn = f"{len(chosen)} of {len(every.samples)} images are the {self.split} part, drawn by dataset.split_seed"
        return replace(every, samples=tuple(chosen), notes=(*every.notes, drawn))

    def _parts(self) -> tuple[Path, Path] | None:
        """The folders of the train and the test part; None where the root has none."""
        root = Path(str(self.root)).expanduser()
        tests = [root / name for name in _TEST_FOLDERS if _has_classes(root / name)]
        return (root / "train", tests[0]) if tests and _has_classes(root / "train") else None

    def _find(self) -> Path | None:
        """The folder of the class folders: the given one, or one at most two levels below it; None: there are none.

        Raises:
            UserError: no root given, or no image in it.
        """
        root = given_root(self.root, self.name, _LAYOUT)
        for folder in (root, *_only_ones(root)):
            full = [f for f in inner_folders(folder) if _has_images(f)]
            parts = [f for f in full if _has_classes(f)]
            if parts and all(f.name.lower() in _PARTS for f in full):
                return parts[0]
            if _has_direct_images(full):
                return folder
        known = imagenet_classes()
        for place in places(root):
            if _has_direct_images([f for f in inner_folders(place) if f.name in known]):
                return place
        if _has_classes(root):
            return root
        if _has_direct_images([root]):
            return None
        raise wrong_layout(self.root, self.name, _LAYOUT)

    def _unlabelled(self, root: Path) -> ImageList:
        """A flat folder of photographs."""
        contents = Contents.of(root)
        samples = _samples(root, contents.loose, {})
        notes = ("no class folders: the photographs have no labels", *contents.left_out())
        return ImageList(samples, {}, "folders", has_boxes=False, notes=notes)

    def _listed(self, contents: Contents, parts: Sequence[Contents]) -> ImageList:
        """The images of a part; classes are numbered by the folders of all parts."""
        imagenet = imagenet_classes()
        full = {name for part in parts for name, images in part.classes.items() if images}
        folders = sorted({name for part in parts for name in part.classes})
        empty = [f for f in folders if f not in full]
        known = [f for f in folders if f in full and f in imagenet]
        space: LabelSpace = "imagenet" if len(known) == len(full) else "folders"
        if known and space == "folders":
            other = next(f for f in folders if f in full and f not in imagenet)
            raise UserError(
                f"dataset.root={self.root}: class folder '{other}' is no ImageNet WordNet id, but {len(known)} "
                "others are: name all class folders by WordNet ids, or none."
            )
        label = {f: imagenet[f][0] for f in known} if space == "imagenet" else {f: i for i, f in enumerate(folders)}
        names = dict(imagenet.values()) if space == "imagenet" else dict(enumerate(folders))
        notes = []
        if contents.root != Path(str(self.root)).expanduser():
            notes.append(f"images are taken from {contents.root}")
        if empty:
            counted = "is left out" if space == "imagenet" else "counts as a class, as in torchvision's ImageFolder"
            notes.append(f"{count_of(empty, 'folder')} without images {counted}")
        files = [image for images in contents.classes.values() for image in images]
        direct = len(contents.root.parts) + 2
        inner = [str(f.relative_to(contents.root)) for f in files if len(f.parts) > direct]
        if inner:
            notes.append(f"{count_of(inner, 'image')} in folders inside class folders: they belong to these classes")
        if contents.loose:
            loose = [str(p.relative_to(contents.root)) for p in contents.loose]
            notes.append(f"{count_of(loose, 'image')} outside class folders left out")
        samples = _samples(contents.root, files, label)
        return ImageList(samples, names, space, has_boxes=False, notes=(*notes, *contents.left_out()))


@dataclass(frozen=True)
class Contents:
    """What lies in a folder of class folders, sorted.

    Args:
        root: the folder.
        classes: the images of each class folder, also of one without any.
        loose: the images in the folder itself.
        hidden: names below the folder that are hidden, relative to it.
        others: files that are no images by their names, in class folders or, where there are none, in the folder.
        broken: links in the folder that lead nowhere.
    """

    root: Path
    classes: dict[str, list[Path]] = field(default_factory=dict)
    loose: list[Path] = field(default_factory=list)
    hidden: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, root: Path) -> Contents:
        found = cls(root)
        beside = []
        for path in sorted(root.iterdir()):
            if is_hidden(path.name):
                found.hidden.append(path.name)
            elif path.is_symlink() and not path.exists():
                found.broken.append(path.name)  # it was a class folder, perhaps
            elif path.is_dir():
                found.classes[path.name] = found._images_in(path)
            elif _is_image(path.name):
                found.loose.append(path)
            else:
                beside.append(path.name)
        if not any(found.classes.values()):
            found.others.extend(beside)  # else these are lists and readmes
        return found

    def _images_in(self, folder: Path) -> list[Path]:
        images = []
        for path in _walk(folder, (_place(self.root),)):
            if _is_image(path.name):
                images.append(path)
            else:
                left_out = self.hidden if is_hidden(path.name) else self.others
                left_out.append(str(path.relative_to(self.root)))
        return sorted(images)

    def left_out(self) -> Iterator[str]:
        """Notes on what is skipped."""
        if self.hidden:
            yield f"{count_of(self.hidden, 'hidden name')} left out"
        if self.others:
            yield f"{count_of(self.others, 'file')} left out: no image by its name"
        if self.broken:
            yield f"{count_of(self.broken, 'link')} left out: nothing lies where it leads"


def _samples(root: Path, files: Sequence[Path], label: dict[str, int]) -> tuple[Sample, ...]:
    names = [p.relative_to(root) for p in files]
    ids = ids_of(names)
    return tuple(Sample(i, p, label.get(n.parts[0])) for i, p, n in zip(ids, files, names, strict=True))


def _walk(folder: Path, above: tuple[tuple[int, int], ...] = ()) -> Iterator[Path]:
    """All files below a folder, and hidden names, into which it does not go; links are followed, but not in a circle."""
    here = _place(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if not is_hidden(entry.name) and entry.is_dir():
                yield from _walk(Path(entry.path), (*above, here))
            else:
                yield Path(entry.path)


def _place(folder: Path) -> tuple[int, int]:
    """What tells a folder from others, whatever links lead to it."""
    state = folder.stat()
    return state.st_dev, state.st_ino


def _is_image(name: str) -> bool:
    """Whether a file of this name is one of the user's images."""
    return os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES and not is_hidden(name)


def _has_images(folder: Path) -> bool:
    """In it, or in folders inside it."""
    return folder.is_dir() and any(_is_image(p.name) for p in _walk(folder))


def _has_classes(folder: Path) -> bool:
    return folder.is_dir() and any(_has_images(f) for f in inner_folders(folder))


def _has_direct_images(folders: Sequence[Path]) -> bool:
    return any(_is_image(p.name) and not p.is_dir() for f in folders for p in f.iterdir())


def _only_ones(root: Path) -> Iterator[Path]:
    """The folders below a folder, at most two levels, as long as one alone has images in it."""
    folder = root
    for _ in range(2):
        full = [f for f in inner_folders(folder) if _has_images(f)]
        if len(full) != 1:
            return
        folder = full[0]
        yield folder
