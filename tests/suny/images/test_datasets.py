"""The data sets: official and flat layouts, what can be wrong with them, and the real subsets."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from suny.errors import UserError
from suny.images.cub import Cub
from suny.images.dataset import Sample, draw, imagenet_classes, upright_annotation
from suny.images.decode import decode
from suny.images.demo import Demo
from suny.images.geometry import Box
from suny.images.ilsvrc2012 import Ilsvrc2012
from suny.images.imagefolder import ImageFolder

XML = """<annotation><size><width>{w}</width><height>{h}</height><depth>3</depth></size>{objects}</annotation>"""
OBJECT = (
    """<object><name>{name}</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""
)


def jpeg(path: Path, size: tuple[int, int] = (50, 40)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (90, 120, 150)).save(path)
    return path


def xml(path: Path, boxes: list[tuple[int, int, int, int]], name: str = "n01440764", size: tuple[int, int] = (50, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    objects = "".join(OBJECT.format(*box, name=name) for box in boxes)
    path.write_text(XML.format(w=size[0], h=size[1], objects=objects))


def official(root: Path, count: int = 3, inner: str = "") -> Path:
    """A small ILSVRC2012 in the official layout; ``inner`` is Kaggle's ILSVRC folder."""
    rows = ["ImageId,PredictionString"]
    for i in range(1, count + 1):
        image = f"ILSVRC2012_val_{i:08d}"
        jpeg(root / inner / "Data/CLS-LOC/val" / f"{image}.JPEG")
        xml(root / inner / "Annotations/CLS-LOC/val" / f"{image}.xml", [(5, 6, 19, 29)], name="n01443537")
        rows.append(f"{image},n01443537 5 6 19 29 ")
    (root / "LOC_val_solution.csv").write_text("\n".join(rows) + "\n")
    lines = [f"{wnid} {name}" for wnid, (_, name) in imagenet_classes().items()]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(lines) + "\n")
    return root


def ilsvrc2012(root: Path, **keys: object) -> Ilsvrc2012:
    return Ilsvrc2012(name="ilsvrc2012", root=str(root), **keys)  # type: ignore[arg-type]


# ILSVRC2012


@pytest.mark.parametrize("inner", ["", "ILSVRC"])
def test_official_layout(tmp_path: Path, inner: str) -> None:
    images = ilsvrc2012(official(tmp_path, inner=inner)).load()
    first = images.samples[0]
    assert [s.image for s in images.samples] == [f"ILSVRC2012_val_{i:08d}" for i in (1, 2, 3)]
    assert first.label == 1
    assert first.boxes == (Box(5, 6, 20, 30),)  # inclusive corners
    assert first.annotated_size == (50, 40)
    assert images.class_names[1].startswith("goldfish")


def test_a_folder_of_data_sets_will_do(tmp_path: Path) -> None:
    official(tmp_path / "imagenet")
    assert len(ilsvrc2012(tmp_path).load().samples) == 3


@pytest.mark.parametrize("folder", ["", "val", "ILSVRC2012_img_val", "pictures"])
@pytest.mark.parametrize("annotations", ["", "Annotations", "bbox_val"])
def test_flat_layout_takes_the_class_from_the_xml(tmp_path: Path, folder: str, annotations: str) -> None:
    jpeg(tmp_path / folder / "ILSVRC2012_val_00000007.JPEG")
    xml(tmp_path / annotations / "ILSVRC2012_val_00000007.xml", [(0, 0, 9, 9), (3, 3, 49, 39)], name="n01484850")
    (sample,) = ilsvrc2012(tmp_path).load().samples
    assert (sample.label, sample.boxes) == (2, (Box(0, 0, 10, 10), Box(3, 3, 50, 40)))


def test_flat_layout_without_annotations(tmp_path: Path) -> None:
    jpeg(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "val.txt").write_text("ILSVRC2012_val_00000001.JPEG 65\n")
    images = ilsvrc2012(tmp_path).load()
    assert images.samples[0].label == 65
    assert not images.has_boxes


def test_no_labels_at_all(tmp_path: Path) -> None:
    jpeg(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match=r"looked for LOC_val_solution\.csv"):
        ilsvrc2012(tmp_path).load()


def test_boxes_from_the_csv_where_there_is_no_xml(tmp_path: Path) -> None:
    jpeg(tmp_path / "val/ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000001,n01440764 1 2 3 4 n01440764 5 6 7 8 \n"
    )
    (sample,) = ilsvrc2012(tmp_path).load().samples
    assert sample.boxes == (Box(1, 2, 4, 5), Box(5, 6, 8, 9))


def test_the_real_subset(ilsvrc: Path) -> None:
    images = ilsvrc2012(ilsvrc).load()
    assert len(images.samples) == 25
    assert sum(len(s.boxes) for s in images.samples) == 37
    assert len({s.label for s in images.samples}) == 25
    by_id = {s.image: s for s in images.samples}
    assert by_id["ILSVRC2012_val_00000994"].boxes == (Box(55, 0, 481, 295), Box(0, 139, 469, 375))
    for sample in images.samples:
        decoded = decode(sample.path)
        assert decoded.stored_size == sample.annotated_size
        assert len(upright_annotation(sample, decoded)) == len(sample.boxes)


# CUB-200-2011


def test_the_real_birds(cub: Path) -> None:
    test = Cub(name="cub", root=str(cub)).load()
    train = Cub(name="cub", root=str(cub), split="train").load()
    assert (len(test.samples), len(train.samples)) == (185, 300)
    assert np.bincount([s.label for s in test.samples]).tolist() == [23, 23, 21, 23, 11, 8, 17, 14, 22, 23]
    assert len(test.class_names) == 200
    assert "10 of the 200 classes" in test.notes[0]
    every = {s.image: s for s in (*test.samples, *train.samples)}
    first = every["001.Black_footed_Albatross/Black_Footed_Albatross_0046_18"]
    assert first.boxes == (Box(60, 27, 385, 331),)
    assert ("beak", 312.0, 182.0) in first.parts
    assert all(name != "back" for name, *_ in first.parts)  # not visible on this one


def test_the_parent_of_cub_will_do(cub: Path) -> None:
    assert len(Cub(name="cub", root=str(cub.parent)).load().samples) == 185


def test_a_box_one_pixel_past_the_edge_is_clipped(cub: Path) -> None:
    images = Cub(name="cub", root=str(cub), split="all").load()
    reaching = []
    for sample in images.samples:
        width, height = Image.open(sample.path).size
        if sample.boxes[0].overhang(width, height) > 0:
            reaching.append(sample)
            (box,) = upright_annotation(sample, decode(sample.path))
            assert box.overhang(width, height) == 0
    assert len(reaching) == 1


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("classes.txt", r"^1 ", "one ", "a value that is not a number"),
        ("parts/part_locs.txt", r" \d+ (\S+ \S+ 1)$", r" 99 \1", "id '99' is in one list"),
        ("parts/part_locs.txt", r" \S+ (\S+ 1)$", r" left \1", "a value that is not a number"),
        ("bounding_boxes.txt", " ", " x", "a value that is not a number"),
    ],
)
def test_damaged_lists(cub: Path, tmp_path: Path, file: str, old: str, new: str, said: str) -> None:
    copy = Path(shutil.copytree(cub, tmp_path / "CUB_200_2011"))
    text = (copy / file).read_text()
    (copy / file).write_text(re.sub(old, new, text, count=1, flags=re.MULTILINE))
    with pytest.raises(UserError, match=said):
        Cub(name="cub", root=str(copy), split="all").load()


