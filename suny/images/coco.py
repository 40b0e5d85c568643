"""Instances as COCO annotates them: one JSON file of images, categories and objects, and a folder of photographs.

    annotations/instances_<name>.json   {"images": [...], "categories": [...], "annotations": [...]}
    <name>/*.jpg

An image has many objects and is explained for one class, its label: the category that covers most of it (the sum of the areas
of its instances; the earlier one in the list where two cover as much), or the category that is named. The label's instances are
the object: their boxes, and the union of their masks. Class indices are positions in the list of categories sorted by id, for
ids have gaps (COCO's 80 categories have ids 1..90): they are no classes of ImageNet.

Crowd regions (``iscrowd``) are no instances: they give no label, box or mask. Boxes are ``x y width height``. A mask is a list
of polygons, or run lengths, compressed or not.

Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014; cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NotRequired

import pydantic
from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import (
    Dataset,
    ImageList,
    Sample,
    count_of,
    given_root,
    ids_of,
    refuse_id,
    unknown_class,
    wrong_layout,
)
from suny.images.decode import MOST_PIXELS
from suny.images.geometry import Box
from suny.images.masks import run_lengths

_LAYOUT = "annotations/instances_<name>.json (dataset.annotations=FILE names another one) and the folder <name> of its images"

# pixels along a side: what a file says beyond that is a mistake
_LONGEST_SIDE = 2**16

_Number = Annotated[float, Field(allow_inf_nan=False)]
_Side = Annotated[int, Field(ge=1, le=_LONGEST_SIDE)]
# the edges of pixels lie there, also of boxes that overhang
_Place = Annotated[float, Field(allow_inf_nan=False, ge=-_LONGEST_SIDE, le=_LONGEST_SIDE)]
_Polygon = Annotated[list[_Place], Field(min_length=6)]


class _Image(TypedDict):
    id: int
    file_name: str
    width: _Side
    height: _Side


class _Category(TypedDict):
    id: int
    name: str


class _Runs(TypedDict):
    size: tuple[int, int]
    counts: str | list[Annotated[int, Field(ge=0, lt=2**31)]]


class _Annotation(TypedDict):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[_Place, _Place, _Place, _Place]
    area: NotRequired[Annotated[_Number, Field(ge=0)]]
    iscrowd: NotRequired[Literal[0, 1]]
    segmentation: NotRequired[_Runs | list[_Polygon] | None]


class _Instances(TypedDict):
    images: list[_Image]
    categories: list[_Category]
    annotations: list[_Annotation]


@configured
class Coco(Dataset):
    """Images with COCO's instances.

    Args:
        annotations: the JSON file, its path from ``root`` or a full one; None: the only ``instances_*.json`` there.
        images: the folder of images, likewise; None: the one that the JSON file's name tells, else ``images`` or ``root``.
        category: the name of the category that is every image's label, of those images that have it; None: the largest one.
        masks: whether the masks are read too, with pycocotools.
    """

    places: ClassVar[tuple[str, ...]] = ("annotations", "images")

    annotations: str | None = None
    images: str | None = None
    category: str | None = None
    masks: bool = True

    def read(self) -> ImageList:
        root = given_root(self.root, self.name, _LAYOUT, "cocodataset.org, or any tool that exports COCO's instances")
        file = self._file(root)
        found = _parsed(file)
        for image in found["images"]:
            refuse_id(image["file_name"], str(file))
        names = {c["id"]: c["name"] for c in sorted(found["categories"], key=lambda c: c["id"])}
        index = {category: at for at, category in enumerate(names)}
        if self.category is not None and self.category not in names.values():
            raise unknown_class(self.category, list(names.values()), f"dataset.category; {file}")
        chosen = next((c for c, name in names.items() if name == self.category), None)
        folder = self._folder(root, file, [image["file_name"] for image in found["images"]])
        instances: dict[int, list[tuple[int, _Annotation]]] = defaultdict(list)
        for at, one in enumerate(found["annotations"]):
            if not one.get("iscrowd"):
                instances[one["image_id"]].append((at, one))
        ids = ids_of([Path(image["file_name"]) for image in found["images"]])
        samples = []
        for id_, image in zip(ids, found["images"], strict=True):
            own = instances[image["id"]]
            label = _largest([one for _, one in own], index) if chosen is None else chosen
            own = [(at, one) for at, one in own if one["category_id"] == label]
            if label is None or not own:
                continue
            size = (image["width"], image["height"])
            boxes = (one["bbox"] for _, one in own)
            samples.append(
                Sample(
                    image=id_,
                    path=folder / image["file_name"],
                    label=index[label],
                    boxes=tuple(Box(x, y, x + width, y + height) for x, y, width, height in boxes),
                    annotated_size=size,
                    mask=_union(own, size, file) if self.masks else None,
                    where=f"{file}, annotation{'s' * (len(own) > 1)} {', '.join(str(one['id']) for _, one in own)}",
                )
            )
        return ImageList(
            samples=tuple(samples),
            class_names=dict(enumerate(names.values())),
            label_space="own",
            has_boxes=True,
            notes=tuple(self._notes(found, samples, folder, root)),
        )

    def _file(self, root: Path) -> Path:
        if self.annotations is not None:
            file = root / Path(self.annotations).expanduser()
            if not file.is_file():
                raise UserError(f"dataset.annotations={self.annotations} is no file (looked for {file}).")
            return file
        files = sorted([*root.glob("annotations/instances_*.json"), *root.glob("instances_*.json")])
        if not files:
            raise wrong_layout(self.root, self.name, _LAYOUT)
        if len(files) > 1:
            there = ", ".join(str(f.relative_to(root)) for f in files)
            raise UserError(f"dataset.root={self.root} has {there}: say which one with dataset.annotations=FILE.")
        return files[0]

    def _folder(self, root: Path, file: Path, images: Sequence[str]) -> Path:
        """The folder of the images; where none has the first ones, the root, below which they are then missing."""
        if self.images is not None:
            folder = root / Path(self.images).expanduser()
            if not folder.is_dir():
                raise UserError(f"dataset.images={self.images} is no folder (looked for {folder}).")
            return folder
        name = file.stem.removeprefix("instances_")
        places = [root / name, root / "images" / name, root / "images", root]
        return next((p for p in places if any((p / image).is_file() for image in images[:100])), root)

    def _notes(self, found: _Instances, samples: Sequence[Sample], folder: Path, root: Path) -> Iterator[str]:
        if folder != root:
            yield f"images are taken from {folder}"
        without = len(found["images"]) - len(samples)
        if without:
            what = "no annotated instance" if self.category is None else f"no instance of '{self.category}'"
            yield f"{without} of {len(found['images'])} images left out: {what}"
        crowds = [str(one["id"]) for one in found["annotations"] if one.get("iscrowd")]
        if crowds:
            yield f"{count_of(crowds, 'crowd region')} left out: no label, box or mask is taken from them"
        maskless = sum(s.mask is None for s in samples)
        if self.masks and maskless:
            yield f"{maskless} of {len(samples)} images without masks: not every instance of the label has a segmentation"


def _parsed(file: Path) -> _Instances:
    """The content of a file of instances.

    Raises:
        UserError: it is none; ids that are there twice, or lead nowhere.
    """
    try:
        content = file.read_bytes().removeprefix(b"\xef\xbb\xbf")
        found = TypeAdapter(_Instances).validate_json(content, strict=True)
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}.") from error
    except pydantic.ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in first["loc"][:4]).removeprefix(".")
        raise UserError(f"{file} is no file of COCO instances: {place and f'{place}: '}{first['msg'][:200]}.") from error
    known: dict[str, set[Any]] = {}
    for what, key in (
        ("images", "id"),
        ("images", "file_name"),
        ("categories", "id"),
        ("categories", "name"),
        ("annotations", "id"),
    ):
        seen = known[f"{what} {key}"] = set()
        for at, one in enumerate(found[what]):  # type: ignore[literal-required]
            if one[key] in seen:
                raise UserError(f"{file}: {what}[{at}].{key} {one[key]!a:.200} is there twice; remove one of the two.")
            seen.add(one[key])
    large = next((i for i in found["images"] if i["width"] * i["height"] > MOST_PIXELS), None)
    if large is not None:
        size = f"{large['width']} x {large['height']}"
        raise UserError(f"{file}: image {large['file_name']} has {size} pixels; at most {MOST_PIXELS} are decoded.")
    for at, one in enumerate(found["annotations"]):
        for key, ids in (("image_id", "images id"), ("category_id", "categories id")):
            if one[key] not in known[ids]:  # type: ignore[literal-required]
                kind = ids.split()[0]
                raise UserError(f"{file}: annotations[{at}].{key} is {one[key]}, which none of the {kind} has.")  # type: ignore[literal-required]
    return found


def _largest(instances: Sequence[_Annotation], index: dict[int, int]) -> int | None:
    """The category whose instances have the largest area together; None where there is no instance."""
    areas: dict[int, float] = defaultdict(float)
    for one in instances:
        areas[one["category_id"]] += one.get("area", one["bbox"][2] * one["bbox"][3])
    return min(areas, key=lambda category: (-areas[category], index[category]), default=None)


def _union(instances: Sequence[tuple[int, _Annotation]], size: tuple[int, int], file: Path) -> bytes | None:
    """The union of the instances' masks as compressed run lengths; None where one has no mask.

    Raises:
        UserError: a segmentation that is none of an image of this size (width, height).
    """
    segmentations = [(at, one.get("segmentation")) for at, one in instances]
    if not all(s for _, s in segmentations):
        return None
    coco, (width, height) = run_lengths(), size
    masks = []
    for at, given in segmentations:
        where = f"{file}: annotations[{at}].segmentation"
        if isinstance(given, list):
            odd = next((p for p in given if len(p) % 2), None)
            if odd is not None:
                raise UserError(f"{where} has a polygon of {len(odd)} numbers: it needs x and y of each corner.")
            masks += coco.frPyObjects(given, height, width)
            continue
        assert given is not None
        counts = given["counts"]
        runs = _decompressed(counts) if isinstance(counts, str) else counts
        if given["size"] != (height, width) or runs is None or min(runs, default=0) < 0 or sum(runs) != width * height:
            raise UserError(f"{where} is no run lengths of the image's {width} x {height} pixels.")
        masks.append(coco.frPyObjects({"size": [height, width], "counts": runs}, height, width))
    return bytes(coco.merge(masks)["counts"])


def _decompressed(text: str) -> list[int] | None:
    """The lengths of runs that COCO has compressed; None where the text is nothing of that kind.

    A number is written in groups of five bits, the lowest first, as characters from 48 on, of which the sixth bit says that
    another one follows; from the fourth number on, it is the difference to the one before the last (pycocotools, maskApi.c).
    pycocotools itself trusts such texts, and would read and write past their ends.
    """
    runs: list[int] = []
    value = bits = 0
    for code in text.encode("utf-8", "surrogatepass"):
        group = code - 48
        if not 0 <= group < 64 or bits > 30:
            return None
        value |= (group & 31) << bits
        bits += 5
        if not group & 32:
            value -= (1 << bits) if group & 16 else 0
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    return None if bits else runs
