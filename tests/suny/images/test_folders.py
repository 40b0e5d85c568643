"""What lies in a folder of pictures: read as torchvision reads it, what is left out is said, and nothing is written there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from suny.errors import UserError
from suny.images import view as views
from suny.images.causal_shapes import CausalShapes
from suny.images.dataset import ImageList, imagenet_classes, is_hidden
from suny.images.decode import UnreadableImage, decode
from suny.images.geometry import Box
from suny.images.ilsvrc2012 import Ilsvrc2012
from suny.images.imagefolder import ImageFolder
from suny.images.photographs import Photographs
from suny.images.view import View
from tests.conftest import ROOT, Cli, only_error
from tests.suny.images.test_datasets import jpeg, xml

FAST = ("method=center", "metrics=deletion", "points=3", "model=causal_cnn", "model.world=main")


def folder(root: Path, **keys: object) -> ImageList:
    return ImageFolder(name="imagefolder", root=str(root), **keys).load()  # type: ignore[arg-type]


def labelled(images: ImageList) -> dict[str, int | None]:
    return {str(s.path): s.label for s in images.samples}


def torchvisions(root: Path) -> dict[str, int]:
    return dict(torchvision.datasets.ImageFolder(str(root), allow_empty=True).samples)


# which names count


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "._0.jpg", ".DS_Store", "__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir", ".hidden.png"]
)
def test_names_that_programs_leave_are_hidden(name: str) -> None:
    assert is_hidden(name)
    assert not is_hidden(f"a{name}")


def test_hidden_names_shift_no_label_and_are_counted(tmp_path: Path) -> None:
    for name in ("cat/0.jpg", "dog/0.jpg", "dog/1.jpg"):
        jpeg(tmp_path / name)
    before = folder(tmp_path)
    assert before.notes == ()
    for name in (".ipynb_checkpoints/0-checkpoint.jpg", "__MACOSX/cat/._0.jpg", "@eaDir/0.jpg", "cat/._0.jpg", "dog/.x/1.jpg"):
        jpeg(tmp_path / name)
    (tmp_path / "dog" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / ".DS_Store").write_bytes(b"x")
    after = folder(tmp_path)
    assert (after.samples, after.class_names, after.digest) == (before.samples, before.class_names, before.digest)
    assert after.notes == ("7 hidden names (first: '.DS_Store') left out",)


def test_nested_and_empty_folders_are_those_of_torchvision(tmp_path: Path) -> None:
    """An empty folder comes first, in the middle and last; images lie in the class folder, and one and two levels deeper."""
    for name in ("cat/0.jpg", "cat/morning/1.jpg", "cow/a/b/0.jpg", "dog/0.png", "dog/1.gif"):
        jpeg(tmp_path / name)
    for name in ("ant", "cougar", "zebra"):
        (tmp_path / name).mkdir()
    (tmp_path / "dog" / "notes.txt").write_text("x")
    images = folder(tmp_path)
    theirs = torchvisions(tmp_path)
    assert theirs[str(tmp_path / "cow/a/b/0.jpg")] == 3
    assert {k: v for k, v in labelled(images).items() if not k.endswith(".gif")} == theirs  # which it does not read
    assert images.class_names == dict(enumerate(["ant", "cat", "cougar", "cow", "dog", "zebra"]))
    assert [s.image for s in images.samples] == ["cat/0", "cat/morning/1", "cow/a/b/0", "dog/0", "dog/1"]
    assert images.notes == (
        "3 folders (first: 'ant') without images counts as a class, as in torchvision's ImageFolder",
        "2 images (first: 'cat/morning/1.jpg') in folders inside class folders: they belong to these classes",
        "1 file (first: 'dog/notes.txt') left out: no image by its name",
    )


def test_all_images_one_level_deeper(tmp_path: Path) -> None:
    for name in ("cat/batch1/0.jpg", "cat/batch2/1.jpg", "dog/batch1/0.jpg"):
        jpeg(tmp_path / name)
    assert labelled(folder(tmp_path)) == torchvisions(tmp_path)
    assert folder(tmp_path).class_names == {0: "cat", 1: "dog"}


@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["train/cat/0.jpg", "val/cat/1.jpg"], "train"),
        (["train/cat/0.jpg", "train/preview.jpg", "test/1.jpg"], "train"),
        (["mine/cat/0.jpg"], "mine"),
        (["above/mine/cat/0.jpg"], "above/mine"),
        (["birds/images/a/0.jpg", "net/n01440764/0.jpg"], "net"),  # a folder of data sets, one of which is ImageNet's
    ],
)
def test_the_folder_of_class_folders_is_found_below(tmp_path: Path, files: list[str], taken: str) -> None:
    for name in files:
        jpeg(tmp_path / name)
    (tmp_path / "documents").mkdir()
    images = folder(tmp_path)
    assert [s.path for s in images.samples] == [tmp_path / files[0 if taken != "net" else 1]]
    assert images.notes[0] == f"images are taken from {tmp_path / taken}"


def test_train_and_run_number_classes_the_same(tmp_path: Path) -> None:
    """The empty class and the hidden folder are there for both, and for a network that torchvision's ImageFolder trained."""
    for name in ("cat", "dog", "fox"):
        for i in range(4):
            jpeg(tmp_path / name / f"{i}.jpg")
    (tmp_path / "cow").mkdir()
    jpeg(tmp_path / ".ipynb_checkpoints" / "0.jpg")
    parts = [folder(tmp_path, split=s) for s in ("all", "train", "test")]
    assert [p.class_names for p in parts] == [{0: "cat", 1: "cow", 2: "dog", 3: "fox"}] * 3
    every = labelled(parts[0])
    assert labelled(parts[1]) | labelled(parts[2]) == every
    (tmp_path / ".ipynb_checkpoints" / "0.jpg").unlink()
    (tmp_path / ".ipynb_checkpoints").rmdir()
    assert torchvisions(tmp_path) == every


