"""One place writes results: the folder of a cell.

    card.yaml       what the cell is, which columns it has, versions, and the command that began it
    records.jsonl   one line per image, written and synced as soon as the image is done
    summary.json    means, intervals, failures; a pure function of the records

A record counts once its line is complete. A later line of an image that has columns which the earlier one lacks counts in
its place: so metrics are added to a finished cell. A line torn by a crash is cut off when the cell is opened again, so at
most the image in flight is done twice. A line that is no record is set aside (records.bad.jsonl), and its image done again.
One process at a time writes a cell (an advisory lock that dies with its process); parts of it may be written by others at the
same time, each in a cell of its own below (:mod:`experiments.store.shards`). Nothing depends on the clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from filelock import FileLock, Timeout
from pydantic import Field

from experiments.command import data_folders
from experiments.command.progress import tell
from suny.errors import UserError

Record = dict[str, Any]

# The folder in a cell with the records of its shards that are not merged yet.
PARTS = "shards"

# The format of cards and records; raised where this version could not read what an older one wrote. Cards without one have
# the first. ``python -m experiments.migrate`` brings older cells to this one.
FORMAT = 2

# These are the only keys of a record that differ from run to run.
_TIMES = ("seconds", "explain_seconds")

_BAD = "records.bad.jsonl"

_Count = Annotated[int, Field(ge=0, lt=2**63)]
_Finite = Annotated[float, Field(allow_inf_nan=False)]


class AnyRecord(pydantic.BaseModel):
    """The keys that every record has, whatever else it has."""

    model_config = pydantic.ConfigDict(strict=True)

    image: str
    status: str


class _FailureRecord(AnyRecord):
    """The keys of an image that could not be explained."""

    status: Literal["unreadable", "missing", "no_map"]
    label: int | None
    forwards: _Count
    seconds: _Finite


class _ExplainedRecord(_FailureRecord):
    """The keys of an image that was explained, beside one key per column."""

    status: Literal["ok", "degenerate"]  # type: ignore[assignment]
    target: int
    predicted: int
    prob: _Finite
    boxes: _Count
    boxes_lost: _Count
    explain_forwards: _Count
    explain_tail_forwards: _Count
    explain_backwards: _Count
    explain_seconds: _Finite
    diagnostics: dict[str, Any]


# A contract says which keys the records of a folder have: those of cells, or any.
Contract = pydantic.TypeAdapter[Any]
ANY: Contract = pydantic.TypeAdapter(AnyRecord)
CELL: Contract = pydantic.TypeAdapter(Annotated[_FailureRecord | _ExplainedRecord, Field(discriminator="status")])


class CellFolder:
    """A cell's folder; use :meth:`open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}
        self.repairs: list[str] = []
        # whether an image has an earlier line beside the one that counts
        self.extended = False

    @classmethod
    @contextmanager
    def open(cls, folder: Path, contract: Contract = ANY, wait: float = 0) -> Iterator[CellFolder]:
        """Creates or reopens a cell for writing: takes the lock, reads the records, repairs what a crash tore.

        What was repaired is in ``repairs``, a sentence each.

        Args:
            folder: of the cell.
            contract: what its records have.
            wait: seconds to wait for another process that holds it.

        Raises:
            UserError: the folder can't be written, another process holds the cell, or a record is of another version.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder, wait)
        try:
            with writing(folder):
                note = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%F %T} UTC"
                (folder / ".holder").write_text(note, encoding="utf-8")
                cell = cls(folder)
                cell._read(contract)
            yield cell
        finally:
            with suppress(OSError):  # what has gone wrong is told already
                (folder / ".holder").unlink()
            lock.release()

    @property
    def card_path(self) -> Path:
        return self.folder / "card.yaml"

    @property
    def summary_path(self) -> Path:
        return self.folder / "summary.json"

    def _read(self, contract: Contract) -> None:
        path = self.folder / "records.jsonl"
        if not path.exists():
            return
        content = path.read_bytes()
        good: list[bytes] = []
        bad: list[tuple[int, bytes]] = []
        *lines, torn = content.split(b"\n")
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            earlier = self.records.get(record["image"]) if record else None
            if record is None or (earlier is not None and extended(earlier, record) is earlier):
                bad.append((number, line))
                continue
            _check(record, contract, f"{path}, line {number}")
            self.extended = self.extended or earlier is not None
            self.records[record["image"]] = extended(earlier, record)
            good.append(line)
        if torn:
            self.repairs.append("the last line of records.jsonl was torn off in the middle: its image is done again")
        if bad:
            where = f"line {bad[0][0]}" if len(bad) == 1 else f"{len(bad)} lines (the first: {bad[0][0]})"
            self.repairs.append(
                f"damaged or doubled in records.jsonl, and moved to {_BAD}: {where}; images that have no other are done again"
            )
            with (self.folder / _BAD).open("ab") as file:  # first: a crash in between moves them twice, and loses nothing
                file.writelines(line + b"\n" for _, line in bad)
        if self.repairs:
            write_atomically(path, b"".join(line + b"\n" for line in good))

    def append(self, record: Record) -> None:
        """Writes one record; on return it is on the disk.

        Raises:
            UserError: the disk is full or the folder not writable.
        """
        line = _line(record)
        with writing(self.folder), (self.folder / "records.jsonl").open("ab") as file:
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        self.extended = self.extended or record["image"] in self.records
        self.records[record["image"]] = record

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replaces all records, atomically."""
        by_image = {r["image"]: r for r in records}
        with writing(self.folder):
            write_atomically(self.folder / "records.jsonl", "".join(map(_line, by_image.values())).encode())
        self.records = by_image
        self.extended = False

    def write_card(self, card: dict[str, Any]) -> None:
        text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=120)
        with writing(self.folder):
            write_atomically(self.card_path, text.encode())

    def read_card(self) -> dict[str, Any] | None:
        """The card, None where there is none.

        Raises:
            UserError: the file is no card.
        """
        if not self.card_path.exists():
            return None
        try:
            card = yaml.safe_load(self.card_path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError):
            card = None
        if not isinstance(card, dict) or not isinstance(card.get("hash"), str):
            raise UserError(f"{self.card_path} is damaged: move the folder {self.folder} away.")
        form = card.get("format", 1)
        if form != FORMAT:
            older = isinstance(form, int) and form < FORMAT
            raise UserError(
                f"{self.folder} was written by {'an earlier' if older else 'a later'} version of the project (format {form}; "
                f"this one has {FORMAT}): "
                + (
                    f"python -m experiments.migrate {self.folder} brings it over, and changes no number."
                    if older
                    else "use that version, which its card names, or move the folder away."
                )
            )
        return card

    def read_summary(self, digest: str) -> dict[str, Any] | None:
        """The summary of the records of a digest (:func:`digest_of`), None where there is none."""
        try:
            summary = json.loads(self.summary_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        return summary if isinstance(summary, dict) and summary.get("records") == digest else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        text = json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        with writing(self.folder):
            write_atomically(self.summary_path, text.encode())


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a failure to write into a line that says what to do; what was written before stays.

    Raises:
        UserError: that line, or one that refuses a folder of data (:mod:`experiments.command.data_folders`).
    """
    data_folders.refuse(folder)
    try:
        yield
    except OSError as error:
        raise UserError(
            f"cannot write results to {folder}: {error.strerror or error}. "
            "Make room or give another results_dir=DIR; what is finished stays and the same command continues."
        ) from error


def write_atomically(path: Path, content: bytes) -> None:
    """Replaces a file so that a crash leaves the old one or the new one, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to be written, which then takes the path's place as :func:`write_atomically` does."""
    temporary = path.with_name(f".{path.name}.new")
    yield temporary
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_records(folder: Path, contract: Contract = ANY) -> list[Record]:
    """The complete records of a cell, one per image in the order of their first writing, without opening it for writing.

    Those of its shards follow its own.

    Raises:
        UserError: a record is of another version.
    """
    records: dict[str, Record] = {}
    for path in [folder / "records.jsonl", *sorted(folder.glob(f"{PARTS}/*/records.jsonl"))]:
        *lines, _ = _content(path).split(b"\n")
        for number, line in enumerate(lines, 1):
            record = _parsed(line)
            if record is not None:
                _check(record, contract, f"{path}, line {number}")
                records[record["image"]] = extended(records.get(record["image"]), record)
    return list(records.values())


def extended(earlier: Record | None, later: Record) -> Record:
    """Joins two records of an image; returns the earlier one itself where the later has no column that it lacks."""
    if earlier is None:
        return later
    if not _columns(later) - _columns(earlier):
        return earlier
    curves = {**(earlier.get("curves") or {}), **(later.get("curves") or {})}
    return {**earlier, **later, **({"curves": curves} if curves else {})}


def _columns(record: Record) -> set[str]:
    """The keys of a record, and its curves."""
    return {*record, *(f"curves.{name}" for name in record.get("curves") or ())}


def digest_of(records: Iterable[Record]) -> str:
    """SHA-256 of records without the times that they took."""
    digest = hashlib.sha256()
    for record in records:
        digest.update(json.dumps({k: v for k, v in record.items() if k not in _TIMES}).encode())
    return digest.hexdigest()


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # none yet, or merged by another process a moment ago
        return b""


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"  # ASCII: file names need not be valid text


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line, parse_constant=_refused)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("image"), str) and "status" in record else None


def _locked(folder: Path, wait: float) -> FileLock:
    lock = FileLock(folder / ".lock")
    soon = min(wait, 5.0)
    try:
        try:
            lock.acquire(timeout=soon)
        except Timeout:
            if wait > soon:
                tell(f"note: waiting for {holder(folder)}, who writes {folder}")
            lock.acquire(timeout=wait - soon)
    except Timeout:
        raise UserError(f"{folder} is being written by {holder(folder)}: wait for it, or stop it.") from None
    return lock


def _refused(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _check(record: Mapping[str, Any], contract: Contract, where: str) -> None:
    """A whole record that lacks what this version needs is no crash's doing: nothing of it is thrown away unasked."""
    try:
        contract.validate_python(record)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        raise UserError(
            f"{where}: the record of image {record['image']!a:.120} is damaged or of another version of the project "
            f"({'.'.join(map(str, first['loc']))}: {first['msg']}). Delete that line to have the image done again, or move the "
            "folder away to compute all of it again."
        ) from error


def holder(folder: Path) -> str:
    """The process that writes a cell, in words."""
    try:
        return (folder / ".holder").read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
