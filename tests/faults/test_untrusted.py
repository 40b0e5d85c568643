"""Files that others have written: none runs code, reads or writes elsewhere, or exhausts the machine.

What is tested elsewhere: checkpoints that hold more than tensors (test_network), texts of a data set in the report
(test_report), damaged lists (test_datasets), files that are no images (test_decode).
"""

from __future__ import annotations

import json
import os
import pickle
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from experiments.command.configuration import make_target
from experiments.command.program import guarded
from experiments.report.page import page as page_of
from experiments.store.reading import read_result, read_results
from experiments.store.records import read_records
from metrics.base import Metric
from suny.classifiers.checkpoint import read_state
from suny.errors import UserError
from suny.explanation import MissingMap
from suny.images import decode as decoding
from suny.images.cub import Cub
from suny.images.dataset import refuse_id
from suny.images.decode import UnreadableImage, decode, stored_size
from suny.images.ilsvrc2012 import Ilsvrc2012, read_xml
from suny.images.imagefolder import ImageFolder
from tests.cells import change_record, write_cell
from tests.conftest import Cli, only_error
from tests.fuzz import PARSERS, fuzz
from tests.fuzz import main as fuzz_command

FAST = ("method=center", "metrics=deletion", "metrics.deletion.points=3", "model=causal_cnn", "model.world=main")

ESCAPES = [
    "../a",
    "../../a",
    "a/../../b",
    "/etc/passwd",
    "..",
    ".",
    "",
    "a//b",
    "a/./b",
    "a/",
    "a\nb",
    "a\x00b",
    "\x1b[31mred",
    "a\rb",
    "a" * 256,
    "b/" + "é" * 128,
    "a/" * 600 + "a",
]
HARMLESS = [
    "a",
    "a/b",
    "..a",
    "a..b/...",
    "a b",
    "<script>alert(1)</script>",
    "'\"",
    "caf\udce9",
    "$x^$",
    "\\",
    "é" * 100,
    "C:a",
]


# names


@pytest.mark.parametrize("image", ESCAPES)
def test_ids_that_lead_elsewhere_are_refused(image: str) -> None:
    with pytest.raises(UserError, match="cannot be an image's name") as error:
        refuse_id(image, "here")
    assert str(error.value).isprintable()


@pytest.mark.parametrize("image", HARMLESS)
def test_odd_ids_are_none_of_these(tmp_path: Path, image: str) -> None:
    refuse_id(image, "here")
    assert (tmp_path / image).resolve().is_relative_to(tmp_path.resolve())


def bird_lists(root: Path, file: str) -> Path:
    for name, line in {
        "images": f"1 {file}", "image_class_labels": "1 1", "train_test_split": "1 0", "bounding_boxes": "1 0 0 9 9",
        "classes": "1 a",
    }.items():  # fmt: skip
        (root / f"{name}.txt").write_text(f"{line}\n")
    (root / "images").mkdir()
    return root


@pytest.mark.parametrize("file", ["../secret.png", "/SECRET", "001.A/../../secret.png", "001.A/\x1b[2J.png"])
def test_a_list_of_birds_reads_nothing_outside_its_folder(tmp_path: Path, file: str) -> None:
    (tmp_path / "birds").mkdir()
    Image.new("RGB", (20, 20)).save(tmp_path / "secret.png")
    birds = bird_lists(tmp_path / "birds", file.replace("/SECRET", str(tmp_path / "secret.png")))
    for strict in (True, False):
        with pytest.raises(UserError, match="cannot be an image's name"):
            Cub(name="cub", root=str(birds), strict=strict).load()


@pytest.mark.parametrize("image", ["../../../../secret", "ILSVRC2012_val_00000001/../../x", "/tmp/x"])
def test_a_list_of_ilsvrc2012_reads_nothing_outside_its_folder(tmp_path: Path, image: str) -> None:
    folder = tmp_path / "Data/CLS-LOC/val"
    folder.mkdir(parents=True)
    for path in (folder / "ILSVRC2012_val_00000001.JPEG", tmp_path.parent / "secret.JPEG"):
        Image.new("RGB", (20, 20)).save(path)
    (tmp_path / "LOC_val_solution.csv").write_text(f"ImageId,PredictionString\n{image},n01440764 1 2 3 4\n")
    with pytest.raises(UserError, match="cannot be an image's name"):
        Ilsvrc2012(name="ilsvrc2012", root=str(tmp_path)).load()
    # Caffe's list
    (tmp_path / "LOC_val_solution.csv").unlink()
    (tmp_path / "val.txt").write_text(f"{image}.JPEG 3\n")
    found = Ilsvrc2012(name="ilsvrc2012", root=str(tmp_path), strict=False).load()
    assert all(s.path.parent == folder for s in found.samples)