def test_a_list_that_misses_an_image(cub: Path, tmp_path: Path) -> None:
    for name in ("images.txt", "classes.txt", "train_test_split.txt", "bounding_boxes.txt"):
        (tmp_path / name).write_text((cub / name).read_text())
    (tmp_path / "image_class_labels.txt").write_text("1 1\n")
    with pytest.raises(UserError, match="not in every other one"):
        Cub(name="cub", root=str(tmp_path)).load()


# folders


def test_wordnet_folders_get_imagenet_indices(imagenet_sample: Path) -> None:
    images = ImageFolder(name="imagefolder", root=str(imagenet_sample)).load()
    assert len(images.samples) == 100
    assert images.label_space == "imagenet"
    classes = imagenet_classes()
    assert all(s.label == classes[s.path.parent.name][0] for s in images.samples)


def test_other_folders_are_numbered(tmp_path: Path) -> None:
    for name in ("dog/b.jpg", "cat/a.jpg", "cat/a.png"):
        jpeg(tmp_path / name)
    images = ImageFolder(name="imagefolder", root=str(tmp_path)).load()
    assert [(s.image, s.label) for s in images.samples] == [("cat/a.jpg", 0), ("cat/a.png", 0), ("dog/b.jpg", 1)]
    assert images.class_names == {0: "cat", 1: "dog"}


