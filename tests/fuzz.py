"""Fuzzes what reads files that others have written: ``python -m tests.fuzz [minutes=3] [parser=xml,cub] [seed=0]``.

Inputs are valid files with some mutations, and random bytes (hypothesis). Each either gives values that keep the parser's
contract, or a UserError of one line; anything else is a defect, which hypothesis reduces to a small example.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any
from unittest import mock

import numpy as np
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import Field

import suny  # noqa: F401 - before anything imports torchvision
from experiments.command.options import Names, Positive, parse
from experiments.command.program import EXIT_OK, guarded
from experiments.store.reading import entry_of, failures_of
from experiments.store.records import CELL, CellFolder, digest_of, read_records
from metrics.deletion_insertion import Deletion
from suny.configured import configured
from suny.errors import UserError
from suny.images import decode as decoding
from suny.images.coco import Coco
from suny.images.cub import Cub
from suny.images.dataset import ImageList, refuse_id
from suny.images.decode import UnreadableImage, decode, stored_size
from suny.images.ilsvrc2012 import read_xml
from suny.images.masks import mask_of
from suny.images.table import Table

Bytes = st.SearchStrategy[bytes]

# what parsers may stumble over, put where it does not belong
_NUMBERS = (b"-", b"+", b"0", b"-1", b"1e999", b"nan", b"inf", b"-inf", b"9" * 5000)
_TEXT = (b"", b"\x00", b"\n", b"\r", b"\t", b" ", b"\xff\xfe", b"\xef\xbb\xbf", "é\u2028\u202e".encode(), b"\xed\xa0\x80")
_PATHS = (b"..", b"../../x", b"/etc/passwd", b"/", b".")
_MARKUP = (b"<", b">", b"&", b"&lol;", b"]]>", b"<!DOCTYPE a [<!ENTITY lol 'x'>]>", b"<!--", b"<a>" * 2000, b"encoding='x'")
_MARKUP += (b"<?xml version='1.0' encoding='utf-7'?>", b"<?xml version='1.0' encoding='x'?>")
_JSON = (b"{", b"}", b"[" * 20000, b"]", b'"', b"\\", b"\\ud800", b"null", b"true", b"NaN", b"Infinity", b":", b",", b'"image"')
_TOKENS = (*_NUMBERS, *_TEXT, *_PATHS, *_MARKUP, *_JSON)


@st.composite
def mutated(draw: st.DrawFn, valid: Sequence[bytes]) -> bytes:
    """A valid file with up to five changes."""
    content = bytearray(draw(st.sampled_from(valid)))
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from((0, 1, 2, 7, 40, 400)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            del content[at : at + length]
        elif kind == 1:
            content[at:at] = draw(st.sampled_from(_TOKENS))
        elif kind == 2:
            content[at : at + length] = draw(st.sampled_from(_TOKENS))
        elif kind == 3 and at < len(content):
            content[at] ^= 1 << draw(st.integers(0, 7))
        else:
            content[at:at] = content[max(0, at - length) : at] * draw(st.integers(1, 3))
    return bytes(content)


def files(*valid: bytes) -> Bytes:
    return st.one_of(mutated(valid), mutated(valid), mutated(valid), st.binary(max_size=300))


def refused(error: UserError) -> None:
    """A mistake is told in one line."""
    assert str(error).strip()
    assert len(str(error).splitlines()) == 1, str(error)


class Xml:
    """Annotations of ILSVRC2012: a size or none, and boxes with the names of their classes."""

    _OBJECT = (
        b"<object><name>n01440764</name><pose>Unspecified</pose><bndbox><xmin>5</xmin><ymin>6</ymin><xmax>19</xmax>"
        b"<ymax>29</ymax></bndbox></object>"
    )
    _HEAD = b"<annotation><folder>val</folder><size><width>50</width><height>40</height><depth>3</depth></size>"

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.xml"
        self.inputs = files(
            self._HEAD + self._OBJECT * 2 + b"</annotation>",
            b"<?xml version='1.0' encoding='UTF-8'?>\n" + self._HEAD + b"</annotation>",
        )

    def check(self, content: Any) -> None:
        self.path.write_bytes(content)
        size, objects = read_xml(self.path)
        assert size is None or (len(size) == 2 and min(size) > 0)
        for name, box in objects:
            assert isinstance(name, str)
            assert all(isinstance(edge, float) for edge in vars(box).values())


_BIRDS = {
    "images.txt": b"1 001.A_Auk/a_1.png\n2 001.A_Auk/a_2.png\n3 002.B_Bird/b.png\n",
    "image_class_labels.txt": b"1 1\n2 1\n3 2\n",
    "train_test_split.txt": b"1 0\n2 1\n3 0\n",
    "bounding_boxes.txt": b"1 2.0 3.0 20.0 10.0\n2 0.0 0.0 30.0 20.0\n3 1.0 1.0 5.0 5.0\n",
    "classes.txt": b"1 001.A_Auk\n2 002.B_Bird\n3 003.C_Crow\n",
    "parts/parts.txt": b"1 beak\n2 tail\n",
    "parts/part_locs.txt": b"1 1 4.0 5.0 1\n1 2 0.0 0.0 0\n3 1 3.5 2.5 1\n",
}


class CubLists:
    """The lists of CUB-200-2011: files below the folder, classes of the list, boxes inside the image."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "CUB_200_2011"
        self.written: dict[str, bytes] = {}
        (self.root / "parts").mkdir(parents=True)
        for line in _BIRDS["images.txt"].decode().splitlines():
            path = self.root / "images" / line.split()[1]
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (30, 20)).save(path)
        one = st.sampled_from(sorted(_BIRDS)).flatmap(lambda name: files(_BIRDS[name]).map(lambda c: {name: c}))
        self.inputs = st.tuples(one, st.one_of(st.just({}), one)).map(lambda two: two[0] | two[1])

    def check(self, content: Any) -> None:
        for name, text in (_BIRDS | content).items():
            if self.written.get(name) != text:
                (self.root / name).write_bytes(text)
                self.written[name] = text
        # of what strict=True refuses beyond that, test_datasets has every kind
        self.kept(Cub(name="cub", root=str(self.root), split="all", strict=False).load())

    def kept(self, found: ImageList) -> None:
        for sample in found.samples:
            refuse_id(sample.image, "fuzz")
            assert sample.path.is_relative_to(self.root / "images")
            assert ".." not in sample.path.parts
            assert sample.label is not None
            assert 0 <= sample.label <= max(found.class_names)
            assert all(box.area > 0 and box.overhang(30, 20) <= 2 for box in sample.boxes) or not sample.path.is_file()


