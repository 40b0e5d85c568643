"""ILSVRC2012 validation images with boxes: the official CLS-LOC layout, and the flat ones of older copies.

Official (the Kaggle archive, with or without its ``ILSVRC`` folder)::

    Data/CLS-LOC/val/*.JPEG   Annotations/CLS-LOC/val/*.xml   LOC_synset_mapping.txt   LOC_val_solution.csv

Flat: all images in one folder (the root, ``val``, ``ILSVRC2012_img_val`` ...), the XML files in another or the same
one. Sorted: as either, but images, XML files or both lie in folders that are named by their class (``val/n01440764/``). The
class comes from LOC_val_solution.csv, else from the XML, else from Caffe's ``val.txt`` (file name and index), else from the
class folder. Corners in the XML are inclusive pixels, xmin..xmax.

Russakovsky et al., "ImageNet Large Scale Visual Recognition Challenge", IJCV 2015.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from defusedxml import ElementTree

from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import (
    IMAGE_SUFFIXES,
    Dataset,
    ImageList,
    Sample,
    find_root,
    imagenet_classes,
    inner_folders,
    is_hidden,
    read_columns,
    unknown_class,
)
from suny.images.filecache import Store
from suny.images.geometry import Box
from suny.later import Later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")

_IMAGE_FOLDERS = ("Data/CLS-LOC/val", "ILSVRC/Data/CLS-LOC/val", "ILSVRC2012_img_val", "val", "images", "")
_XML_FOLDERS = ("Annotations/CLS-LOC/val", "ILSVRC/Annotations/CLS-LOC/val", "Annotations/val", "Annotations", "")
_PREFIX = "ILSVRC2012_val_"


@configured
class Ilsvrc2012(Dataset):
    """The validation set of ILSVRC2012 (50,000 images); keys as in :class:`~suny.images.dataset.Dataset`."""

    def read(self) -> ImageList:
        root = find_root(
            self.root,
            self.name,
            lambda folder: _folder_with(folder, _IMAGE_FOLDERS, IMAGE_SUFFIXES) is not None,
            f"Data/CLS-LOC/val/{_PREFIX}*.JPEG (official layout) or a folder of {_PREFIX}*.JPEG (flat layout), also sorted "
            "into class folders; other images in class folders are read by dataset=imagefolder",
            "image-net.org, or from Kaggle (imagenet-object-localization-challenge), whose layout is the official one",
        )
        images = _folder_with(root, _IMAGE_FOLDERS, IMAGE_SUFFIXES) or root
        xml = _folder_with(root, _XML_FOLDERS, (".xml",)) or _flat_annotations(root, Path(str(self.root)).expanduser())
        files, hidden = _by_image(images, IMAGE_SUFFIXES)
        mapping = _beside(root, "LOC_synset_mapping.txt")
        classes = imagenet_classes()
        if mapping and {w: i for w, (i, _) in imagenet_classes(mapping).items()} != {w: i for w, (i, _) in classes.items()}:
            raise UserError(f"{mapping} is not ImageNet's list of 1000 classes in order: put the official file there.")
        solution = _beside(root, "LOC_val_solution.csv")
        caffe = _beside(root, "val.txt")
        if solution:
            samples = list(_from_solution(solution, classes, images, files))
        elif xml is None and caffe:
            table = read_columns(caffe, ["file", "index"])
            try:
                labels = [int(i) for i in table["index"]]
            except ValueError as error:
                raise UserError(f"{caffe}: a class index is not a number ({error}).") from error
            samples = [
                Sample(Path(f).stem, files.get(Path(f).stem, images / Path(f).name), i)
                for f, i in zip(table["file"], labels, strict=True)
            ]
        elif xml is None and not _class_folders(images):
            raise UserError(
                f"dataset.root={self.root}: no labels; looked for LOC_val_solution.csv, "
                f"Annotations/CLS-LOC/val/{_PREFIX}*.xml and val.txt."
            )
        else:
            samples = [Sample(stem, path) for stem, path in files.items()]
        samples = [_in_class_folder(s, images, classes) for s in samples]
        if xml is not None:
            sorted_ = _by_image(xml, (".xml",))[0] if _class_folders(xml) else {}
            samples = [replace(s, where=str(sorted_.get(s.image) or os.path.join(xml, f"{s.image}.xml"))) for s in samples]
        return ImageList(
            samples=tuple(samples),
            class_names=dict(classes.values()),
            label_space="imagenet",
            has_boxes=xml is not None or any(s.boxes for s in samples),
            notes=(
                *([] if solution else ["no LOC_val_solution.csv: every image on disk is used"]),
                *([f"{len(hidden)} hidden name{'s' * (len(hidden) > 1)} (first: {min(hidden)}) left out"] if hidden else []),
            ),
        )

    def annotate(self, sample: Sample, files: Store) -> Sample:
        if not sample.where.endswith(".xml"):
            return sample
        size, objects = files.derived(sample.where, "voc1", _listed)
        if objects and (sample.label is None or _class_folder(sample)):
            classes, wnid = imagenet_classes(), objects[0][0]
            if wnid not in classes:
                raise unknown_class(wnid, list(classes), sample.where)
            if sample.label not in (None, classes[wnid][0]):
                raise UserError(
                    f"image {sample.image} lies in class folder {sample.path.parent.name}, but {sample.where} says {wnid}."
                )
            sample = replace(sample, label=classes[wnid][0])
        boxes = tuple(Box(*edges) for _, edges in objects)
        return replace(sample, boxes=boxes, annotated_size=tuple(size) if size else None)


def read_xml(path: Path) -> tuple[tuple[int, int] | None, list[tuple[str, Box]]]:
    """(width, height) and the (WordNet id, box) of every object of a PASCAL VOC annotation; no file, no objects.

    Raises:
        UserError: the file is not such an annotation, or has a document type, with which entities could be expanded.
    """
    try:
        tree = ElementTree.parse(path, forbid_dtd=True).getroot()
        objects = []
        for item in tree.iter("object"):
            corner = item.find("bndbox")
            if corner is not None:
                x0, y0, x1, y1 = (float(str(corner.findtext(k))) for k in ("xmin", "ymin", "xmax", "ymax"))
                objects.append((str(item.findtext("name")).strip(), Box(x0, y0, x1 + 1, y1 + 1)))
        width, height = (int(tree.findtext(f"size/{k}") or 0) for k in ("width", "height"))
    except FileNotFoundError:
        return None, []
    except (
        ElementTree.ParseError,
        LookupError,
        ValueError,
        OSError,
    ) as error:  # LookupError: an encoding that there is none of
        raise UserError(f"{path} is not a PASCAL VOC annotation: {error}.") from error
    return ((width, height) if width > 0 and height > 0 else None), objects


def _listed(path: str) -> list[Any]:
    """What :func:`read_xml` finds, as JSON has it: [width, height] or None, and of every object [WordNet id, edges]."""
    size, objects = read_xml(Path(path))
    return [list(size) if size else None, [[wnid, [box.x0, box.y0, box.x1, box.y1]] for wnid, box in objects]]


def _from_solution(
    solution: Path, classes: dict[str, tuple[int, str]], images: Path, files: dict[str, Path]
) -> Iterator[Sample]:
    """Samples of LOC_val_solution.csv: ``ImageId,PredictionString``, the latter ``wnid x0 y0 x1 y1`` repeated."""
    try:
        table = pd.read_csv(solution, dtype=str, keep_default_na=False)
        rows = list(zip(table["ImageId"], table["PredictionString"], strict=True))
    except (KeyError, ValueError) as error:
        raise UserError(f"{solution}: expected the columns ImageId,PredictionString ({error}).") from error
    for image, prediction in rows:
        fields = prediction.split()
        if not fields or fields[0] not in classes:
            raise unknown_class(fields[0] if fields else "", list(classes), f"{solution}, image {image}")
        try:
            corners = [[float(v) for v in fields[i + 1 : i + 5]] for i in range(0, len(fields) - 4, 5)]
        except ValueError as error:
            raise UserError(f"{solution}, image {image}: {error}.") from error
        yield Sample(
            image=image,
            path=files.get(image) or images / f"{image}.JPEG",
            label=classes[fields[0]][0],
            boxes=tuple(Box(x0, y0, x1 + 1, y1 + 1) for x0, y0, x1, y1 in corners),
            where=str(solution),
        )


def _files(folder: Path, suffixes: tuple[str, ...]) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name.lower().endswith(suffixes):
                yield entry


def _class_folders(folder: Path) -> list[Path]:
    """The folders in a folder that are named by WordNet ids of the classes."""
    return [f for f in inner_folders(folder) if f.name in imagenet_classes()]


def _class_folder(sample: Sample) -> bool:
    return sample.path.parent.name in imagenet_classes()


def _in_class_folder(sample: Sample, images: Path, classes: dict[str, tuple[int, str]]) -> Sample:
    """A sample with the class of the folder that it lies in, where it lies in one.

    Raises:
        UserError: a list says another class.
    """
    if sample.path.parent == images or not _class_folder(sample):
        return sample
    label = classes[sample.path.parent.name][0]
    if sample.label not in (None, label):
        folder = sample.path.parent.name
        raise UserError(f"image {sample.image} lies in class folder {folder}, but the list says class index {sample.label}.")
    return replace(sample, label=label)


def _by_image(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], list[str]]:
    """The files of the validation set in a folder, or in class folders inside it, by image id; and names that are hidden.

    Raises:
        UserError: two files of one image.
    """
    found: dict[str, Path] = {}
    hidden = []
    for place in (folder, *_class_folders(folder)):
        hidden += [str((place / name).relative_to(folder)) for name in os.listdir(place) if is_hidden(name)]
        for entry in _files(place, suffixes):
            image = os.path.splitext(entry.name)[0]
            if image in found:
                raise UserError(f"image {image} is there twice: {found[image]} and {entry.path}; remove one of the two.")
            found[image] = Path(entry.path)
    return found, hidden


def _folder_with(root: Path, candidates: tuple[str, ...], suffixes: tuple[str, ...]) -> Path | None:
    """The first of the candidate folders that holds files of the validation set, itself or in class folders."""

    def holds(folder: Path) -> bool:
        return next(_files(folder, suffixes), None) is not None

    folders = [f for f in (root / c for c in candidates) if f.is_dir()]
    return next((f for f in folders if holds(f)), None) or next((f for f in folders if _holds_sorted(f, suffixes)), None)


def _holds_sorted(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether class folders have files of the validation set; of each, the first file with such a name's ending tells."""
    for inner in _class_folders(folder):
        with os.scandir(inner) as entries:
            first = next((e.name for e in entries if e.name.lower().endswith(suffixes) and not is_hidden(e.name)), "")
        if first.startswith(_PREFIX):
            return True
    return False


def _flat_annotations(root: Path, given: Path) -> Path | None:
    """The XML files of a flat copy: in any folder beside or inside the image folder, whatever its name."""
    for folder in (root, *([root.parent] if root != given else [])):
        inner = tuple(p.name for p in inner_folders(folder) if p.name != "train")
        found = _folder_with(folder, (*_XML_FOLDERS, *inner), (".xml",))
        if found is not None:
            return found
    return None


def _beside(root: Path, name: str) -> Path | None:
    """A list file of the data set: in the root, in its ILSVRC folder, or one level above."""
    places = (root / name, root / "ILSVRC" / name, root.parent / name)
    return next((p for p in places if p.is_file()), None)
