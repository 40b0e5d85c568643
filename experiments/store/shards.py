"""Splits a cell by images: several processes, on one machine or many, compute parts of it at the same time.

Shard i of n has the images at places i, i + n, i + 2n, ... of the cell's list, so that slow and fast ones are spread evenly.
A shard writes a file of its own, with its own lock, in the cell's folder; no two processes ever write one file together:

    shards/00003-of-00064/records.jsonl

Whoever finds all images recorded merges: the records go to the cell's own file in the order of its images, in one atomic step,
then the shards' folders are removed. A crash in between leaves records in both places, and the next merge ends the work. An
image counts once, wherever and however often it is recorded; so shards may follow a run without them, and the other way round,
and ``count`` may change between two runs.

Locks: a shard is entered under the cell's lock, which is held for a moment only; a process without shards holds it while it
computes. Both work across machines where the file system's ``flock`` does.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from experiments.command.configuration import Shard
from experiments.store.records import CELL, PARTS, CellFolder, Record, extended, holder, read_records
from suny.errors import UserError

# A shard waits so many seconds for others that enter or merge.
PATIENCE = 600.0


@contextmanager
def entered(folder: Path, shard: Shard) -> Iterator[tuple[CellFolder, Callable[[], AbstractContextManager[CellFolder]]]]:
    """Takes a cell, or a shard of it, for computing.

    Yields: where records are to be appended, and how to have the whole cell for a moment; the same cell without shards.

    Raises:
        UserError: the folder can't be written, or other processes compute the same images.
    """
    if shard.whole:
        with CellFolder.open(folder, CELL) as cell:
            _refuse(_running(folder))
            yield cell, lambda: nullcontext(cell)
        return
    whole = partial(CellFolder.open, folder, CELL, PATIENCE)
    with ExitStack() as held:
        with whole():  # nobody removes a shard's folder while it is entered
            _refuse(p for p in _running(folder) if not p.name.endswith(shard.name.partition("-")[2]))
            own = held.enter_context(CellFolder.open(folder / PARTS / shard.name, CELL))
        yield own, whole


def recorded(cell: CellFolder) -> dict[str, Record]:
    """All records of a cell and its shards, one per image."""
    records = dict(cell.records)
    for record in itertools.chain.from_iterable(read_records(part, CELL) for part in _parts(cell.folder)):
        records[record["image"]] = extended(records.get(record["image"]), record)
    return records


def merge(cell: CellFolder, order: Sequence[str], own: CellFolder | None = None) -> None:
    """Brings the records of all shards into the cell, in the order of its images, and removes the shards' folders.

    Args:
        cell: held by this process.
        order: the cell's images.
        own: the shard that this process holds.
    """
    records = recorded(cell)
    ordered = {image: records[image] for image in order if image in records} | records
    if cell.extended or list(ordered) != list(cell.records) or any(ordered[i] is not r for i, r in cell.records.items()):
        cell.rewrite(ordered.values())
    busy = set(_running(cell.folder)) - ({own.folder} if own else set())
    for part in _parts(cell.folder):
        if part not in busy:  # who is busy has nothing left to record, and will remove it
            shutil.rmtree(part, ignore_errors=True)
    with suppress(OSError):
        (cell.folder / PARTS).rmdir()


def _parts(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{PARTS}/*-of-*"))


def _running(folder: Path) -> Iterator[Path]:
    """The folders of shards that a process holds."""
    for part in _parts(folder):
        try:
            FileLock(part / ".lock", timeout=0).acquire().lock.release()
        except Timeout:
            yield part


def _refuse(running: Iterator[Path]) -> None:
    part = next(running, None)
    if part is not None:
        raise UserError(f"{part} is being written by {holder(part)}: wait for it, or stop it.")