def test_the_folder_that_images_are_taken_from_is_told(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "cat").mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / split / "cat" / "a.png")
    assert ImageFolder(name="imagefolder", root=str(tmp_path)).load().notes == (f"images are taken from {tmp_path / 'train'}",)
    assert ImageFolder(name="imagefolder", root=str(tmp_path / "val")).load().notes == ()


def test_a_mixture_of_names_is_refused(tmp_path: Path) -> None:
    jpeg(tmp_path / "cat/a.jpg")
    jpeg(tmp_path / "n01440764/b.jpg")
    with pytest.raises(UserError, match="'cat' is no ImageNet WordNet id"):
        ImageFolder(name="imagefolder", root=str(tmp_path)).load()


def test_the_demo_is_there() -> None:
    images = Demo(name="demo").load()
    assert len(images.samples) >= 5
    for sample in images.samples:
        width, height = Image.open(sample.path).size
        assert sample.boxes[0].overhang(width, height) == 0


# subsets


def samples(count: int) -> list[Sample]:
    return [Sample(f"{i:03d}", Path(f"{i}.jpg")) for i in range(count)]


def test_a_subset_is_drawn_by_seed() -> None:
    drawn = [s.image for s in draw(samples(100), 10, 0)]
    assert drawn == [s.image for s in draw(samples(100), 10, 0)]
    assert drawn == sorted(drawn)
    assert drawn != [f"{i:03d}" for i in range(10)]
    assert drawn != [s.image for s in draw(samples(100), 10, 1)]


def test_a_larger_subset_keeps_the_smaller_one() -> None:
    small, large = ({s.image for s in draw(samples(100), k, 3)} for k in (10, 25))
    assert small < large
    assert len(draw(samples(7), 9, 0)) == len(draw(samples(7), None, 0)) == 7


def test_the_digest_does_not_depend_on_the_place(tmp_path: Path) -> None:
    one, other = (ilsvrc2012(official(tmp_path / name)).load() for name in ("a", "b"))
    assert one.digest == other.digest
    assert one.digest != ilsvrc2012(official(tmp_path / "c", count=2)).load().digest


# what can be wrong


def test_missing_root(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.root=PATH or set the environment variable SUNY_DATA"):
        Ilsvrc2012(name="ilsvrc2012").load()
    with pytest.raises(UserError, match="is not a folder"):
        ilsvrc2012(tmp_path / "nowhere").load()


def test_wrong_layout_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"looked for Data/CLS-LOC/val/ILSVRC2012_val_\*\.JPEG"):
        ilsvrc2012(tmp_path).load()
    with pytest.raises(UserError, match=r"looked for images\.txt"):
        Cub(name="cub", root=str(tmp_path)).load()
    with pytest.raises(UserError, match=r"looked for <class folder>/<image>\.jpg"):
        ImageFolder(name="imagefolder", root=str(tmp_path)).load()


def spoil_image(root: Path) -> None:
    (root / "Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG").unlink()


def spoil(content: str | None = None, boxes: list[tuple[int, int, int, int]] | None = None) -> object:
    def change(root: Path) -> None:
        path = root / "Annotations/CLS-LOC/val/ILSVRC2012_val_00000002.xml"
        if content is not None:
            path.write_text(content)
        else:
            xml(path, boxes or [])

    return change


