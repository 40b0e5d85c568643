"""A table of images: one line for each box, in a CSV file with a header.

    image,label,x0,y0,x1,y1
    photos/a.jpg,cat,10,20,110,220
    photos/a.jpg,cat,150,20,230,210
    photos/b.jpg,dog,0,0,64,48

Paths lead from the data set's folder on, or from the root of the file system; images are named by their paths below that
folder, or, where one lies elsewhere, below the folder that all of them share. Labels and boxes may be left out, the columns
altogether or the values of an image. Boxes are edges in pixels, half open (:mod:`suny.images.geometry`): x1 and y1 are the
first column and row outside.

**Labels** are names or class indices. Of names the class indices are the places in the list ``classes``, a file of one name a
line or ImageNet's classes; without such a list names that all are WordNet ids are ImageNet's classes, and any others are
numbered in sorted order. Whole numbers are class indices themselves, from 0 on, unless they are names of the list.

The file is UTF-8, with or without a byte order mark, its lines end as they do on any system, and values stand in quotes where
they have to. Blanks around values, and empty lines below the header, mean nothing; values that are missing at the end of a line
are empty.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from suny.configured import configured
from suny.errors import UserError, nearest
from suny.images.dataset import (
    Dataset,
    ImageList,
    LabelSpace,
    Sample,
    given_root,
    ids_of,
    imagenet_classes,
    refuse_id,
    unknown_class,
)
from suny.images.filecache import Store
from suny.images.geometry import Box
from suny.later import Later

if TYPE_CHECKING:
    import pandas as pd
else:
    pd = Later("pandas")

_SEPARATORS = (",", ";", "\t", "|")
_EDGES = ("x0", "y0", "x1", "y1")
# A class index; pandas writes one with a point where other images have no label.
_INDEX = re.compile(r"-?\d{1,9}(\.0+)?", re.ASCII)
# Larger class indices are a mistake: names of classes would be made for all below them.
_MOST_CLASSES = 100_000
# The other columns need not be there where they have the usual name.
_USUAL = {"label": "label", **{edge: edge for edge in _EDGES}}


@configured
class Table(Dataset):
    """Images, labels and boxes from a table.

    Args:
        file: the table, its path from ``root`` on or a full one, which then needs no root; None: the only .csv or .tsv in root.
        separator: one character; None: that of comma, semicolon, tab and bar by which the header has most columns.
        image, label, x0, y0, x1, y1: the names of the columns.
        inclusive: whether x1 and y1 are the last column and row inside the box, as in PASCAL VOC's annotations.
        classes: the list of class names, a file from ``root`` on or a full path, one name a line; ``imagenet``: ImageNet's
            classes, which labels then name by WordNet id or index; None: none.
    """

    places: ClassVar[tuple[str, ...]] = (
        "file", "separator", "image", "label", "x0", "y0", "x1", "y1", "inclusive", "classes",
    )  # fmt: skip

    file: str | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    image: str = "image"
    label: str = "label"
    x0: str = "x0"
    y0: str = "y0"
    x1: str = "x1"
    y1: str = "y1"
    inclusive: bool = False
    classes: str | None = None

    def read(self) -> ImageList:
        file, root = self._places()
        lines = _Lines.of(file, self.separator, self.image)
        columns = {key: column for key in _USUAL if (column := self._column(lines, key)) is not None}
        lacking = [getattr(self, edge) for edge in _EDGES if edge not in columns]
        if 0 < len(lacking) < len(_EDGES):
            raise UserError(
                f"{file}: a box needs four columns; {', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not there."
            )
        boxed = not lacking and any(any(columns[edge]) for edge in _EDGES)
        entries = self._entries(lines, columns, boxed)
        labelled = any(entry.label for entry in entries.values())
        labels, names, space = self._labels(file, root, list(entries.values())) if labelled else ({}, {}, "folders")
        below = _below(list(entries), root)
        for path in below:
            refuse_id(str(path), str(file))
        notes = []
        if not boxed:
            notes.append(f"no boxes: {file} has the columns {', '.join(lines.names)}")
        if not labelled:
            notes.append(f"no labels: {file} has the columns {', '.join(lines.names)}")
        samples = tuple(
            Sample(
                image=id_,
                path=root / path,
                label=labels.get(entry.label),
                boxes=() if entry.problem else tuple(entry.boxes),
                where=f"{file}, {_numbered(entry.lines)}",
                problem=entry.problem,
            )
            for id_, (path, entry) in zip(ids_of(below), entries.items(), strict=True)
        )
        return ImageList(samples, names, space, has_boxes=boxed, notes=tuple(notes))

    def annotate(self, sample: Sample, files: Store) -> Sample:
        if not sample.path.is_file():
            raise UserError(f"{sample.where}, column {self.image}: image {sample.image} is not on disk ({sample.path})")
        return sample

    def _places(self) -> tuple[Path, Path]:
        """The table, and the folder from which paths lead."""
        given = None if self.file is None else Path(self.file).expanduser()
        if given is not None and given.is_absolute() and not self.root:
            root = given.parent
        else:
            root = given_root(self.root, self.name, "the table (dataset.file=FILE, or the only .csv) and its images")
        if given is not None:
            if not (root / given).is_file():
                raise UserError(f"dataset.file={self.file} is no file (looked for {root / given}).")
            return root / given, root
        files = sorted(p for p in root.iterdir() if p.suffix.lower() in (".csv", ".tsv") and not p.name.startswith("."))
        if len(files) != 1:
            there = ", ".join(p.name for p in files[:10]) or "no .csv"
            raise UserError(f"dataset.root={self.root} has {there}: say which table with dataset.file=FILE.")
        return files[0], root

    def _column(self, lines: _Lines, key: str) -> list[str] | None:
        """The values of a column; None where it has the usual name and is not there."""
        name = getattr(self, key)
        if name in lines.names or name != _USUAL[key]:
            return lines.column(name, f"dataset.{key}")
        return None

    def _entries(self, lines: _Lines, columns: Mapping[str, list[str]], boxed: bool) -> dict[str, _Entry]:
        """What the table says of each image, by its path, in the order of the table."""
        images = lines.column(self.image, "dataset.image")
        labels = columns.get("label") or [""] * len(images)
        edges = self._edges(lines, columns) if boxed else np.full((len(images), 4), np.nan)
        entries: dict[str, _Entry] = {}
        seen: dict[tuple[str, ...], int] = {}
        for at, (image, label, box) in enumerate(zip(images, labels, edges.tolist(), strict=True)):
            line = lines.numbers[at]
            if not image:
                raise UserError(f"{lines.file}, line {line}, column {self.image}: no image is named.")
            path = os.path.normpath(image)
            same = seen.setdefault((path, label, *map(str, box)), line)
            if same != line:
                raise UserError(f"{lines.file}: lines {same} and {line} say the same of image {image}; remove one of the two.")
            entry = entries.setdefault(path, _Entry(label))
            entry.lines.append(line)
            if label.lower() == "nan":
                raise UserError(
                    f"{lines.file}, line {line}, column {self.label}: '{label}' is no class; leave the value empty."
                )
            if label != entry.label:
                raise UserError(
                    f"{lines.file}, {_numbered(entry.lines)}, column {self.label}: image {image} has the labels "
                    f"'{entry.label}' and '{label}': an image has one, on all its lines."
                )
            if box[0] != box[0]:
                continue
            entry.boxes.append(Box(*box))
            for low, high, start, end in ((self.x0, self.x1, box[0], box[2]), (self.y0, self.y1, box[1], box[3])):
                if not end > start and entry.problem is None:
                    last = end - self.inclusive
                    entry.problem = (
                        f"{lines.file}, line {line}, column {high}: {last:g} leaves the box of image {image} empty, whose "
                        f"{low} is {start:g}"
                    )
        return entries

    def _edges(self, lines: _Lines, columns: Mapping[str, list[str]]) -> NDArray[np.float64]:
        """The edges of each line's box, half open, (lines, 4); NaN where a line has none."""
        values = np.stack([lines.numbers_of(columns[edge], getattr(self, edge)) for edge in _EDGES], 1)
        known = ~np.isnan(values)
        for at in np.flatnonzero(known.any(1) & ~known.all(1)):
            name = next(getattr(self, edge) for edge, there in zip(_EDGES, known[at], strict=True) if not there)
            raise UserError(
                f"{lines.file}, line {lines.numbers[at]}, column {name}: no value, but the others of the box are there."
            )
        values[:, 2:] += self.inclusive
        return values

    def _labels(self, file: Path, root: Path, entries: Sequence[_Entry]) -> tuple[dict[str, int], dict[int, str], LabelSpace]:
        """The class index of every label, the class names by index, and what the indices count."""
        given = {entry.label: entry.lines[0] for entry in entries if entry.label}
        imagenet = imagenet_classes()
        space: LabelSpace = "own"
        names: list[str] | None = None
        indices = {name: index for name, (index, _) in imagenet.items()}
        if self.classes == "imagenet" or (self.classes is None and given.keys() <= indices.keys()):
            space, names = "imagenet", [name for _, name in imagenet.values()]
        elif self.classes is not None:
            names = _names(root / Path(self.classes).expanduser())
            indices = {name: at for at, name in enumerate(names)}
        if names is not None and given.keys() <= indices.keys():
            return {label: indices[label] for label in given}, dict(enumerate(names)), space
        found = {label: int(label.partition(".")[0]) for label in given if _INDEX.fullmatch(label)}
        other = next((label for label in given if label not in found), None)
        if other is None:
            most = _MOST_CLASSES if names is None else len(names)
            wrong = next((label for label, index in found.items() if not 0 <= index < most), None)
            if wrong is not None:
                raise UserError(
                    f"{file}, line {given[wrong]}, column {self.label}: class index {wrong} is none of 0..{most - 1}"
                    f"{'' if names is None else ', the list of classes'}."
                )
            return found, dict(enumerate(names or map(str, range(max(found.values()) + 1)))), space
        if names is not None:
            other = next(label for label in given if label not in indices)
        where = f"{file}, line {given[other]}, column {self.label}"
        if names is not None:
            raise unknown_class(other, list(indices), where)
        if found:
            index = next(iter(found))
            raise UserError(
                f"{where}: '{other:.100}' is a name, but '{index}' (line {given[index]}) is a class index; name all classes, "
                "or give the list of their names (dataset.classes=FILE)."
            )
        ordered = sorted(given)
        return {name: at for at, name in enumerate(ordered)}, dict(enumerate(ordered)), "folders"


