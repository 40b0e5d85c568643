"""A table of images, labels and boxes: what it may look like, what can be wrong with it, and beside the official data sets."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml
from PIL import Image

from experiments.store.records import Record, read_records
from suny.errors import UserError
from suny.images.cub import Cub
from suny.images.dataset import Dataset, ImageList, Sample, imagenet_classes
from suny.images.demo import Demo
from suny.images.geometry import Box
from suny.images.ilsvrc2012 import Ilsvrc2012
from suny.images.table import Table
from tests.conftest import Cli, only_error

FULL = "image,label,x0,y0,x1,y1\na.png,cat,1,2,11,22\nb.png,dog,0,0,50,40\na.png,cat,20.5,0,30,9\n"
FAST = ("method=center", "metrics=[energy_proportion,pointing_game,iou,deletion]", "metrics.deletion.points=3")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of 50 x 40 pixels."""
    root = tmp_path / "pictures"
    root.mkdir()
    for name, grey in (("a.png", 90), ("b.png", 150)):
        Image.new("RGB", (50, 40), (grey, grey, grey)).save(root / name)
    return root


def table(root: Path, text: str | bytes | None = None, **keys: object) -> ImageList:
    if text is not None:
        (root / "t.csv").write_bytes(text.encode() if isinstance(text, str) else text)
    return Table(name="table", root=str(root), **keys).load()  # type: ignore[arg-type]


def refused(root: Path, text: str | bytes, **keys: object) -> str:
    with pytest.raises(UserError) as error:
        table(root, text, **keys)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def content(images: ImageList) -> list[tuple[object, ...]]:
    return [(s.image, s.path, s.label, s.boxes) for s in images.samples]


# what it may look like


def test_several_lines_of_an_image_are_its_boxes(folder: Path) -> None:
    images = table(folder, FULL)
    assert content(images) == [
        ("a", folder / "a.png", 0, (Box(1, 2, 11, 22), Box(20.5, 0, 30, 9))),
        ("b", folder / "b.png", 1, (Box(0, 0, 50, 40),)),
    ]
    assert images.class_names == {0: "cat", 1: "dog"}
    assert (images.label_space, images.has_boxes, images.notes) == ("folders", True, ())


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("\n", "\r\n"),
        lambda t: t.replace("\n", "\r"),
        lambda t: "\ufeff" + t,
        lambda t: t.replace(",", ";"),
        lambda t: t.replace(",", "\t"),
        lambda t: t.replace(",", " | "),
        lambda t: t.rstrip("\n"),
        lambda t: t.replace("\n", "\n\n"),
        lambda t: t.replace("cat", '"cat"').replace("image", '"image"'),
        lambda t: t.replace(",", ", ").replace("a.png", " a.png "),
        lambda t: t.replace("a.png", "./a.png", 1),
    ],
)
def test_files_as_programs_write_them(folder: Path, change: Callable[[str], str]) -> None:
    expected = content(table(folder, FULL))
    assert content(table(folder, change(FULL).encode())) == expected


def test_quoted_values_hold_separators_and_quotes(folder: Path) -> None:
    os.rename(folder / "a.png", folder / "a, b.png")
    images = table(folder, 'image,label\n"a, b.png","a ""big"", grey cat"\nb.png,dog\n')
    assert [s.image for s in images.samples] == ["a, b", "b"]
    assert images.class_names[0] == 'a "big", grey cat'


def test_columns_are_named_by_keys(folder: Path) -> None:
    text = "file;class;left;top;right;bottom;by\na.png;cat;1;2;10;21;me\nb.png;dog;0;0;49;39;me\n"
    names = {"image": "file", "label": "class", "x0": "left", "y0": "top", "x1": "right", "y1": "bottom"}
    images = table(folder, text, inclusive=True, **names)
    assert [s.boxes for s in images.samples] == [(Box(1, 2, 11, 22),), (Box(0, 0, 50, 40),)]
    assert content(table(folder, text, inclusive=True, separator=";", **names)) == content(images)
    assert "has no column 'klass' (dataset.label). Did you mean 'class'?" in refused(folder, text, **names | {"label": "klass"})


def test_boxes_and_labels_may_be_left_out(folder: Path) -> None:
    bare = table(folder, "image\na.png\nb.png\n")
    assert [(s.label, s.boxes) for s in bare.samples] == [(None, ())] * 2
    assert (bare.has_boxes, bare.class_names) == (False, {})
    assert bare.notes == tuple(f"no {what}: {folder / 't.csv'} has the columns image" for what in ("boxes", "labels"))
    some = table(folder, "image,label,x0,y0,x1,y1\na.png,3,,,,\nb.png,,,,,\n")
    assert [s.label for s in some.samples] == [3, None]
    assert not some.has_boxes
    renamed = table(folder, "image,label,xmin,ymin,xmax,ymax\na.png,cat,1,2,3,4\n")
    assert renamed.notes == (f"no boxes: {folder / 't.csv'} has the columns image, label, xmin, ymin, xmax, ymax",)


