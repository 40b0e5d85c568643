"""What every data set is: a list of samples with their annotations.

A data set reads its lists (cheap), a seeded subset is drawn, and the drawn samples are checked before anything is
computed: the file is there, every box has a size and lies in its image. A new data set is one module with a subclass
of :class:`Dataset` and one file in ``conf/dataset``.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import operator
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from suny.configured import Seed, configured, place_of
from suny.errors import UserError, nearest
from suny.images.decode import Decoded, UnreadableImage, stored_size
from suny.images.filecache import FileCache, Store, absolute
from suny.images.geometry import Box, box_mask, upright_box
from suny.images.masks import Mask, mask_of, resized, upright_mask

if TYPE_CHECKING:  # a folder that is missing is told without torch
    import torch

    from suny.images.known_causes import KnownCauses
    from suny.images.view import View

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")

# What systems and programs leave beside a user's files, under names that do not begin with a dot: macOS' archives, Windows,
# network storage (thumbnails of every photograph) and file systems.
_LEFTOVERS = {"__macosx", "thumbs.db", "desktop.ini", "@eadir", "$recycle.bin", "system volume information", "lost+found"}

# Annotations of the official sets overhang their image by a pixel or two (CUB image 47); that much is rounding.
_OVERHANG = 2.0

# A root with more folders than this is a data set itself, no folder of data sets.
_PARENT_FOLDERS = 100

_END = 65536  # bytes

# File systems allow names of so many bytes, and a path so many characters, so that there is room for the folders above it
_LONGEST_NAME, _LONGEST_PATH = 255, 1000

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc

# imagenet: ImageNet's indices 0..999; own: the data set's official ids; folders: positions in a sorted list of folders, or of
# other names, which say nothing without the list
LabelSpace = Literal["imagenet", "own", "folders"]


@dataclass(frozen=True)
class Sample:
    """One image of a data set.

    Args:
        image: its id: the path below the image folder without suffix (ILSVRC2012: the official image id). Files about the image
            are named by it (:func:`refuse_id`).
        path: the file.
        label: class index, None where the data set has none.
        boxes: edges in pixels of the annotated frame (:mod:`suny.images.geometry`); plain (x0, y0, x1, y1) become boxes.
        parts: named points (x, y) in pixels of the annotated frame, visible ones only.
        annotated_size: (width, height) of the frame the annotation was made in, None where it is not stated.
        mask: the union of the object's instances in the annotated frame, run lengths as COCO compresses them
            (:mod:`suny.images.masks`); None where the data set has none. ``annotated_size`` is stated wherever there is one.
        where: what a complaint about the annotation names (a file).
        problem: why the sample can't be used in full, None where nothing is wrong.
    """

    image: str
    path: Path
    label: int | None = None
    boxes: tuple[Box, ...] = ()
    parts: tuple[tuple[str, float, float], ...] = ()
    annotated_size: tuple[int, int] | None = None
    mask: bytes | None = None
    where: str = ""
    problem: str | None = None

    def __post_init__(self) -> None:
        """Accepts the usual forms of what data sets read.

        Raises:
            UserError: a value of another kind.
        """
        if not isinstance(self.image, str):
            raise UserError(f"image {self.image!a:.80} is a {type(self.image).__name__}: give its id as a text.")
        if type(self.path) is str:
            object.__setattr__(self, "path", Path(self.path))
        if self.label is not None and type(self.label) is not int:
            object.__setattr__(self, "label", _index(self.label, self.image))
        if type(self.boxes) is not tuple or any(type(box) is not Box for box in self.boxes):
            object.__setattr__(self, "boxes", tuple(_box(box, self.image) for box in self.boxes))


@dataclass(frozen=True)
class ImageList:
    """The samples of one run.

    Args:
        samples: in a fixed order, sorted by image id.
        class_names: by class index.
        label_space: what the labels count.
        has_boxes: whether the data set is annotated with boxes at all.
        has_causes: whether it is known what its images' classes are caused by.
        notes: what a user should know about the list, one line each.
        cache: where its digest is kept.
    """

    samples: tuple[Sample, ...]
    class_names: dict[int, str]
    label_space: LabelSpace
    has_boxes: bool
    has_causes: bool = False
    notes: tuple[str, ...] = field(default=())
    cache: FileCache = field(default=FileCache(), repr=False, compare=False)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of the image ids, labels, boxes, parts, masks and of the files' content, wherever they lie.

        Of a file its size, first and last 64 kB count: other pixels under the same name are another list. As long as no file
        changes, they are read once, and then known from the cache.
        """

        def read() -> tuple[str, bool]:
            digest, good = hashlib.sha256(), True
            for sample, line in zip(self.samples, lines, strict=True):
                content, sure = _fingerprint(sample.path)
                digest.update(line)
                digest.update(content)
                good = good and sure
            return digest.hexdigest(), good

        lines = [_said(s) for s in self.samples]
        paths = [s.path for s in self.samples]
        about = hashlib.sha256()
        for line, path in zip(lines, paths, strict=True):
            about.update(line + b"\0" + absolute(path).encode("utf-8", "surrogatepass") + b"\0")
        with self.cache.open("lists") as lists:
            return str(lists.kept(f"digest1 {about.hexdigest()}", paths, read))