@pytest.mark.parametrize(
    ("damage", "said", "boxes_left"),
    [
        (spoil_image, "listed but not on disk", 1),
        (spoil(boxes=[]), "has no box", 0),
        (spoil(boxes=[(60, 10, 80, 20)]), r"\(60, 10\)-\(81, 21\) .* lies outside the image of 50 x 40", 0),
        (spoil(boxes=[(30, 10, 70, 20)]), "lies outside the image of 50 x 40", 0),
        (spoil(boxes=[(30, 10, 20, 20)]), "is empty", 0),
        (spoil(content="<annotation><object>"), "not a PASCAL VOC annotation", 1),
        (
            spoil(content=XML.format(w=500, h=200, objects=OBJECT.format(1, 1, 9, 9, name="n01440764"))),
            "is for 500 x 200 pixels, the image has 50 x 40",
            0,
        ),
        (spoil(content="nothing"), "not a PASCAL VOC annotation", 1),
    ],
)
def test_spoilt_data_is_one_line_or_counted(tmp_path: Path, damage: object, said: str, boxes_left: int) -> None:
    official(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(UserError, match=said) as error:
        ilsvrc2012(tmp_path).load()
    assert "ILSVRC2012_val_00000002" in str(error.value)
    assert "dataset.strict=false" in str(error.value)
    lenient = ilsvrc2012(tmp_path, strict=False).load()
    assert len(lenient.samples) == 3
    assert len(lenient.samples[1].boxes) == boxes_left
    assert [s.problem is None for s in lenient.samples] == [True, False, True]


def test_unknown_class_in_the_list(tmp_path: Path) -> None:
    official(tmp_path)
    (tmp_path / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000001,n01443538 1 2 3 4\n")
    with pytest.raises(UserError, match=r"unknown class 'n01443538'.*Did you mean 'n01443537'"):
        ilsvrc2012(tmp_path).load()


def test_a_shortened_class_list_is_refused(tmp_path: Path) -> None:
    mapping = official(tmp_path) / "LOC_synset_mapping.txt"
    mapping.write_text("n01443537 goldfish\n")
    with pytest.raises(UserError, match="is not ImageNet's list of 1000 classes"):
        ilsvrc2012(tmp_path).load()


def test_an_image_listed_twice_is_refused(tmp_path: Path) -> None:
    solution = official(tmp_path) / "LOC_val_solution.csv"
    solution.write_text(solution.read_text() + "ILSVRC2012_val_00000002,n01443537 5 6 19 29 \n")
    with pytest.raises(UserError, match="ILSVRC2012_val_00000002 is listed twice"):
        ilsvrc2012(tmp_path).load()


@pytest.mark.parametrize("index", [-1, 1000])
def test_a_class_index_out_of_the_list(tmp_path: Path, index: int) -> None:
    jpeg(tmp_path / "ILSVRC2012_val_00000001.JPEG")
    (tmp_path / "val.txt").write_text(f"ILSVRC2012_val_00000001.JPEG {index}\n")
    with pytest.raises(UserError, match=rf"class index {index}, the class list has 0\.\.999"):
        ilsvrc2012(tmp_path).load()


def test_the_digest_depends_on_the_pixels(tmp_path: Path) -> None:
    before = ilsvrc2012(official(tmp_path)).load().digest
    Image.new("RGB", (50, 40), (1, 2, 3)).save(tmp_path / "Data/CLS-LOC/val/ILSVRC2012_val_00000002.JPEG")
    assert ilsvrc2012(tmp_path).load().digest != before


def test_a_limit_has_to_be_positive(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"dataset\.limit is 0"):
        ilsvrc2012(official(tmp_path), limit=0).load()


# annotations and EXIF


def rotated(tmp_path: Path, orientation: int = 6) -> Path:
    """Stored 40 x 25 with orientation 6: upright it is 25 x 40."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (40, 25)).save(tmp_path / "a.jpg", exif=exif)
    return tmp_path / "a.jpg"


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((40, 25), Box(0, 0, 10, 5), Box(20, 0, 25, 10)),  # annotated on the stored pixels
        ((25, 40), Box(0, 0, 10, 5), Box(0, 0, 10, 5)),  # annotated upright
        (None, Box(0, 0, 10, 5), Box(20, 0, 25, 10)),  # not stated: stored pixels
        (None, Box(0, 0, 10, 38), Box(0, 0, 10, 38)),  # not stated, but fits upright only
        ((80, 50), Box(0, 0, 20, 10), Box(20, 0, 25, 10)),  # a copy at half the size
    ],
)
def test_boxes_of_an_exif_rotated_image(tmp_path: Path, size: tuple[int, int] | None, box: Box, expected: Box) -> None:
    decoded = decode(rotated(tmp_path))
    assert decoded.image.size == (25, 40)
    assert upright_annotation(Sample("a", tmp_path, boxes=(box,), annotated_size=size), decoded) == [expected]


def test_an_annotation_of_another_image_is_refused(tmp_path: Path) -> None:
    sample = Sample("a", tmp_path, boxes=(Box(0, 0, 5, 5),), annotated_size=(100, 30), where="a.xml")
    with pytest.raises(UserError, match=r"a\.xml.*100 x 30.*40 x 25"):
        upright_annotation(sample, decode(rotated(tmp_path)))