def test_labels_by_name_or_index(folder: Path) -> None:
    indices = table(folder, "image,label\na.png,2\nb.png,0.0\n")
    assert [s.label for s in indices.samples] == [2, 0]
    assert (indices.class_names, indices.label_space) == ({0: "0", 1: "1", 2: "2"}, "own")
    (folder / "classes.txt").write_text("dog\nowl\ncat\n")
    for text in ("image,label\na.png,cat\nb.png,dog\n", "image,label\na.png,2\nb.png,0\n"):
        listed = table(folder, text, classes="classes.txt")
        assert [s.label for s in listed.samples] == [2, 0]
        assert (listed.class_names, listed.label_space) == ({0: "dog", 1: "owl", 2: "cat"}, "own")
    (folder / "classes.txt").write_text("8\n7\n")  # names that look like indices
    assert [s.label for s in table(folder, "image,label\na.png,7\nb.png,8\n", classes="classes.txt").samples] == [1, 0]


def test_wordnet_ids_are_the_classes_of_imagenet(folder: Path) -> None:
    for keys in ({}, {"classes": "imagenet"}):
        images = table(folder, "image,label\na.png,n01443537\nb.png,n01440764\n", **keys)
        assert [s.label for s in images.samples] == [1, 0]
        assert (images.label_space, len(images.class_names)) == ("imagenet", 1000)
    by_index = table(folder, "image,label\na.png,1\nb.png,999\n", classes="imagenet")
    assert (by_index.label_space, [s.label for s in by_index.samples]) == ("imagenet", [1, 999])


def test_paths_from_the_root_of_the_file_system(folder: Path, tmp_path: Path) -> None:
    text = f"image,label\n{folder / 'a.png'},cat\nb.png,dog\n"
    assert content(table(folder, text)) == content(table(folder, "image,label\na.png,cat\nb.png,dog\n"))
    (folder / "t.csv").unlink()
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    (elsewhere / "u.csv").write_text(text.replace("\nb.png", f"\n{folder / 'b.png'}"))
    for keys in ({"root": str(folder)}, {"root": str(elsewhere)}, {}):
        images = Table(name="table", file=str(elsewhere / "u.csv"), **keys).load()  # type: ignore[arg-type]
        assert [(s.image, s.path) for s in images.samples] == [("a", folder / "a.png"), ("b", folder / "b.png")]
    assert sorted(p.name for p in folder.iterdir()) == ["a.png", "b.png"]


def test_ids_keep_suffixes_where_names_differ_in_them_alone(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "a.bmp")
    assert [s.image for s in table(folder, "image\na.png\na.bmp\n").samples] == ["a.bmp", "a.png"]


def test_the_digest_is_that_of_the_content(folder: Path) -> None:
    digest = table(folder, FULL).digest
    assert table(folder, FULL.replace(",", ";").replace("\n", "\r\n")).digest == digest
    assert table(folder, FULL.replace("1,2,11,22", "1,2,11,23")).digest != digest
    assert table(folder, FULL.replace("dog", "ant")).digest != digest  # the class indices are others
    Image.new("RGB", (50, 40), (1, 2, 3)).save(folder / "b.png")
    assert table(folder, FULL).digest != digest


def test_subsets_are_drawn_as_of_other_data_sets(folder: Path) -> None:
    for at in range(20):
        Image.new("RGB", (8, 8), (at, at, at)).save(folder / f"{at:02d}.png")
    lines = "image\n" + "".join(f"{at:02d}.png\n" for at in reversed(range(20)))
    few, more = ([s.image for s in table(folder, lines, limit=limit, subset_seed=4).samples] for limit in (5, 9))
    assert few == sorted(few)
    assert set(few) < set(more)
    assert len(more) == 9