@configured
class Dataset:
    """Base of the data sets; the fields are the keys of ``conf/dataset/*.yaml``.

    Args:
        name: as in ``dataset=NAME``.
        root: folder of the data set; None: the folder in the environment variable SUNY_DATA, or below it.
        limit: how many images to draw; None takes all.
        subset_seed: seed of the draw.
        strict: True: a listed image that is missing, or an annotation that is wrong, ends the run before it
            starts. False: such images are counted as failures and the others are used.
    """

    # fields that say where the lists lie and how they are read: what comes of them is in the digest of the images
    places: ClassVar[tuple[str, ...]] = ()

    name: str
    root: str | None = None
    limit: int | None = None
    subset_seed: Seed = 0
    strict: bool = True

    def read(self) -> ImageList:
        """All samples that the lists name, not yet checked."""
        raise NotImplementedError

    def annotate(self, sample: Sample, files: Store) -> Sample:
        """Fills in what is expensive to read for all samples (an annotation file for each image), or was kept of it."""
        return sample

    def known_causes(self, sample: Sample, view: View, device: torch.device | str = "cpu") -> KnownCauses | None:
        """What is known about the causes of a sample's class, as a network sees it; None where nothing is."""
        return None

    def load(self, cache: FileCache | None = None) -> ImageList:
        """The checked samples of a run.

        Args:
            cache: where what is read from the files is kept for the next time; None: nowhere.

        Raises:
            UserError: a missing folder or list, a missing image, an annotation without box or with one outside the
                image (where ``strict``), a limit that is not positive.
        """
        if self.limit is not None and self.limit < 1:
            raise UserError(f"dataset.limit is {self.limit}: give at least 1, or null for all images.")
        found = self.read()
        if not isinstance(found, ImageList):
            raise UserError(
                f"dataset '{self.name}': read returned a {type(found).__name__}, no ImageList: {place_of(type(self))}."
            )
        if not found.samples:
            raise UserError(f"dataset '{self.name}': no image found in {self.root}.")
        for s in found.samples:
            refuse_id(s.image, f"dataset '{self.name}'")
            refuse_id(s.path.name, f"dataset '{self.name}'")
        ordered = sorted(found.samples, key=lambda s: s.image)
        for one, following in itertools.pairwise(ordered):
            if one.image == following.image:
                raise UserError(f"dataset '{self.name}': image {one.image} is listed twice; remove one of the two lines.")
        drawn = draw(ordered, self.limit, self.subset_seed)
        cache = cache or FileCache()
        with cache.open("samples") as files:
            checked = tuple(self._checked(s, found.has_boxes, files) for s in drawn)
        classes = max(found.class_names, default=-1) + 1
        for s in checked:
            if s.label is not None and not 0 <= s.label < classes:
                listed = f"the class list has 0..{classes - 1}" if classes else "and there is no class list (class_names)"
                raise UserError(f"dataset '{self.name}': image {s.image} has class index {s.label}, {listed}.")
        wrong = [s for s in checked if s.problem]
        if wrong and self.strict:
            more = f" ({len(wrong)} of {len(checked)} images have such a problem)" if len(wrong) > 1 else ""
            raise UserError(
                f"dataset '{self.name}': {wrong[0].problem}{more}. "
                "Mend it, or count such images as failures with dataset.strict=false."
            )
        return replace(found, samples=checked, cache=cache)

    def _checked(self, sample: Sample, needs_box: bool, files: Store) -> Sample:
        try:
            return _check(self.annotate(sample, files), needs_box, files)
        except UserError as error:
            return replace(sample, problem=str(error).rstrip("."))