def test_given_parts_are_numbered_by_the_folders_of_both(tmp_path: Path) -> None:
    for name in ("train/cat/a/0.jpg", "train/dog/0.jpg", "val/dog/1.jpg"):
        jpeg(tmp_path / name)
    (tmp_path / "val" / "ant").mkdir()
    learnt, tested = (folder(tmp_path, split=s) for s in ("train", "test"))
    assert [s.label for s in learnt.samples] == [1, 2]
    assert [s.label for s in tested.samples] == [2]
    assert "1 folder (first: 'ant') without images counts as a class" in tested.notes[1]


def test_a_folder_without_images_is_no_class_of_imagenet(tmp_path: Path) -> None:
    jpeg(tmp_path / "n01443537" / "images" / "0.jpg")
    jpeg(tmp_path / "n01440764" / "0.jpg")
    (tmp_path / "Annotations").mkdir()
    images = folder(tmp_path)
    assert images.label_space == "imagenet"
    assert {s.image: s.label for s in images.samples} == {"n01443537/images/0": 1, "n01440764/0": 0}
    assert images.notes[0] == "1 folder (first: 'Annotations') without images is left out"


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    jpeg(tmp_path / "data/cat/0.jpg")
    (tmp_path / "data/cat/again").symlink_to(tmp_path / "data/cat")
    (tmp_path / "data/dog").symlink_to(tmp_path / "elsewhere")
    jpeg(tmp_path / "elsewhere/deep/0.jpg")
    assert [s.image for s in folder(tmp_path / "data").samples] == ["cat/0", "dog/deep/0"]


def test_a_flat_folder_of_photographs_has_no_labels(tmp_path: Path, cli: Cli) -> None:
    for name in ("b.jpg", "a.png", "._a.png"):
        jpeg(tmp_path / "photos" / name)
    (tmp_path / "photos" / "c.heic").write_bytes(b"x")
    images = folder(tmp_path / "photos")
    assert [(s.image, s.label) for s in images.samples] == [("a", None), ("b", None)]
    assert images.notes == (
        "no class folders: the photographs have no labels",
        "1 hidden name (first: '._a.png') left out",
        "1 file (first: 'c.heic') left out: no image by its name",
    )
    arguments = (*FAST, "dataset=imagefolder", f"dataset.root={tmp_path / 'photos'}", f"results_dir={tmp_path / 'r'}")
    ended = cli(*arguments)
    assert ended.code == 0, ended.err
    assert "note: 1 file (first: 'c.heic') left out: no image by its name" in ended.err
    assert "classes" not in ended.err.replace("class folders", "")  # nothing about labels that are not compared
    assert "have no labels; use target=predicted" in only_error(cli(*arguments, "target=label"))