class Tables:
    """A table of images, labels and boxes, and its list of classes: files below the folder, classes of a list, boxes that have
    a size."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "photos"
        self.root.mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (30, 20)).save(self.root / name)
        self.inputs = files(
            b"image,label,x0,y0,x1,y1\na.png,cat,1,2,20.5,10\na.png,cat,3,3,9,9\nb.png,dog,0,0,30,20\n",
            b'\xef\xbb\xbfimage;label\r\n"a.png";7\r\nb.png;0\r\n',
            b"image\tlabel\na.png\tn01440764\n",
        )

    def check(self, content: Any) -> None:
        (self.root / "t.csv").write_bytes(content)
        found = Table(name="table", root=str(self.root), strict=False).load()
        for sample in found.samples:
            refuse_id(sample.image, "fuzz")
            assert sample.label is None or 0 <= sample.label <= max(found.class_names)
            assert all(box.area > 0 for box in sample.boxes) or not sample.path.is_file()


class CocoInstances:
    """Instances in COCO's format: boxes that have a size, and masks of their image's size."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "photos"
        self.root.mkdir()
        Image.new("RGB", (30, 20)).save(self.root / "a.png")
        shapes = [[[1.5, 2, 9, 2, 9, 8.5]], {"size": [20, 30], "counts": [22, 5, 573]}, {"size": [20, 30], "counts": "f05ma0"}]
        self.inputs = files(
            *(
                json.dumps({
                    "images": [{"id": 4, "file_name": "a.png", "width": 30, "height": 20}],
                    "categories": [{"id": 7, "name": "cat"}, {"id": 2, "name": "dog"}],
                    "annotations": [{
                        "id": 1, "image_id": 4, "category_id": 7, "bbox": [1, 2, 8, 6.5], "area": 26, "iscrowd": 0,
                        "segmentation": shape,
                    }],
                }).encode()
                for shape in shapes
            )
        )  # fmt: skip

    def check(self, content: Any) -> None:
        (self.root / "instances_a.json").write_bytes(content)
        for sample in Coco(name="coco", root=str(self.root), strict=False).load().samples:
            refuse_id(sample.image, "fuzz")
            assert all(box.area > 0 for box in sample.boxes) or not sample.path.is_file()
            assert sample.label in (0, 1)
            if sample.mask is not None and sample.annotated_size is not None:
                width, height = sample.annotated_size
                assert mask_of(sample.mask, (width, height)).shape == (height, width)