def _index(label: Any, image: str) -> int:
    """A class index of any integer type.

    Raises:
        UserError: it is none.
    """
    try:
        return operator.index(label)
    except TypeError:
        raise UserError(
            f"image {image} has the label {label!a:.80}, a {type(label).__name__}: give a class index 0, 1, ..., or None."
        ) from None


def _box(box: Any, image: str) -> Box:
    """A box given as :class:`Box`, or as its four edges.

    Raises:
        UserError: it is neither.
    """
    if isinstance(box, Box):
        return box
    try:
        x0, y0, x1, y1 = (float(edge) for edge in box)
    except (TypeError, ValueError):
        raise UserError(f"image {image} has the box {box!a:.80}: give edges (x0, y0, x1, y1) in pixels.") from None
    return Box(x0, y0, x1, y1)


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none of the user's: ``.ipynb_checkpoints``, ``._photo.jpg``, ``Thumbs.db``."""
    return name.startswith(".") or name.lower() in _LEFTOVERS


def refuse_id(image: str, where: str) -> None:
    """Results are written to files named by the id, and lines printed with it: it may lead nowhere else.

    Raises:
        UserError: an id that is empty, absolute or leads out of a folder, or one with control characters, or too long.
    """
    parts = image.split("/")  # an absolute one begins with an empty part
    control = _CONTROL.search(image) is not None
    long = len(image) > _LONGEST_PATH or any(len(part.encode("utf-8", "surrogatepass")) > _LONGEST_NAME for part in parts)
    if control or long or any(part in ("", ".", "..") for part in parts) or os.path.splitdrive(image)[0]:
        raise UserError(
            f"{where}: {image!a:.200} cannot be an image's name: it has to be a path below the folder of images, without '..' "
            f"and control characters, of at most {_LONGEST_NAME} bytes a part. Rename the file, or mend the list."
        )


def ids_of(names: Sequence[Path]) -> list[str]:
    """The ids of images by their paths below a folder: without suffixes, where they differ without them."""
    stems = [str(n.with_suffix("")) for n in names]
    return stems if len(set(stems)) == len(stems) else [str(n) for n in names]


def count_of(names: Sequence[str], what: str) -> str:
    """``3 files (first: a.txt)``."""
    return f"{len(names)} {what}{'s' * (len(names) > 1)} (first: {min(names)!a:.200})"


def _said(sample: Sample) -> bytes:
    """What the digest of a list has of a sample beside the file's content."""
    boxes = [[b.x0, b.y0, b.x1, b.y1] for b in sample.boxes]
    said = [sample.image, sample.label, boxes, sample.parts, sample.annotated_size]
    return json.dumps([*said, *([sample.mask.decode("ascii")] if sample.mask else [])]).encode()


def _fingerprint(path: Path) -> tuple[bytes, bool]:
    """Size, first and last 64 kB of a file, nothing where it can't be read (which its record will say); and whether it would be
    the same the next time."""
    try:
        with path.open("rb") as file:
            head = file.read(_END)
            size = file.seek(0, os.SEEK_END)
            file.seek(max(_END, size - _END))
            return str(size).encode() + head + file.read(), True
    except FileNotFoundError:
        return b"", True
    except OSError:
        return b"", False


def draw(samples: Sequence[Sample], limit: int | None, seed: int) -> list[Sample]:
    """A random subset of a given size, in the given order; a larger limit keeps the images of a smaller one."""
    if limit is None or limit >= len(samples):
        return list(samples)
    chosen = np.random.default_rng(seed).permutation(len(samples))[:limit]
    return [samples[i] for i in np.sort(chosen)]


def set_apart(samples: Sequence[Sample], share: float, seed: int) -> tuple[list[Sample], list[Sample]]:
    """Cuts samples in two, class by class: the rest, and a share of each class drawn by seed.

    A class gives at most all but one image. Whether an image is drawn depends on its id and its class mates, on nothing else.
    """
    classes: dict[int | None, list[Sample]] = {}
    for sample in samples:
        classes.setdefault(sample.label, []).append(sample)
    apart: set[str] = set()
    for members in classes.values():
        lot = sorted(members, key=lambda s: hashlib.sha256(f"{seed}:{s.image}".encode("utf-8", "surrogateescape")).digest())
        apart |= {s.image for s in lot[: min(round(share * len(lot)), len(lot) - 1)]}
    return [s for s in samples if s.image not in apart], [s for s in samples if s.image in apart]