def test_photographs_outside_class_folders_are_said(tmp_path: Path) -> None:
    for name in ("cat/0.jpg", "cover.jpg"):
        jpeg(tmp_path / name)
    images = folder(tmp_path)
    assert [s.image for s in images.samples] == ["cat/0"]
    assert images.notes == ("1 image (first: 'cover.jpg') outside class folders left out",)


def test_a_folder_without_any_image(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(UserError, match=r"looked for <class folder>/<image>\.jpg, or <image>\.jpg without class folders"):
        folder(tmp_path)


# ILSVRC2012, sorted


def sorted_ilsvrc(root: Path, annotations: str) -> Path:
    for i, wnid in enumerate(("n01443537", "n01440764"), 1):
        jpeg(root / "val" / wnid / f"ILSVRC2012_val_{i:08d}.JPEG")
        name = f"ILSVRC2012_val_{i:08d}.xml"
        xml(root / annotations.format(wnid=wnid) / name, [(i, 2, 19, 29)], name=wnid)
    return root


@pytest.mark.parametrize("annotations", ["Annotations/CLS-LOC/val", "val/{wnid}", "bbox", "Annotations/{wnid}"])
def test_sorted_validation_images_are_read_with_their_boxes(tmp_path: Path, annotations: str) -> None:
    sorted_ilsvrc(tmp_path, annotations)
    jpeg(tmp_path / "val" / ".ipynb_checkpoints" / "ILSVRC2012_val_00000009.JPEG")
    jpeg(tmp_path / "val/n01440764/._ILSVRC2012_val_00000002.JPEG")
    images = Ilsvrc2012(name="ilsvrc2012", root=str(tmp_path)).load()
    assert [(s.image, s.label, s.boxes) for s in images.samples] == [
        ("ILSVRC2012_val_00000001", 1, (Box(1, 2, 20, 30),)),
        ("ILSVRC2012_val_00000002", 0, (Box(2, 2, 20, 30),)),
    ]
    assert images.notes[-1] == "2 hidden names (first: .ipynb_checkpoints) left out"


def test_sorting_changes_nothing_else(tmp_path: Path) -> None:
    digests = []
    for name in ("sorted", "flat"):
        root = sorted_ilsvrc(tmp_path / name, "Annotations/CLS-LOC/val")
        if name == "flat":
            for path in list((root / "val").glob("*/*.JPEG")):
                path.rename(root / "val" / path.name)
        digests.append(Ilsvrc2012(name="ilsvrc2012", root=str(root)).load().digest)
    assert digests[0] == digests[1]


def test_sorted_images_alone_have_the_labels_of_their_folders(tmp_path: Path) -> None:
    root = sorted_ilsvrc(tmp_path, "Annotations")
    shutil.rmtree(root / "Annotations")
    images = Ilsvrc2012(name="ilsvrc2012", root=str(root)).load()
    assert [s.label for s in images.samples] == [1, 0]
    assert not images.has_boxes


def test_a_class_folder_that_the_annotation_contradicts(tmp_path: Path) -> None:
    root = sorted_ilsvrc(tmp_path, "Annotations")
    xml(root / "Annotations" / "ILSVRC2012_val_00000001.xml", [(1, 2, 19, 29)], name="n01440764")
    with pytest.raises(UserError, match=r"00000001 lies in class folder n01443537, but .*00000001\.xml says n01440764"):
        Ilsvrc2012(name="ilsvrc2012", root=str(root)).load()
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\nILSVRC2012_val_00000002,n01443537 1 2 3 4\n")
    with pytest.raises(UserError, match="00000002 lies in class folder n01440764, but the list says class index 1"):
        Ilsvrc2012(name="ilsvrc2012", root=str(root)).load()


def test_an_image_in_two_class_folders(tmp_path: Path) -> None:
    root = sorted_ilsvrc(tmp_path, "Annotations")
    shutil.copy(root / "val/n01443537/ILSVRC2012_val_00000001.JPEG", root / "val/n01440764")
    with pytest.raises(UserError, match="image ILSVRC2012_val_00000001 is there twice"):
        Ilsvrc2012(name="ilsvrc2012", root=str(root)).load()


def test_other_images_in_class_folders_are_sent_to_imagefolder(tmp_path: Path) -> None:
    jpeg(tmp_path / "n01440764" / "n01440764_1.JPEG")
    with pytest.raises(UserError, match="other images in class folders are read by dataset=imagefolder"):
        Ilsvrc2012(name="ilsvrc2012", root=str(tmp_path)).load()


def test_hidden_names_among_photographs(ilsvrc: Path, imagenet_sample: Path, tmp_path: Path) -> None:
    shutil.copytree(imagenet_sample, tmp_path / "sample")
    before = Photographs(name="photographs", root=str(ilsvrc), folder=str(tmp_path / "sample"), part="all").load()
    one = next((tmp_path / "sample").glob("*/*.JPEG"))
    shutil.copy(one, one.with_name(f"._{one.name}"))
    shutil.copytree(one.parent, tmp_path / "sample" / ".ipynb_checkpoints")
    after = Photographs(name="photographs", root=str(ilsvrc), folder=str(tmp_path / "sample"), part="all").load()
    assert after.samples == before.samples
    assert "2 hidden names (first: '.ipynb_checkpoints') left out" in after.notes


# pixels that a photograph does not usually have


def test_the_first_frame_of_an_animation(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (12, 8), c) for c in ("red", "blue", "lime")]
    for suffix, options in (("gif", {}), ("webp", {"lossless": True}), ("png", {}), ("tiff", {})):
        path = tmp_path / f"a.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert (np.asarray(decode(path).image) == (255, 0, 0)).all()