# what can be wrong


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (FULL.replace("a.png,cat,20", "a.png,dog,20"), "lines 2, 4, column label: image a.png has the labels 'cat' and 'dog'"),
        (FULL + "b.png,dog,0,0,50,40\n", "lines 3 and 5 say the same of image b.png"),
        (FULL.replace("0,0,50,40", "0,zero,50,40"), "line 3, column y0: 'zero' is no number"),
        (FULL.replace("0,0,50,40", "0,0,nan,40"), "line 3, column x1: 'nan' is no number"),
        (FULL.replace("0,0,50,40", "0,0,inf,40"), "line 3, column x1: 'inf' is no number"),
        (FULL.replace("0,0,50,40", "0,0,1_0,40"), "line 3, column x1: '1_0' is no number"),
        (FULL.replace("0,0,50,40", '0,0,"50,5",40'), "line 3, column x1: '50,5' is no number"),
        (FULL.replace("0,0,50,40", "0,0,50,"), "line 3, column y1: no value, but the others of the box are there"),
        (FULL.replace(",dog,", ",NaN,"), "line 3, column label: 'NaN' is no class"),
        (FULL.replace("b.png", ""), "line 3, column image: no image is named"),
        (FULL.replace("cat", "0").replace("dog", "-1"), "line 3, column label: class index -1 is none of 0..99999"),
        (FULL.replace("cat", "0").replace("dog", "100000"), "line 3, column label: class index 100000 is none of 0..99999"),
        (FULL.replace("cat", "0"), "line 3, column label: 'dog' is a name, but '0' (line 2) is a class index"),
        (FULL.replace("0,0,50,40", "0,0,50,40,1"), "is no table: Expected 6 fields in line 3, saw 7"),
        (FULL.replace("0,0,50,40", "0,0,50"), "line 3, column y1: no value, but the others of the box are there"),
        (FULL.replace("dog", '"dog'), "is no table: EOF inside string"),
        (FULL.replace("dog", '"dog\n"'), "line 3: a value goes on in the next line"),
        (FULL.replace("label", "image"), "the column 'image' is there twice"),
        (
            FULL.replace("image,", "img,"),
            "has no column 'image' (dataset.image). Did you mean 'img'? Its first line has: img, label",
        ),
        (FULL.replace(",y1", ",z1"), "a box needs four columns; y1 is not there"),
        (FULL.encode("utf-16"), "line 1: not UTF-8"),
        (FULL.replace("dog", "\udce9").encode("utf-8", "surrogateescape"), "line 3: not UTF-8"),
        (FULL.replace("dog", "\0"), "is no text: it holds a byte 0"),
        ("", "is no table: No columns to parse from file"),
        ("image,label\n", "no image found"),
        (FULL.replace("b.png", "../b.png"), "'../b.png' cannot be an image's name"),
    ],
)
def test_mistakes_are_told_by_file_line_and_column(folder: Path, text: str | bytes, said: str) -> None:
    assert said in (message := refused(folder, text))
    assert str(folder) in message
    with pytest.raises(UserError):  # what can't be read is no failure of an image
        table(folder, text, strict=False)


@pytest.mark.parametrize(
    ("text", "said", "left"),
    [
        (FULL.replace("b.png", "c.png"), "t.csv, line 3, column image: image c is not on disk", ["a"]),
        (FULL.replace("0,0,50,40", "9,0,5,40"), "column x1: 5 leaves the box of image b.png empty, whose x0 is 9", ["a"]),
        (FULL.replace("0,0,50,40", "0,7,50,7"), "column y1: 7 leaves the box of image b.png empty, whose y0 is 7", ["a"]),
        (FULL.replace("20.5,0,30,9", "20,0,70,9"), "box (20, 0)-(70, 9) of image a (", ["b"]),
        (FULL.replace("20.5,0,30,9", "20,0,70,9"), "t.csv, lines 2, 4) lies outside the image of 50 x 40 pixels", ["b"]),
        (FULL.replace("0,0,50,40", ",,,"), "annotation of image b has no box (", ["a"]),
    ],
)  # fmt: skip
def test_wrong_images_and_boxes_end_the_run_or_are_counted(folder: Path, text: str, said: str, left: Sequence[str]) -> None:
    message = refused(folder, text)
    assert said in message
    assert "dataset.strict=false" in message
    lenient = table(folder, text, strict=False)
    assert [s.image for s in lenient.samples if not s.problem] == left
    assert len(lenient.samples) == 2


def test_lists_of_classes(folder: Path) -> None:
    list_ = folder / "classes.txt"
    list_.write_text("cat\ndogs\n")
    assert "unknown class 'dog' in " in (said := refused(folder, FULL, classes="classes.txt"))
    assert "line 3, column label. Did you mean 'dogs'?" in said
    numbers = FULL.replace("cat", "0").replace("dog", "2")
    assert "line 3, column label: class index 2 is none of 0..1, the list" in refused(folder, numbers, classes="classes.txt")
    list_.write_text("cat\n\ndog\n")
    assert "line 2: no class is named" in refused(folder, FULL, classes=str(list_))
    list_.write_text("cat\ndog\ncat\n")
    assert "line 3: class 'cat' is there twice" in refused(folder, FULL, classes="classes.txt")
    assert "dataset.classes: cannot read" in refused(folder, FULL, classes="nothing.txt")