def named(root: Path, *names: str) -> Path:
    for name in names:
        path = root / "a class" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 70), "red").save(root / "a.png")
        (root / "a.png").rename(path)
    return root


def test_file_names_with_control_characters_are_refused(cli: Cli, tmp_path: Path) -> None:
    named(tmp_path / "photos", "fine", "two\nlines")
    arguments = (*FAST, "dataset=imagefolder", f"dataset.root={tmp_path / 'photos'}", f"results_dir={tmp_path / 'r'}")
    said = only_error(cli(*arguments))
    assert "'a class/two\\nlines' cannot be an image's name" in said


def test_everything_that_is_written_lies_in_the_cells_folder(cli: Cli, tmp_path: Path) -> None:
    """Of images whose names are markup, formulas, no text, and as long as a file system allows."""
    names = ["<img src=x onerror=alert(1)>", "'\" $\\frac{x$ %s {0}", "a..hidden", os.fsdecode(b"caf\xe9"), "x" * 251]
    named(tmp_path / "photos", *names)
    arguments = (*FAST, "dataset=imagefolder", f"dataset.root={tmp_path / 'photos'}", f"results_dir={tmp_path / 'r'}")
    before = {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "r")}
    ended = cli(*arguments, "maps=true", "pictures=9")
    # the last name has no room for the temporary file's: one line, and without files of its own the image is done
    if ended.code != 0:
        assert "File name too long" in only_error(ended)
        ended = cli(*arguments)
    assert ended.code == 0, ended.err
    assert {p for p in tmp_path.rglob("*") if not p.is_relative_to(tmp_path / "r")} == before
    (card,) = (tmp_path / "r").glob("imagefolder/*/*/card.yaml")
    assert {r["image"] for r in read_records(card.parent)} == {f"a class/{name}" for name in names}
    for kind, suffix in (("maps", "npz"), ("pictures", "png")):
        assert (card.parent / kind / "a class" / f"a..hidden.{suffix}").is_file()
        assert (card.parent / kind / "a class" / f"<img src=x onerror=alert(1)>.{suffix}").is_file()
    page = page_of(read_results(tmp_path / "r"))
    assert "<img src=x" not in page


