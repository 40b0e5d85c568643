"""COCO's instances: labels, boxes and masks of a small file made by hand, what can be wrong with one, and runs on it."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from experiments import score
from experiments.command.program import guarded
from experiments.store.records import read_records
from suny.errors import UserError
from suny.images.coco import Coco
from suny.images.dataset import ImageList, object_in_view, upright_annotated_mask, upright_annotation
from suny.images.decode import decode
from suny.images.demo import Demo
from suny.images.geometry import Box, box_mask
from suny.images.masks import Mask, mask_of
from suny.images.view import View
from tests.conftest import Cli, only_error

Json = dict[str, Any]
WHOLE = View(40, 40, "bilinear", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def rectangle(x0: int, y0: int, x1: int, y1: int) -> Mask:
    """A mask of 50 x 40 pixels."""
    inside = np.zeros((40, 50), bool)
    inside[y0:y1, x0:x1] = True
    return inside


def runs(inside: Mask) -> list[int]:
    """Lengths of runs outside and inside, column by column, as COCO has them uncompressed."""
    flat = np.concatenate([[False], inside.T.ravel()])
    starts = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(np.concatenate([[0], starts, [inside.size]])).tolist()


def compressed(inside: Mask) -> str:
    return rle.encode(np.asfortranarray(inside.astype(np.uint8)))["counts"].decode()


def annotation(id_: int, image: int, category: int, bbox: tuple[float, ...], segmentation: Any = None, **keys: Any) -> Json:
    x, y, w, h = bbox
    shape = segmentation if segmentation is not None else [[x, y, x + w, y, x + w, y + h, x, y + h]]
    made = {"id": id_, "image_id": image, "category_id": category, "bbox": list(bbox), "area": w * h, "iscrowd": 0}
    return {**made, "segmentation": shape, **keys}


def instances() -> Json:
    """Four images of 50 x 40 pixels and three categories, whose ids have gaps and no order."""
    crowd = {"size": [40, 50], "counts": runs(rectangle(0, 0, 50, 40))}
    return {
        "info": {"description": "a small one"},
        "images": [
            {"id": i, "file_name": f"{name}.png", "width": 50, "height": 40}
            for i, name in ((7, "a"), (3, "b"), (5, "c"), (9, "d"))
        ],
        "categories": [
            {"id": 90, "name": "kite", "supercategory": "sports"}, {"id": 1, "name": "person"}, {"id": 18, "name": "dog"},
        ],
        "annotations": [
            # a: two dogs of 200 pixels together, a person of 150, and a crowd over the whole image
            annotation(1, 7, 18, (2, 3, 10, 10)), annotation(2, 7, 1, (20, 0, 15, 10)),
            annotation(3, 7, 18, (30, 20, 10, 10)), annotation(4, 7, 1, (0, 0, 50, 40), crowd, iscrowd=1),
            # b: a kite and a dog of one size
            annotation(5, 3, 90, (0, 0, 5, 8), {"size": [40, 50], "counts": compressed(rectangle(0, 0, 5, 8))}),
            annotation(6, 3, 18, (10, 10, 8, 5), {"size": [40, 50], "counts": runs(rectangle(10, 10, 18, 15))}),
            # c: a crowd alone; d: nothing
            annotation(8, 5, 1, (1, 1, 30, 30), crowd, iscrowd=1),
        ],
    }  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The official layout."""
    place = tmp_path / "data"
    (place / "tiny").mkdir(parents=True)
    for at, name in enumerate("abcd"):
        Image.new("RGB", (50, 40), (60 * at, 90, 120)).save(place / "tiny" / f"{name}.png")
    return write(place, instances())


def write(place: Path, content: Any) -> Path:
    (place / "annotations").mkdir(exist_ok=True)
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    (place / "annotations" / "instances_tiny.json").write_bytes(text)
    return place


def coco(place: Path, **keys: Any) -> ImageList:
    return Coco(name="coco", root=str(place), **keys).load()


def masks(images: ImageList) -> list[Mask]:
    return [mask_of(s.mask or b"", s.annotated_size or (0, 0)) for s in images.samples]