def test_which_table(folder: Path) -> None:
    with pytest.raises(UserError, match=r"has no \.csv: say which table with dataset\.file=FILE"):
        table(folder)
    (folder / "u.csv").write_text("image\na.png\n")
    assert len(table(folder).samples) == 1
    assert refused(folder, FULL).endswith("has t.csv, u.csv: say which table with dataset.file=FILE.")
    assert len(table(folder, file="u.csv").samples) == 1
    assert "dataset.file=v.csv is no file" in refused(folder, FULL, file="v.csv")
    with pytest.raises(UserError, match=r"needs its folder.*the table \(dataset\.file=FILE, or the only \.csv\)"):
        Table(name="table").load()


# beside other data sets


def written(samples: Sequence[Sample], root: Path, file: Path, labels: Callable[[Sample], object]) -> Path:
    lines = [f"{s.path.relative_to(root)};{labels(s)};{b.x0!r};{b.y0!r};{b.x1!r};{b.y1!r}" for s in samples for b in s.boxes]
    file.write_text("\n".join(["image;label;x0;y0;x1;y1", *lines]) + "\n")
    return file


def values(cli: Cli, *arguments: str) -> list[Record]:
    ended = cli(*FAST, *arguments)
    assert ended.code == 0, ended.err
    (cell,) = Path(next(a for a in arguments if a.startswith("results_dir=")).removeprefix("results_dir=")).glob("*/*/*")
    return [{k: v for k, v in r.items() if "seconds" not in k} for r in read_records(cell)]


def same_cell(
    cli: Cli, tmp_path: Path, original: Dataset, images: Path, labels: Callable[[Sample], object], classes: str | None = None
) -> None:
    """The data set as a table of the folder of its images, which is not written to: the same samples and records."""
    found = original.load()
    file = written(found.samples, images, tmp_path / "t.csv", labels)
    again = Table(name="table", root=str(images), file=str(file), classes=classes).load()
    assert [(s.image, s.label, s.boxes) for s in again.samples] == [(s.image, s.label, s.boxes) for s in found.samples]
    place = ("dataset=table", f"dataset.root={images}", f"dataset.file={file}", f"dataset.classes={classes or 'null'}")
    few = ("dataset.limit=3", "seed=2")
    before = values(cli, f"dataset={original.name}", f"dataset.root={original.root}", *few, f"results_dir={tmp_path / 'a'}")
    assert values(cli, *place, *few, f"results_dir={tmp_path / 'b'}") == before
    assert len(before) == 3


def test_ilsvrc2012_as_a_table_has_the_same_numbers(cli: Cli, ilsvrc: Path, tmp_path: Path) -> None:
    wordnet = {index: wnid for wnid, (index, _) in imagenet_classes().items()}
    original = Ilsvrc2012(name="ilsvrc2012", root=str(ilsvrc))
    same_cell(cli, tmp_path, original, ilsvrc / "Data/CLS-LOC/val", lambda s: wordnet[s.label or 0])


def test_cub_as_a_table_has_the_same_numbers(cli: Cli, cub: Path, tmp_path: Path) -> None:
    classes = tmp_path / "classes.txt"
    classes.write_text("".join(line.split()[1] + "\n" for line in (cub / "classes.txt").read_text().splitlines()))
    original = Cub(name="cub", root=str(cub))
    same_cell(cli, tmp_path, original, cub / "images", lambda s: s.label, str(classes))


def test_the_demo_as_a_table(cli: Cli, tmp_path: Path) -> None:
    demo = Demo(name="demo").load()
    root = tmp_path / "photos"
    root.mkdir()
    copies = []
    for sample in demo.samples:
        path = root / f"{sample.image}{sample.path.suffix}"
        path.write_bytes(sample.path.read_bytes())
        copies.append(Sample(sample.image, path, sample.label, sample.boxes))
    written(copies, root, root / "t.csv", lambda s: s.label)
    run = ("dataset=table", f"dataset.root={root}", "dataset.limit=2")
    own = values(cli, *run, "dataset.classes=imagenet", "target=label", f"results_dir={tmp_path / 'a'}")
    assert own == values(cli, "dataset=demo", "dataset.limit=2", "target=label", f"results_dir={tmp_path / 'b'}")
    (card,) = (tmp_path / "a").glob("*/*/*/card.yaml")
    identity = yaml.safe_load(card.read_text())["identity"]["dataset"]
    assert identity == {"registered": "Table", "name": "table", "limit": 2, "subset_seed": 0}
    # indices without a list may be those of any network: they are compared, but not explained
    said = only_error(cli(*FAST, *run, "target=label", f"results_dir={tmp_path / 'c'}"))
    assert "so labels are not its classes; use target=predicted" in said