@dataclass
class _Entry:
    """What a table says of one image: its label (empty: none), its boxes, its lines' numbers, what is wrong with a box."""

    label: str
    boxes: list[Box] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    problem: str | None = None


@dataclass(frozen=True)
class _Lines:
    """A table as text.

    Args:
        file: the file.
        names: those of the columns.
        table: the values, blanks around them removed.
        numbers: the number of each line in the file.
    """

    file: Path
    names: list[str]
    table: pd.DataFrame
    numbers: list[int]

    @classmethod
    def of(cls, file: Path, separator: str | None, image: str) -> _Lines:
        """Reads a file.

        Raises:
            UserError: it is no such table.
        """
        try:
            text = file.read_bytes().decode("utf-8-sig")
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            line = error.object[: error.start].count(b"\n") + 1
            raise UserError(f"{file}, line {line}: not UTF-8; save the table as CSV in UTF-8.") from error
        if "\0" in text:
            raise UserError(f"{file} is no text: it holds a byte 0.")
        header = next((line for line in text.splitlines() if line.strip()), "")
        try:
            separator = separator or max(_SEPARATORS, key=lambda s: len(next(csv.reader([header], delimiter=s), [])))
            # the header is read as a line, so that one with more values than it is refused
            table = pd.read_csv(
                io.StringIO(text), sep=separator, header=None, dtype=str, keep_default_na=False, skip_blank_lines=False
            )
        except (pd.errors.EmptyDataError, pd.errors.ParserError, ValueError, csv.Error) as error:
            said = str(error).strip().removeprefix("Error tokenizing data. C error: ").rstrip(".")
            raise UserError(f"{file} is no table: {said}.") from error
        table = table.fillna("").apply(lambda column: column.str.strip(" \t"))
        table = table[(table != "").any(axis=1)]
        numbers = [int(at) + 1 for at in table.index]
        for at, row in zip(numbers, table.itertuples(index=False), strict=True):
            if any("\n" in value or "\r" in value for value in row):
                raise UserError(f"{file}, line {at}: a value goes on in the next line; is a quote not closed?")
        names = [] if table.empty else [str(name) for name in table.iloc[0]]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UserError(f"{file}: the column '{twice}' is there twice.")
        found = cls(file, names, table.iloc[1:].set_axis(names, axis=1), numbers[1:])
        found.column(image, "dataset.image")
        return found

    def column(self, name: str, key: str) -> list[str]:
        """The values of a column.

        Args:
            name: the column's name.
            key: of the configuration, which names it.

        Raises:
            UserError: there is none of this name.
        """
        if name not in self.names:
            there = ", ".join(self.names)
            raise UserError(
                f"{self.file} has no column '{name}' ({key}). {nearest(name, self.names)}Its first line has: {there:.300}."
            )
        return self.table[name].tolist()

    def numbers_of(self, values: Sequence[str], name: str) -> NDArray[np.float64]:
        """A column as numbers, NaN where there is no value.

        Raises:
            UserError: a value that is none.
        """
        found = np.full(len(values), np.nan)
        for at, value in enumerate(values):
            if not value:
                continue
            if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,2})?", value, re.ASCII):
                raise UserError(f"{self.file}, line {self.numbers[at]}, column {name}: '{value:.50}' is no number.")
            found[at] = float(value)
        return found


def _names(file: Path) -> list[str]:
    """The class names of a list, one on each line.

    Raises:
        UserError: no such file, or names that are there twice.
    """
    try:
        names = [line.strip() for line in file.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"dataset.classes: cannot read {file}: {error}.") from error
    while names and not names[-1]:
        names.pop()
    for at, name in enumerate(names, 1):
        if not name or name in names[: at - 1]:
            raise UserError(f"{file}, line {at}: {f'class {name!r} is there twice' if name else 'no class is named'}.")
    return names


def _below(paths: Sequence[str], root: Path) -> list[Path]:
    """What names the images: their paths below the root, or, where one lies elsewhere, below a folder that has them all."""
    base = Path(os.path.abspath(root))
    full = [base / path for path in paths]
    if all(path.is_relative_to(base) for path in full):
        return [path.relative_to(base) for path in full]
    common = os.path.commonpath([path.parent for path in full])
    return [path.relative_to(common) for path in full]


def _numbered(lines: Sequence[int]) -> str:
    """``line 3``, or ``lines 3, 4``."""
    return f"line{'s' * (len(lines) > 1)} {', '.join(map(str, lines))}"