def _check(sample: Sample, needs_box: bool, files: Store) -> Sample:
    """Marks what is wrong with a sample; a wrong annotation is removed, a missing file keeps its path."""
    if sample.problem:  # its data set has found it
        return sample
    if not sample.path.is_file():
        return replace(sample, problem=f"image {sample.image} is listed but not on disk ({sample.path})")
    if not needs_box:
        return sample
    if not sample.boxes:
        return replace(sample, problem=f"annotation of image {sample.image} has no box ({sample.where})")
    try:
        width, height = files.derived(sample.path, "size1", lambda path: list(stored_size(path)))
    except UnreadableImage:
        return sample  # counted when it is decoded
    stored = (width, height)
    spoilt = replace(sample, boxes=(), mask=None)
    # an EXIF-rotated image may be annotated in either frame
    frames = [sample.annotated_size] if sample.annotated_size else [stored, stored[::-1]]
    if not any(_same_shape(frames[0], size) for size in (stored, stored[::-1])):
        return replace(spoilt, problem=_misfit(sample, frames[0], stored))
    for box in sample.boxes:
        edges = f"({box.x0:g}, {box.y0:g})-({box.x1:g}, {box.y1:g}) of image {sample.image} ({sample.where})"
        if not box.area > 0:  # not a number either
            return replace(spoilt, problem=f"box {edges} is empty")
        if all(box.overhang(w, h) > _OVERHANG for w, h in frames):
            w, h = frames[0]
            return replace(spoilt, problem=f"box {edges} lies outside the image of {w} x {h} pixels")
    return sample


def upright_annotation(sample: Sample, decoded: Decoded) -> list[Box]:
    """The sample's boxes in pixels of the upright image, clipped to it.

    Annotations are made on the stored pixels, unless their stated size, or a box that only fits so, says that they
    were made on the upright image. A stated size that is a scaled one (a resized copy of the data set) scales the boxes.

    Raises:
        UserError: the stated size has another shape than the image.
    """
    if not sample.boxes:
        return []
    frame, target, made_on_stored = _frames(sample, decoded)
    boxes = [b.scale(target[0] / frame[0], target[1] / frame[1]) for b in sample.boxes]
    if made_on_stored:
        boxes = [upright_box(b, decoded.stored_size, decoded.orientation) for b in boxes]
    return [b.clip(*decoded.image.size) for b in boxes]


def upright_annotated_mask(sample: Sample, decoded: Decoded) -> Mask | None:
    """The sample's mask on the upright image, bool (height, width); None where it has none.

    Frames are those of :func:`upright_annotation`; to a copy of another size the mask is resized by its nearest pixels.

    Raises:
        UserError: as :func:`upright_annotation`.
    """
    if sample.mask is None:
        return None
    frame, target, made_on_stored = _frames(sample, decoded)
    mask = resized(mask_of(sample.mask, frame), target)
    return upright_mask(mask, decoded.orientation) if made_on_stored else mask


def object_in_view(sample: Sample, decoded: Decoded, view: View) -> Mask | None:
    """Which pixels of the network's view belong to the sample's object, bool (H, W): its mask, else its boxes; None where
    neither is known, or the annotation does not fit the image."""
    try:
        mask, boxes = upright_annotated_mask(sample, decoded), upright_annotation(sample, decoded)
    except UserError:
        return None
    if mask is not None:
        return view.mask(mask)
    seen = view.boxes(boxes, decoded.image.size)[0]
    return box_mask(seen, view.crop, view.crop).numpy() if seen else None