# what is read


def test_the_largest_category_is_the_label(root: Path) -> None:
    images = coco(root)
    assert images.class_names == {0: "person", 1: "dog", 2: "kite"}  # by id
    assert [(s.image, s.label) for s in images.samples] == [("a", 1), ("b", 1)]  # b: of two alike the lower id
    assert images.samples[0].boxes == (Box(2, 3, 12, 13), Box(30, 20, 40, 30))
    assert images.samples[1].boxes == (Box(10, 10, 18, 15),)
    assert (images.label_space, images.has_boxes) == ("own", True)
    assert images.samples[0].path == root / "tiny" / "a.png"
    assert images.notes == (
        f"images are taken from {root / 'tiny'}",
        "2 of 4 images left out: no annotated instance",
        "2 crowd regions (first: '4') left out: no label, box or mask is taken from them",
    )


def test_masks_are_the_union_of_the_labels_instances(root: Path) -> None:
    first, second = masks(coco(root))
    assert (first == (rectangle(2, 3, 12, 13) | rectangle(30, 20, 40, 30))).all()
    assert (second == rectangle(10, 10, 18, 15)).all()
    (kite,) = masks(coco(root, category="kite"))  # compressed
    assert (kite == rectangle(0, 0, 5, 8)).all()


def test_a_named_category(root: Path) -> None:
    images = coco(root, category="person")
    assert [(s.image, s.label, s.boxes) for s in images.samples] == [("a", 0, (Box(20, 0, 35, 10),))]
    assert "3 of 4 images left out: no instance of 'person'" in images.notes
    with pytest.raises(UserError, match=r"unknown class 'kitte' in dataset\.category.*Did you mean 'kite'"):
        coco(root, category="kitte")


def test_areas_are_the_annotations_own_or_the_boxes(root: Path) -> None:
    content = instances()
    content["annotations"][1]["area"] = 201
    assert coco(write(root, content)).samples[0].label == 0
    del content["annotations"][1]["area"]
    content["annotations"][1]["bbox"] = [20, 0, 15, 13]  # 195
    assert coco(write(root, content)).samples[0].label == 1
    content["annotations"][1]["bbox"] = [20, 0, 15, 14]  # 210
    assert coco(write(root, content)).samples[0].label == 0


