"""One place writes results: the folder of a cell.

    card.yaml       what was computed and how: configuration, protocol, versions, hashes
    records.jsonl   one line an image, written and synced as soon as the image is done
    summary.json    means, intervals, failures; a pure function of the records

A record counts once its line is complete. A line torn by a crash is cut off when the cell is opened again, so at most the
image in flight is done twice. One process at a time writes a cell (an advisory lock that dies with its process); parts of it
may be written by others at the same time, each in a cell of its own below (:mod:`experiments.shards`).
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from experiments.progress import tell
from suny.errors import UserError

Record = dict[str, Any]

# folder in a cell: what its shards have recorded and is not yet merged
PARTS = "shards"


class Cell:
    """A cell's folder; use :meth:`open`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.records: dict[str, Record] = {}
        self.repaired = 0

    @classmethod
    @contextmanager
    def open(cls, folder: Path, wait: float = 0) -> Iterator[Cell]:
        """Creates or reopens a cell for writing: takes the lock, reads the records, repairs what a crash tore.

        Args:
            folder: of the cell.
            wait: seconds to wait for another process that holds it.

        Raises:
            UserError: the folder can't be written, or another process holds the cell.
        """
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder, wait)
        try:
            with writing(folder):
                note = f"process {os.getpid()} on {socket.gethostname()} since {datetime.now(UTC):%F %T} UTC"
                (folder / ".holder").write_text(note, encoding="utf-8")
                cell = cls(folder)
                cell._read()
            yield cell
        finally:
            (folder / ".holder").unlink(missing_ok=True)
            lock.release()

    @property
    def card_path(self) -> Path:
        return self.folder / "card.yaml"

    @property
    def summary_path(self) -> Path:
        return self.folder / "summary.json"

    def _read(self) -> None:
        path = self.folder / "records.jsonl"
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        good: list[bytes] = []
        for line in whole.splitlines(keepends=True):
            record = _parsed(line)
            if record is not None and record["image"] not in self.records:
                self.records[record["image"]] = record
                good.append(line)
        if b"".join(good) != content:
            self.repaired = len(content.splitlines()) - len(good)
            write_atomically(path, b"".join(good))
            self.summary_path.unlink(missing_ok=True)

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
        self.records[record["image"]] = record

    def rewrite(self, records: Iterable[Record]) -> None:
        """Replaces all records, atomically."""
        found = {r["image"]: r for r in records}
        with writing(self.folder):
            write_atomically(self.folder / "records.jsonl", "".join(map(_line, found.values())).encode())
        self.records = found

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
        except (yaml.YAMLError, ValueError):
            card = None
        if not isinstance(card, dict) or "hash" not in card:
            raise UserError(f"{self.card_path} is damaged: move the folder {self.folder} away.")
        return card

    def read_summary(self) -> dict[str, Any] | None:
        """The summary, None where there is none or it may be older than the records."""
        path, records = self.summary_path, self.folder / "records.jsonl"
        if not path.exists() or not records.exists() or path.stat().st_mtime_ns < records.stat().st_mtime_ns:
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            return None

    def write_summary(self, summary: dict[str, Any]) -> None:
        text = json.dumps(summary, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        with writing(self.folder):
            write_atomically(self.summary_path, text.encode())


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns a failure to write into a line that says what to do; what was written before stays."""
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


def read_records(folder: Path) -> list[Record]:
    """The complete records of a cell, in the order of their writing, without opening it for writing.

    Those of its shards follow its own; an image may be in both.
    """
    files = [folder / "records.jsonl", *sorted(folder.glob(f"{PARTS}/*/records.jsonl"))]
    lines = [line for file in files for line in _content(file).splitlines(keepends=True)]
    return [r for line in lines if line.endswith(b"\n") and (r := _parsed(line)) is not None]


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:  # none yet, or merged by another process a moment ago
        return b""


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"  # ASCII: file names need not be valid text


def _parsed(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
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


def holder(folder: Path) -> str:
    """Who writes a cell, in words."""
    try:
        return (folder / ".holder").read_text(encoding="utf-8") or "another process"
    except OSError:
        return "another process"