def _frames(sample: Sample, decoded: Decoded) -> tuple[tuple[int, int], tuple[int, int], bool]:
    """The frame that an annotation was made in, the frame of the image that it belongs to, and whether this is the stored one.

    Raises:
        UserError: the stated size has another shape than the image.
    """
    stored, upright = decoded.stored_size, decoded.image.size
    frame = sample.annotated_size or stored

    def fits(size: tuple[int, int]) -> bool:
        return all(b.overhang(*size) <= _OVERHANG for b in sample.boxes)

    made_on_stored = _same_shape(frame, stored)
    if sample.annotated_size is None and not fits(stored) and fits(upright):
        made_on_stored, frame = False, upright
    target = stored if made_on_stored else upright
    if not _same_shape(frame, target):
        raise UserError(f"{_misfit(sample, frame, stored)}.")
    return frame, target, made_on_stored


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Equal aspect up to one pixel of rounding."""
    return abs(a[0] * b[1] - a[1] * b[0]) <= max(*a, *b)


def _misfit(sample: Sample, frame: tuple[int, int], stored: tuple[int, int]) -> str:
    return (
        f"annotation of image {sample.image} ({sample.where}) is for {frame[0]} x {frame[1]} pixels, "
        f"the image has {stored[0]} x {stored[1]}: use the annotation that belongs to this copy"
    )


def find_root(given: str | None, dataset: str, holds: Callable[[Path], bool], wanted: str, source: str = "") -> Path:
    """The folder of a data set: the given one, or one at most two levels below it.

    Args:
        given: ``dataset.root``, which the conf files take from the environment variable SUNY_DATA where it isn't set.
        dataset: its name, for the message.
        holds: whether a folder has the data set's layout.
        wanted: what was looked for, for the message.
        source: where the data set comes from, for the message.

    Raises:
        UserError: no root given, it does not exist, or it lacks what was looked for.
    """
    found = next((p for p in places(given_root(given, dataset, wanted, source)) if holds(p)), None)
    if found is None:
        raise wrong_layout(given, dataset, wanted)
    return found


def given_root(given: str | None, dataset: str, wanted: str, source: str = "") -> Path:
    """``dataset.root`` as a folder that exists; arguments and errors as in :func:`find_root`."""
    if not given:
        raise UserError(
            f"dataset '{dataset}' needs its folder: give dataset.root=PATH or set the environment variable SUNY_DATA. "
            f"It holds {wanted}.{source and f' The data set comes from {source}.'}"
        )
    root = Path(given).expanduser()
    if not root.is_dir():
        raise UserError(f"dataset.root={given} is not a folder: give the folder of {dataset}.")
    return root


def wrong_layout(given: str | None, dataset: str, wanted: str) -> UserError:
    """The error for a folder that lacks what was looked for; arguments as in :func:`find_root`."""
    return UserError(f"dataset.root={given} does not have the layout of {dataset}: looked for {wanted}.")


def places(root: Path) -> Iterator[Path]:
    """A folder, the folders in it, and those in these: a data set is looked for there, nearest first."""
    yield root
    inner = inner_folders(root)
    yield from inner
    for folder in inner[:_PARENT_FOLDERS]:
        yield from inner_folders(folder)


def inner_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are not hidden, sorted."""
    return sorted(p for p in folder.iterdir() if not is_hidden(p.name) and p.is_dir())


def read_columns(path: Path, names: Sequence[str], sep: str = " ") -> dict[str, list[str]]:
    """A headerless list file as text columns, by name.

    Raises:
        UserError: the file is missing or a line has another number of fields.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing: it belongs to the official layout of the data set.")
    rows = []
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split(sep, len(names) - 1) if sep != " " else line.split(None, len(names) - 1)
            if not fields or not line.strip():
                continue
            if len(fields) != len(names):
                raise UserError(f"{path}, line {number}: expected {len(names)} fields ({' '.join(names)}).")
            rows.append([f.strip() for f in fields])
    return {name: [row[at] for row in rows] for at, name in enumerate(names)}


@functools.cache
def imagenet_classes(path: Path | None = None) -> dict[str, tuple[int, str]]:
    """WordNet id -> (class index 0..999, name), from a LOC_synset_mapping.txt or, without one, ImageNet's own order."""
    table = read_columns(path or Path(__file__).with_name("imagenet_classes.txt"), ["wnid", "name"])
    return {wnid: (i, name) for i, (wnid, name) in enumerate(zip(table["wnid"], table["name"], strict=True))}


def unknown_class(name: str, valid: Sequence[str], where: str) -> UserError:
    """The error for a class that the data set's class list does not have."""
    return UserError(f"unknown class '{name}' in {where}. {nearest(name, valid)}The class list has {len(valid)} names.")