def test_floating_point_pixels_from_0_to_1(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 0.5], [0.2, 1]], np.float32)).save(tmp_path / "a.tif")
    assert np.asarray(decode(tmp_path / "a.tif").image)[..., 1].tolist() == [[0, 128], [51, 255]]


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        (np.array([[0, 255.0]], np.float32), "pixels are numbers from 0 to 255, not 0 to 1"),
        (np.array([[-0.1, 1]], np.float32), "pixels are numbers from -0.1 to 1"),
        (np.array([[0, np.nan]], np.float32), "pixels are numbers from nan to nan"),
        (np.array([[0, 200]], np.int32), "pixels are 32-bit integers, whose range the file does not say"),
    ],
)
def test_pixels_without_a_known_range_are_one_line(tmp_path: Path, pixels: np.ndarray, said: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(UnreadableImage, match=said) as error:
        decode(tmp_path / "a.tif")
    assert "\n" not in str(error.value)


def test_sixteen_bits_in_every_format(tmp_path: Path) -> None:
    deep = np.array([[0, 257 * 100], [257 * 200, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.tif")
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535\n" + deep.astype(">u2").tobytes())
    for name in ("a.tif", "a.pgm"):
        assert np.asarray(decode(tmp_path / name).image)[..., 0].tolist() == [[0, 100], [200, 255]]


@pytest.mark.filterwarnings("error")
def test_transparency_is_dropped_and_colours_stay(tmp_path: Path) -> None:
    rows = np.array([[[255, 0, 0, 0], [0, 255, 0, 128], [0, 0, 255, 255]]], np.uint8)
    colours = rows[..., :3].tolist()
    Image.fromarray(rows).save(tmp_path / "rgba.png")
    palette = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode="P")
    palette.putpalette(rows[0, :, :3].tobytes())
    palette.save(tmp_path / "bytes.png", transparency=bytes([0, 128, 255]))
    palette.save(tmp_path / "index.png", transparency=1)
    for name in ("rgba", "bytes", "index"):
        assert np.asarray(decode(tmp_path / f"{name}.png").image).tolist() == colours
    grey = np.array([[[7, 0], [200, 255]]], np.uint8)
    Image.fromarray(grey, mode="LA").save(tmp_path / "la.png")
    assert np.asarray(decode(tmp_path / "la.png").image).tolist() == [[[7] * 3, [200] * 3]]


def test_one_bit_pixels_are_black_and_white(tmp_path: Path) -> None:
    bits = np.array([[True, False, True]])
    for name in ("a.png", "a.tif", "a.bmp"):
        Image.fromarray(bits).save(tmp_path / name)
        assert np.asarray(decode(tmp_path / name).image)[..., 2].tolist() == [[255, 0, 255]]


# strips


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(30, 2000), (2000, 30), (300, 5000), (1, 700)])
def test_of_a_strip_only_what_the_view_shows_is_resized(
    monkeypatch: pytest.MonkeyPatch, interpolation: str, size: tuple[int, int]
) -> None:
    """The same pixels as those of the whole image resized, up to rounding between Pillow's two passes."""
    x, y = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    waves = [127 + 100 * np.sin(x / 17 + c) * np.cos(y / 23) for c in range(3)]
    image = Image.fromarray(np.stack(waves, -1).round().astype(np.uint8))
    view = View(256, 224, interpolation, (0.0,) * 3, (1.0,) * 3)
    whole = np.asarray(view.visible(image), int)
    monkeypatch.setattr(views, "_MOST_RESIZED", 0)
    part = np.asarray(view.visible(image), int)
    assert whole.shape == part.shape == (224, 224, 3)
    assert np.abs(whole - part).max() <= 2


def test_a_strip_takes_little_memory(tmp_path: Path) -> None:
    """1 x 20,000 pixels would be 256 x 5,120,000 after resizing: 5 GB."""
    rows = np.arange(20_000, dtype=np.uint16)[:, None, None] // 79
    Image.fromarray(np.repeat(rows, 3, 2).astype(np.uint8)).save(tmp_path / "strip.png")
    program = (
        "import resource, suny, numpy\n"
        "from suny.images.decode import decode\n"
        "from suny.images.view import View\n"
        "resource.setrlimit(resource.RLIMIT_AS, (4 * 2**30,) * 2)\n"
        "view = View(256, 224, 'bicubic', (0.0,) * 3, (1.0,) * 3)\n"
        f"seen = numpy.asarray(view.visible(decode({str(tmp_path / 'strip.png')!r}).image))\n"
        "print(seen.min(), seen.max(), seen.shape)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.split("\n")[0] == "126 126 (224, 224, 3)", done.stderr  # the middle: 10,000 // 79


# nothing is written into a folder of data


def test_generated_images_go_into_no_folder_of_data(tmp_path: Path, cli: Cli) -> None:
    jpeg(tmp_path / "data/cat/0.jpg")
    before = sorted(tmp_path.rglob("*"))
    arguments = (
        "dataset=causal_shapes",
        "dataset.count=2",
        "method=center",
        "metrics=deletion",
        f"results_dir={tmp_path / 'r'}",
    )
    said = only_error(cli(*arguments, f"dataset.root={tmp_path / 'data'}"))
    assert "data holds other files (first: cat): dataset 'causal_shapes' makes its images, and reads none of yours" in said
    assert sorted(tmp_path.rglob("*")) == before
    jpeg(tmp_path / "data/0.jpg")
    shutil.rmtree(tmp_path / "data/cat")
    with pytest.raises(UserError, match=r"holds other files \(first: 0\.jpg\)"):
        CausalShapes(name="causal_shapes", root=str(tmp_path / "data"), count=2).load()


def test_generated_images_go_where_the_generator_wrote_before(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / ".DS_Store").write_bytes(b"x")

    def made(seed: int) -> int:
        data = CausalShapes(name="causal_shapes", root=str(tmp_path / "own"), count=2, generator_seed=seed)
        return len(data.load().samples)

    assert [made(0), made(1)] == [2, 2]
    (tmp_path / "own" / "notes.txt").write_text("x")
    assert made(1) == 2  # it is there: read, not made
    with pytest.raises(UserError, match=r"holds other files \(first: notes\.txt\)"):
        made(2)


def test_class_names_of_imagenet_are_no_hidden_names() -> None:
    assert not any(is_hidden(name) for name in imagenet_classes())
    assert not any(is_hidden(os.fsdecode(name)) for name in (b"caf\xe9.jpg", b"a.DS_Store"))


def test_links_in_circles_and_links_to_nowhere(tmp_path: Path) -> None:
    """A link to the folder itself makes images of one class no images of another, and a lost class folder is said."""
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "data" / name / "a.png")
    (tmp_path / "data" / "cat" / "up").symlink_to(tmp_path / "data")
    (tmp_path / "data" / "eel").symlink_to(tmp_path / "nowhere")
    found = ImageFolder(name="imagefolder", root=str(tmp_path / "data")).load()
    assert [(s.image, s.label) for s in found.samples] == [("cat/a", 0), ("dog/a", 1)]
    assert found.notes == ("1 link (first: 'eel') left out: nothing lies where it leads",)
    (tmp_path / "data" / "self").symlink_to(tmp_path / "data")
    again = ImageFolder(name="imagefolder", root=str(tmp_path / "data")).load()
    assert [(s.image, s.label) for s in again.samples] == [("cat/a", 0), ("dog/a", 1)]
    assert "1 folder (first: 'self') without images counts as a class" in again.notes[0]