class Records:
    """The records of a cell: those that are read are whole and can be summarised; what is not is kept aside; reading twice is
    reading once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "cell"
        self.folder.mkdir()
        whole = {
            "target": 1, "prob": 0.5, "deletion": 0.25, "forwards": 7, "seconds": 0.1, "status": "ok", "label": 1,
            "predicted": 1, "boxes": 1, "boxes_lost": 0, "explain_forwards": 1, "explain_tail_forwards": 0,
            "explain_backwards": 1, "explain_seconds": 0.05, "ties": 0.1, "nonfinite": 0.0,
            "diagnostics": {"insertion_start": 0.5, "flags": []},
        }  # fmt: skip
        lost = {
            "target": None,
            "prob": None,
            "deletion": None,
            "forwards": 0,
            "seconds": 0.0,
            "status": "unreadable",
            "label": 2,
        }
        lines = [json.dumps({"image": f"n0144/é {i}"} | (lost if i == 2 else whole)).encode() + b"\n" for i in range(5)]
        self.inputs = files(b"".join(lines), lines[0])

    def check(self, content: Any) -> None:
        path, bad = self.folder / "records.jsonl", self.folder / "records.bad.jsonl"
        path.write_bytes(content)
        bad.unlink(missing_ok=True)
        try:
            with CellFolder.open(self.folder, CELL) as cell:
                records = list(cell.records.values())
        except UserError:
            assert path.read_bytes() == content  # nothing is thrown away unasked
            raise
        assert read_records(self.folder, CELL) == records
        *lines, _ = content.split(b"\n")
        aside = bad.read_bytes().split(b"\n")[:-1] if bad.exists() else []
        assert sorted([*path.read_bytes().split(b"\n")[:-1], *aside]) == sorted(lines)
        with CellFolder.open(self.folder, CELL) as cell:
            assert not cell.repairs
            assert list(cell.records.values()) == records
        assert len({r["image"] for r in records}) == len(records)
        assert len(digest_of(records)) == 64
        assert sum(failures_of(records, boxes=True).values()) >= 0
        mean = entry_of(Deletion(), "deletion", records)["mean"]
        assert mean is None or math.isfinite(mean)


class Images:
    """Files of images: upright RGB of their header's size, or called unreadable."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a.jpg"
        pixels = np.random.default_rng(0).integers(0, 255, (12, 20, 3), dtype=np.uint8)
        exif = Image.Exif()
        exif[0x0112], exif[0x010F] = 6, "a camera"
        made = []
        rotated = {"exif": exif}
        kinds = [("JPEG", rotated), ("PNG", rotated), ("WEBP", rotated), ("TIFF", rotated), ("BMP", {}), ("GIF", {})]
        for kind, keys in [*kinds, ("TIFF", {"compression": "tiff_lzw"})]:
            content = io.BytesIO()
            Image.fromarray(pixels).save(content, kind, **keys)
            made.append(content.getvalue())
        self.inputs = files(*made)

    def check(self, content: Any) -> None:
        self.path.write_bytes(content)
        try:
            with mock.patch.object(decoding, "MOST_PIXELS", 2**20):  # the largest ones take a second each
                width, height = stored_size(self.path)
                decoded = decode(self.path)
        except UnreadableImage:
            return
        assert decoded.image.mode == "RGB"
        assert decoded.orientation in range(1, 9)
        assert sorted(decoded.image.size) == sorted((width, height)) == sorted(decoded.stored_size)
        assert np.asarray(decoded.image).shape == (*decoded.image.size[::-1], 3)


PARSERS: dict[str, Callable[[Path], Any]] = {
    "xml": Xml, "cub": CubLists, "table": Tables, "coco": CocoInstances, "records": Records, "images": Images,
}  # fmt: skip


def fuzz(name: str, examples: int, start: int, shrink: bool = True) -> int:
    """Tries so many inputs, drawn by a seed; returns how many there were, of which some are the same."""
    tried = 0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        parser = PARSERS[name](Path(folder))

        @seed(start)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=(Phase.generate, Phase.shrink) if shrink else (Phase.generate,),
        )
        @given(parser.inputs)
        def one(content: Any) -> None:
            nonlocal tried
            tried += 1
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    parser.check(content)
            except UserError as error:
                refused(error)

        one()
        shutil.rmtree(folder, ignore_errors=True)
        Path(folder).mkdir()
    return tried


@configured
class Options:
    """The keys of this command."""

    minutes: Positive = 3.0
    parser: Names = tuple(PARSERS)
    seed: Annotated[int, Field(ge=0)] = 0


def main(arguments: Sequence[str]) -> int:
    options = parse(Options, arguments)
    unknown = sorted(set(options.parser) - set(PARSERS))
    if unknown:
        raise UserError(f"parser={unknown[0]} is unknown: choose of {', '.join(PARSERS)}.")
    for name in options.parser:
        tried, begun, start = 0, time.monotonic(), options.seed
        while time.monotonic() - begun < 60 * options.minutes:
            tried += fuzz(name, 2000, start)
            start += 1
        minutes = (time.monotonic() - begun) / 60
        print(f"{name}: {tried} inputs in {minutes:.1f} minutes, seeds {options.seed}..{start - 1}", flush=True)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