def test_a_list_may_name_an_image_that_begins_with_dots(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    birds = bird_lists(tmp_path / "data", "001.A/..hidden.png")
    (birds / "images" / "001.A").mkdir()
    Image.new("RGB", (70, 70), "red").save(birds / "images" / "001.A" / "..hidden.png")
    ended = cli(*FAST, "dataset=cub", f"dataset.root={birds}", f"results_dir={tmp_path / 'r'}", "maps=true", "pictures=9")
    assert ended.code == 0, ended.err
    (card,) = (tmp_path / "r").glob("cub/*/*/card.yaml")
    for kind, suffix in (("maps", "npz"), ("pictures", "png")):
        assert (card.parent / kind / "001.A" / f"..hidden.{suffix}").is_file()


def test_links_are_followed_and_named_by_themselves(tmp_path: Path) -> None:
    """A data set is often a folder of links; what they lead to does not name anything."""
    named(tmp_path / "elsewhere", "original")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    (tmp_path / "photos" / "cat" / "link.png").symlink_to(tmp_path / "elsewhere" / "a class" / "original.png")
    (sample,) = ImageFolder(name="imagefolder", root=str(tmp_path / "photos")).load().samples
    assert sample.image == "cat/link"
    assert decode(sample.path).image.size == (70, 70)


# XML

LAUGHS = """<?xml version="1.0"?><!DOCTYPE a [<!ENTITY l0 "ha">{}]>
<annotation><object><name>&l25;</name></object></annotation>"""


@pytest.mark.parametrize(
    "content",
    [
        LAUGHS.format("".join(f'<!ENTITY l{i} "&l{i - 1};&l{i - 1};">' for i in range(1, 26))),
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation><object><name>&x;</name></object></annotation>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd"><annotation/>',
        '<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd">%x;]><annotation/>',
        '<?xml version="1.0" encoding="no-such"?><annotation/>',
        "<a>" * 100_000,
        "<annotation><size><width>" + "9" * 5000 + "</width></size></annotation>",
    ],
)
def test_annotations_expand_nothing_and_read_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.xml").write_text(content)
    with pytest.raises(UserError, match=r"a\.xml is not a PASCAL VOC annotation") as error:
        read_xml(tmp_path / "a.xml")
    assert "root:" not in str(error.value)
    assert len(str(error.value)) < 500


# images


def png(path: Path, width: int, height: int, *chunks: tuple[bytes, bytes]) -> Path:
    """A PNG of black pixels, of which the first few rows are there."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    squeezer = zlib.compressobj(9)
    rows = squeezer.compress(bytes(min((width // 8 + 2) * height, 100_000))) + squeezer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    inner = b"".join(chunk(*c) for c in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + inner + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


@pytest.mark.parametrize(("width", "height"), [(12_000, 12_000), (2**31 - 1, 2**31 - 1), (1, 2**28)])
def test_bombs_are_refused_by_their_header(tmp_path: Path, width: int, height: int) -> None:
    """The first is one of which Pillow only warns."""
    for read in (stored_size, decode):
        with pytest.raises(UnreadableImage, match=r"a\.png"):
            read(png(tmp_path / "a.png", width, height))


def test_the_largest_image_is_the_documented_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "MOST_PIXELS", 64)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").image.size == (8, 8)
    Image.new("RGB", (8, 9)).save(tmp_path / "a.png")
    with pytest.raises(UnreadableImage, match="8 x 9 pixels; at most 64 are decoded"):
        decode(tmp_path / "a.png")


def test_a_bomb_is_counted_and_the_run_goes_on(cli: Cli, tmp_path: Path) -> None:
    root = named(tmp_path / "photos", "fine")
    png(root / "a class" / "bomb.png", 12_000, 12_000)
    ended = cli(*FAST, "dataset=imagefolder", f"dataset.root={root}", f"results_dir={tmp_path / 'r'}")
    assert ended.code == 0
    assert "1 unreadable" in ended.out
    assert "Warning" not in ended.err


def test_texts_in_a_png_are_not_unpacked_without_limit(tmp_path: Path) -> None:
    bomb = b"x\x00\x00" + zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(UnreadableImage, match="too large"):
        decode(png(tmp_path / "a.png", 8, 8, (b"zTXt", bomb)))


def test_what_is_called_an_image_and_is_none_starts_no_other_program(tmp_path: Path) -> None:
    """Pillow would give PostScript to Ghostscript."""
    (tmp_path / "a.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n")
    with pytest.raises(UnreadableImage):
        decode(tmp_path / "a.jpg")


SHORT, ASCII, FRACTION = 3, 2, 5


@pytest.mark.parametrize(
    ("kind", "count", "value"),
    [
        (SHORT, 1, b"\0\0"),
        (SHORT, 1, b"\x09\0"),
        (SHORT, 1, b"\xff\xff"),
        (SHORT, 0, b""),
        (ASCII, 4, b"six\0"),
        (FRACTION, 1, b""),
    ],
)
def test_nonsense_of_exif_is_no_orientation(tmp_path: Path, kind: int, count: int, value: bytes) -> None:
    entry = struct.pack("<HHI", 0x0112, kind, count) + value.ljust(4, b"\0")
    made = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=made)
    assert decode(tmp_path / "a.jpg").orientation == 1
    assert decode(tmp_path / "a.jpg").image.size == (8, 4)


def test_damaged_exif_does_not_lose_the_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for size in (0, 1, 8, 200):
        Image.new("RGB", (8, 4), "red").save(tmp_path / "a.jpg", exif=b"Exif\x00\x00" + rng.bytes(size))
        assert decode(tmp_path / "a.jpg").image.size == (8, 4)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_all_eight_orientations_are_those_of_pillow(tmp_path: Path, orientation: int) -> None:
    from PIL import ImageOps

    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = ImageOps.exif_transpose(Image.open(tmp_path / "a.png")).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(tmp_path / "a.png").image), np.asarray(expected))


# code


class Harmful:
    def __reduce__(self) -> Any:
        return os.mkdir, (os.environ["SUNY_TEST_PROOF"],)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("legacy", [True, False])
def test_a_checkpoint_runs_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, legacy: bool) -> None:
    """Whatever its format is, and whatever it is called."""
    proof = tmp_path / "proof"
    monkeypatch.setenv("SUNY_TEST_PROOF", str(proof))
    file = tmp_path / f"own{suffix}"
    torch.save({"weight": torch.zeros(2), "more": Harmful()}, file, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UserError, match=r"model\.checkpoint="):
        read_state(str(file), torch.nn.Linear(1, 1))
    assert not proof.exists()
    pickle.loads(pickle.dumps(Harmful()))  # so much for what it would have done
    assert proof.exists()


def test_maps_run_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from baselines.precomputed import Precomputed

    monkeypatch.setenv("SUNY_TEST_PROOF", str(tmp_path / "proof"))
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps" / "a.npy", np.array([Harmful()], dtype=object), allow_pickle=True)
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (99999999, 99999999)}"
    (tmp_path / "maps" / "b.npy").write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n")
    np.save(tmp_path / "c.npy", np.ones((4, 4)))
    stored = Precomputed(maps=str(tmp_path / "maps"))
    for image in "ab":
        with pytest.raises(MissingMap):
            stored.load(image, torch.zeros(3, 4, 4))
    with pytest.raises(UserError, match="cannot be an image's name"):
        stored.load("../c", torch.zeros(3, 4, 4))
    assert not (tmp_path / "proof").exists()


def test_a_configuration_calls_configured_classes_only(tmp_path: Path) -> None:
    """A card, which somebody else may have written, names classes."""
    for target, keys in (
        ("os.mkdir", {"path": str(tmp_path / "x")}),
        ("pathlib.Path", {}),
        ("subprocess.Popen", {"args": "true"}),
    ):
        with pytest.raises(UserError, match="is no configured class"):
            make_target({"_target_": target, **keys}, "metrics.x", Metric)
    assert not (tmp_path / "x").exists()


# results of others


def test_a_card_names_no_files_elsewhere(tmp_path: Path) -> None:
    cell = write_cell(tmp_path, "gradcam", {"deletion": [0.1, 0.2]})
    card = yaml.safe_load((cell / "card.yaml").read_text())
    for group in ("dataset", "model", "method"):
        for name in ("../../x", "<script>", "", None, 3):
            changed = json.loads(json.dumps(card))
            changed["identity"][group]["name"] = name
            (cell / "card.yaml").write_text(yaml.safe_dump(changed))
            with pytest.raises(UserError, match=r"card\.yaml is damaged \(names: "):
                read_result(cell)


def test_the_report_of_a_hostile_cell_has_no_markup_of_it(tmp_path: Path) -> None:
    """Wherever a card and records have texts."""
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u2028{{data}}{{js}}"
    cell = write_cell(tmp_path, "gradcam", {"deletion": [0.1, 0.2]}, names=[hostile.replace("/", "|"), "b"])
    change_record(cell, 0, diagnostics={"flags": [hostile]}, note=hostile)
    card = yaml.safe_load((cell / "card.yaml").read_text())
    card |= {"versions": {"torch": hostile}, "git": {"revision": hostile}, "machine": {"device": hostile}}
    card["identity"] |= {"explained_class": hostile, "target_layer": hostile}
    card["configuration"]["method"]["colour"] = hostile
    (cell / "card.yaml").write_text(yaml.safe_dump(card))
    page = page_of(read_results(tmp_path))
    assert "alert(1)" in page
    assert "<img src=x" not in page
    assert page.count("<script") == page.count("</script>") == 5  # data, two images, the two programs
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert data is not None
    assert hostile in json.dumps(json.loads(data[1]), ensure_ascii=False).replace('\\"', '"')


# fuzzing


@pytest.mark.parametrize("parser", PARSERS)
def test_fuzzed(parser: str) -> None:
    """Hundreds of inputs here, for minutes with ``make fuzz``."""
    assert fuzz(parser, 250, start=7) >= 100


def test_fuzzing_finds_what_it_is_to_find(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that raises anything else is found out."""
    monkeypatch.setattr("tests.fuzz.read_xml", lambda path: (None, [int(path.read_bytes()[-3:], 36)]))
    with pytest.raises(Exception, match=r"invalid literal|has no attribute|not iterable|unpack"):
        fuzz("xml", 50, start=0, shrink=False)


def test_the_command_says_how_many_inputs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.fuzz", lambda name, examples, start: 17)
    monkeypatch.setattr("tests.fuzz.time.monotonic", iter([0.0, 0.0, 59.0, 61.0, 66.0]).__next__)
    assert guarded(lambda: fuzz_command(["minutes=1", "parser=xml", "seed=3"])) == 0
    assert capsys.readouterr().out == "xml: 34 inputs in 1.1 minutes, seeds 3..4\n"
    assert guarded(lambda: fuzz_command(["parser=yaml"])) == 2