def test_the_same_as_pycocotools_reads(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Polygons with corners between pixels too: boxes and masks beside those of the official reader."""
    content = instances()
    content["annotations"][0]["segmentation"] = [[2.5, 3.2, 11.7, 4.1, 7.3, 12.9], [4, 14, 9, 14, 9, 17.5]]
    file = write(root, content) / "annotations" / "instances_tiny.json"
    official = COCO(str(file))
    capsys.readouterr()
    found = coco(root)
    for sample, mask in zip(found.samples, masks(found), strict=True):
        (image,) = [i for i in official.dataset["images"] if i["file_name"] == f"{sample.image}.png"]
        (category,) = official.getCatIds(catNms=[found.class_names[sample.label or 0]])
        own = official.loadAnns(official.getAnnIds(imgIds=image["id"], catIds=category, iscrowd=False))
        assert (mask == np.any([official.annToMask(a) for a in own], axis=0)).all()
        assert [[b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0] for b in sample.boxes] == [a["bbox"] for a in own]


def test_an_instance_without_segmentation_leaves_its_image_without_mask(root: Path) -> None:
    content = instances()
    content["annotations"][2]["segmentation"] = []
    images = coco(write(root, content))
    assert [s.mask is None for s in images.samples] == [True, False]
    assert "1 of 2 images without masks: not every instance of the label has a segmentation" in images.notes
    assert all(s.mask is None for s in coco(root, masks=False).samples)


@pytest.mark.parametrize("layout", ["images/tiny", "images", "", "elsewhere"])
def test_layouts(root: Path, layout: str, tmp_path: Path) -> None:
    target = root / layout
    target.parent.mkdir(parents=True, exist_ok=True)
    if layout:
        (root / "tiny").rename(target)
    else:
        for path in (root / "tiny").iterdir():
            path.rename(root / path.name)
    images = coco(root, images=layout if layout == "elsewhere" else None)
    assert [s.path for s in images.samples] == [target / "a.png", target / "b.png"]
    moved = tmp_path / "lists.json"
    (root / "annotations" / "instances_tiny.json").rename(moved)
    assert coco(target, annotations=str(moved)).digest == images.digest


def test_the_digest_has_the_masks(root: Path) -> None:
    digest = coco(root).digest
    assert coco(root, masks=False).digest != digest
    content = instances()
    content["annotations"][5]["segmentation"]["counts"] = compressed(
        rectangle(10, 10, 18, 15)
    )  # the same mask, written otherwise
    assert coco(write(root, content)).digest == digest
    content["annotations"][5]["segmentation"]["counts"] = runs(rectangle(10, 10, 18, 14))
    assert coco(write(root, content)).digest != digest


def test_without_pycocotools(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if name.startswith("pycocotools"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(UserError, match=r"pip install .*\[coco\].*dataset\.masks=false"):
        coco(root)
    assert [len(s.boxes) for s in coco(root, masks=False).samples] == [2, 1]


# what can be wrong


def changed(*path: str | int, to: Any) -> Callable[[], Json]:
    """The instances with another value at a place."""

    def change() -> Json:
        content = instances()
        node: Any = content
        for key in path[:-1]:
            node = node[key]
        node[path[-1]] = to
        return content

    return change


RUNS = {"size": [40, 50], "counts": [1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (lambda: b'{"images": [', "is no file of COCO instances: Invalid JSON: EOF while parsing a list at line 1 column 12"),
        (lambda: b"", "is no file of COCO instances: Invalid JSON"),
        (list, "is no file of COCO instances: Input should be an object"),
        (lambda: {"images": [], "categories": []}, "annotations: Field required"),
        (changed("images", 1, "width", to="50"), "images[1].width: Input should be a valid integer"),
        (changed("images", 1, "height", to=0), "images[1].height: Input should be greater than or equal to 1"),
        (changed("images", 1, to={"id": 3, "file_name": "b.png", "width": 20000, "height": 20000}), "has 20000 x 20000 pixels"),
        (changed("images", 1, "file_name", to="../b.png"), "'../b.png' cannot be an image's name"),
        (changed("images", 1, "file_name", to="a.png"), "images[1].file_name 'a.png' is there twice"),
        (changed("images", 1, "id", to=7), "images[1].id 7 is there twice"),
        (changed("categories", 1, "name", to="kite"), "categories[1].name 'kite' is there twice"),
        (changed("annotations", 3, "id", to=2), "annotations[3].id 2 is there twice"),
        (changed("annotations", 3, "image_id", to=70), "annotations[3].image_id is 70, which none of the images has"),
        (changed("annotations", 3, "category_id", to=2), "annotations[3].category_id is 2, which none of the categories has"),
        (changed("annotations", 0, "bbox", to=[1, 2, 3]), "annotations[0].bbox[3]: Field required"),
        (changed("annotations", 0, "bbox", 2, to=float("nan")), "annotations[0].bbox[2]: Input should be a finite number"),
        (changed("annotations", 0, "segmentation", to=[[1, 2, 3, 4]]), "annotations[0].segmentation"),
        (
            changed("annotations", 0, "segmentation", to=[[1, 2, 3, 4, 5, 6, 7]]),
            "annotations[0].segmentation has a polygon of 7",
        ),
        (
            changed("annotations", 0, "segmentation", to=RUNS),
            "annotations[0].segmentation is no run lengths of the image's 50 x 40",
        ),
        (changed("annotations", 5, "segmentation", "size", to=[50, 40]), "annotations[5].segmentation is no run lengths of"),
        (changed("annotations", 5, "segmentation", "counts", to="04"), "annotations[5].segmentation is no run lengths of"),
        (changed("annotations", 5, "segmentation", "counts", to="PPPPP"), "annotations[5].segmentation is no run lengths of"),
    ],
)
def test_mistakes_are_told_by_file_and_place(root: Path, content: Callable[[], Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        coco(write(root, content()))
    assert said in str(error.value)
    assert "instances_tiny.json" in str(error.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (changed("images", 0, "file_name", to="z.png"), "image z is listed but not on disk"),
        (changed("annotations", 0, "bbox", 2, to=0), "is empty"),
        (changed("annotations", 0, "bbox", 2, to=60), "annotations 1, 3) lies outside the image of 50 x 40 pixels"),
        (changed("images", 0, "width", to=80), "annotations 1, 3) is for 80 x 40 pixels, the image has 50 x 40"),
    ],
)
def test_wrong_images_and_boxes_end_the_run_or_are_counted(root: Path, content: Callable[[], Any], said: str) -> None:
    made = content()
    if made["images"][0]["width"] == 80:
        for one in made["annotations"][:4]:
            one["segmentation"] = [[1, 1, 9, 1, 9, 9]]
    with pytest.raises(UserError, match=r"dataset\.strict=false") as error:
        coco(write(root, made))
    assert said in str(error.value)
    wrong = [s for s in coco(root, strict=False).samples if s.problem]
    assert len(wrong) == 1
    assert not wrong[0].path.is_file() or (wrong[0].boxes, wrong[0].mask) == ((), None)


def test_which_files(root: Path) -> None:
    file = root / "annotations" / "instances_tiny.json"
    (root / "annotations" / "instances_other.json").write_bytes(file.read_bytes())
    with pytest.raises(UserError, match=r"has annotations/instances_other\.json, annotations/instances_tiny\.json: say which"):
        coco(root)
    assert len(coco(root, annotations="annotations/instances_tiny.json").samples) == 2
    with pytest.raises(UserError, match=r"dataset\.annotations=x\.json is no file"):
        coco(root, annotations="x.json")
    with pytest.raises(UserError, match=r"dataset\.images=x is no folder"):
        coco(root, annotations=str(file), images="x")
    with pytest.raises(UserError, match=r"looked for annotations/instances_<name>\.json"):
        coco(root / "tiny")


# masks follow their image


# frames of one shape are taken for the stored one, so that an upright one is known where the orientation turns the image
@pytest.mark.parametrize(
    ("orientation", "upright_frame"), [*((o, False) for o in range(1, 9)), *((o, True) for o in range(5, 9))]
)
@pytest.mark.parametrize("scale", [1, 3])
def test_masks_and_boxes_follow_rotation_and_size(root: Path, orientation: int, upright_frame: bool, scale: int) -> None:
    """The image is a picture of its own mask, rotated by EXIF and three times as large as the annotation says."""
    inside = rectangle(5, 4, 20, 12)
    stored = np.kron(inside, np.ones((scale, scale), bool))
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored.astype(np.uint8) * 255).convert("RGB").save(root / "tiny" / "a.png", exif=exif)
    decoded = decode(root / "tiny" / "a.png")
    seen = np.asarray(decoded.image)[..., 0] > 127
    annotated = seen[::scale, ::scale] if upright_frame else inside
    y, x = np.nonzero(annotated)
    content = instances()
    height, width = annotated.shape
    content["images"][0] |= {"width": width, "height": height}
    bbox = (int(x.min()), int(y.min()), int(np.ptp(x)) + 1, int(np.ptp(y)) + 1)
    content["annotations"] = [annotation(1, 7, 1, bbox, {"size": [height, width], "counts": runs(annotated)})]
    (sample,) = coco(write(root, content)).samples
    mask = upright_annotated_mask(sample, decoded)
    assert mask is not None
    assert (mask == seen).all()
    (box,) = upright_annotation(sample, decoded)
    assert (box_mask([box], *seen.shape).numpy() == seen).all()


def test_the_object_in_the_view_is_the_mask_or_the_boxes(root: Path) -> None:
    first, second = coco(root).samples
    decoded = decode(first.path)
    seen = object_in_view(first, decoded, WHOLE)  # the crop takes the columns 5..44
    assert seen is not None
    assert (seen == (rectangle(2, 3, 12, 13) | rectangle(30, 20, 40, 30))[:, 5:45]).all()
    boxed, _ = coco(root, masks=False).samples
    again = object_in_view(boxed, decoded, WHOLE)
    assert again is not None
    assert (again == seen).all()
    assert object_in_view(replace(first, boxes=(), mask=None), decoded, WHOLE) is None
    assert torch.tensor(object_in_view(second, decoded, WHOLE)).sum() == 8 * 5


# runs

KEYS = ("method=center", "metrics=[energy_proportion,energy_proportion_mask,pointing_game,pointing_game_mask]")


def test_a_run_on_photographs(cli: Cli, tmp_path: Path) -> None:
    """Triangles as masks in the boxes of the demo: values beside those computed from the picture of the mask."""
    place = tmp_path / "photos"
    (place / "annotations").mkdir(parents=True)
    (place / "tiny").mkdir()
    images, annotations = [], []
    for at, sample in enumerate(Demo(name="demo").load().samples[:3]):
        photo = Image.open(sample.path).convert("RGB")
        photo.save(place / "tiny" / f"{sample.image}.png")
        images.append({"id": at, "file_name": f"{sample.image}.png", "width": photo.width, "height": photo.height})
        b = sample.boxes[0]
        triangle = [[b.x0, b.y0, b.x1, b.y0, b.x0, b.y1]]
        annotations.append(annotation(at, at, 1 + at % 2, (b.x0, b.y0, b.x1 - b.x0, b.y1 - b.y0), triangle))
    categories = [{"id": 1, "name": "first"}, {"id": 2, "name": "second"}]
    write(place, {"images": images, "categories": categories, "annotations": annotations})
    results = tmp_path / "r"
    common = ("dataset=coco", f"dataset.root={place}", f"results_dir={results}")
    ended = cli(*KEYS, *common, "maps=true", "pictures=1")
    assert ended.code == 0, ended.err
    assert "coco has 2 classes, efficientnet_lite0 has 1000 outputs: the wrong-class count means nothing" in ended.err
    (cell,) = results.glob("*/*/*")
    view = View(**{k: tuple(v) if isinstance(v, list) else v for k, v in preprocessing(cell).items()})
    records = {r["image"]: r for r in read_records(cell)}
    for sample in coco(place).samples:
        inside = object_in_view(sample, decode(sample.path), view)
        assert inside is not None
        saliency = np.load(cell / "maps" / f"{sample.image}.npz")["saliency"].astype(np.float64)
        share = float(saliency[inside].sum() / saliency.sum())
        assert records[sample.image]["energy_proportion_mask"] == pytest.approx(share, abs=1e-3)  # maps are stored as halves
        assert records[sample.image]["energy_proportion_mask"] < records[sample.image]["energy_proportion"]
    assert len(list((cell / "pictures").iterdir())) == 1

    assert "so labels are not its classes; use target=predicted" in only_error(cli(*KEYS, *common, "target=label"))
    assert guarded(lambda: score.main([str(cell), "metrics=energy_proportion_mask"])) == 0
    (scored,) = [c for c in results.glob("*/*/*") if c != cell]
    assert [r["energy_proportion_mask"] for r in read_records(scored)] == [
        r["energy_proportion_mask"] for r in records.values()
    ]


def preprocessing(cell: Path) -> Json:
    found = yaml.safe_load((cell / "card.yaml").read_text())["identity"]["preprocessing"]
    return {k: v for k, v in found.items() if k != "exif"}


def test_other_data_sets_have_no_masks(cli: Cli, tmp_path: Path) -> None:
    ended = cli(*KEYS, "dataset.limit=1", f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    assert "note: pointing_game_mask is skipped: dataset 'demo' has no masks" in ended.err
    (cell,) = tmp_path.glob("*/*/*")
    assert set(yaml.safe_load((cell / "card.yaml").read_text())["columns"]) == {"energy_proportion", "pointing_game"}
    said = only_error(cli("method=center", "metrics=energy_proportion_mask", f"results_dir={tmp_path}"))
    assert said == "metrics: none of them can be measured here: dataset 'demo' has no masks."
