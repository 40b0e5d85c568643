"""Keeps what was derived from files (sizes, annotations, the digest of a list), so that a second start reads none of them.

    <caches>/files-<hash of the data set's folder>.<what>.jsonl      one line a batch: CRC-32 [[name, state, value], ...]

**When an entry holds.** A value is kept under the path of its file, the kind and version of what was derived, and the file's
state: size, mtime and ctime in nanoseconds. A file in another state is read anew. The ctime is there because archives and
copies set the mtime, also to the same one for other content; nobody sets the ctime. A file that changed less than
:data:`SETTLED` seconds before it was read is not kept, nor one whose state changed while it was read: clocks of file systems
tick, and such a file could change again in the same tick.

**Many writers.** A batch is one ``write()`` at the end of the file. A line whose checksum is wrong (torn by a crash, or mixed
with another writer's on a network file system, where appending is not atomic) is ignored, and what it said is derived again;
where many lines are wrong the file is replaced by one without them. Whoever lacks an entry takes a lock first, so that of many
processes that start at once one reads the images and the others wait. Where locks do not work, each reads for itself.

A cache fails nobody: where it cannot be read or written, everything is derived from the files, which takes longer.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from filelock import FileLock, Timeout

P = TypeVar("P", str, Path)

# seconds for which a changed file is not kept: the coarsest clock of a file system in use ticks every two (FAT)
SETTLED = 2.0

# seconds for which a process waits for another one that derives the same, before it does so itself
PATIENCE = 600.0

# seconds between two looks at the lock, each of which asks the file server
_POLL = 0.25

# entries of one line
_BATCH = 500

# a file is replaced when more than this share of it is damaged, or when it has this many entries for each name: those of
# earlier states, or the same ones from processes that could not lock
_DAMAGED, _ENTRIES = 0.1, 16


@dataclass(frozen=True)
class FileCache:
    """The cache of one data set.

    Args:
        folder: of all caches; None: nothing is kept.
        place: the folder of the data set, or its name where it has none.
        writes: False: what is there is used, nothing is added.
    """

    folder: Path | None = None
    place: str = ""
    writes: bool = True

    def open(self, what: str) -> Store:
        """The entries of a sort, as a context: they are in memory until it is left."""
        if self.folder is None:
            return Store(None)
        digest = hashlib.sha256(os.path.abspath(self.place).encode("utf-8", "surrogatepass")).hexdigest()
        return Store(self.folder / f"files-{digest[:16]}.{what}.jsonl", self.writes)


class Store:
    """One file of entries; use :meth:`FileCache.open`."""

    def __init__(self, path: Path | None, writes: bool = True) -> None:
        self._path, self._writes = path, writes
        self._lock: FileLock | None = None
        self._waited = False
        self._new: list[tuple[str, str, Any]] = []
        self._forget()

    def __enter__(self) -> Store:
        self._catch_up()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._append()
            self._tidy()
        finally:
            self._forget()
            if self._lock is not None:
                with suppress(OSError):
                    self._lock.release()

    def derived(self, path: P, kind: str, derive: Callable[[P], Any]) -> Any:
        """What is derived from the content of a file.

        Args:
            path: the file.
            kind: of what is derived, with a number that is raised whenever another value would be derived from the same file.
            derive: makes it from the file, as JSON has it (lists, no tuples). What it raises is raised, and not kept.
        """
        return self.kept(f"{kind} {absolute(path)}", [path], lambda: (derive(path), True))

    def kept(self, name: str, paths: Sequence[str | Path], derive: Callable[[], tuple[Any, bool]]) -> Any:
        """What is derived from the content of several files.

        Args:
            name: of the value: its kind, and all that it depends on beside the files' content.
            paths: the files, in a fixed order. One that does not exist is a state too; of one alone nothing is kept then.
            derive: the value, and whether it is one for good.
        """
        state = None if self._path is None else _state(paths)
        if state is None:
            return derive()[0]
        if state.text not in self._known.get(name, ()):
            self._wait()
        known = self._known.setdefault(name, {})
        if state.text not in known:
            start = time.time_ns()
            value, good = derive()
            if not good or state.changed > start - SETTLED * 1e9 or _state(paths) != state:
                return value
            known[state.text] = value
            self._new.append((name, state.text, value))
            if len(self._new) >= _BATCH:
                self._append()
        return known[state.text]

    def _wait(self) -> None:
        """Once: waits until nobody else is filling the file, and reads what was added."""
        if self._waited or not self._writes or self._path is None:
            return
        self._waited = True
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(f"{self._path}.lock")
            lock.acquire(timeout=PATIENCE, poll_interval=_POLL)
            self._lock = lock
        except (Timeout, OSError, NotImplementedError):  # a writer that hangs, a folder that is not ours, no locks here
            pass
        self._catch_up()

    def _forget(self) -> None:
        """As if nothing had been read."""
        self._known: dict[str, dict[str, Any]] = {}
        self._inode, self._end, self._damaged, self._entries = 0, 0, 0, 0

    def _catch_up(self) -> None:
        """Reads what was added to the file."""
        if self._path is None:
            return
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._end:  # another file under this name
                    self._forget()
                    self._inode = found.st_ino
                file.seek(self._end)
                content = file.read()
        except OSError:
            return
        whole = content[: content.rfind(b"\n") + 1]  # the rest is still being written, or will be ended by the next writer
        self._end += len(whole)
        for line in whole.split(b"\n"):
            entries = _parsed(line) if line else []
            if entries is None:
                self._damaged += len(line)
                continue
            self._entries += len(entries)
            for name, state, value in entries:
                self._known.setdefault(name, {})[state] = value

    def _append(self) -> None:
        """Adds what is new at the end of the file."""
        new, self._new = self._new, []
        if not new or not self._writes or self._path is None:
            return
        try:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                # a line begins with an end of line: what was torn before it stays a line of its own
                os.write(file, b"\n" + _line(new))
            finally:
                os.close(file)
        except OSError:
            self._writes = False

    def _tidy(self) -> None:
        """Replaces the file where much of it is of no use; only with the lock, so that nobody's lines are lost."""
        if self._path is None or not self._writes:
            return
        many = self._entries > _ENTRIES * (len(self._known) + _BATCH)
        if not many and self._damaged <= _DAMAGED * self._end:
            return
        try:
            if self._lock is None:
                lock = FileLock(f"{self._path}.lock")
                lock.acquire(timeout=0)
                self._lock = lock
            self._catch_up()
            entries = [
                (name, state, value)
                for name, states in self._known.items()
                for state, value in (list(states.items())[-1:] if many else states.items())
            ]
            temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            temporary.write_bytes(b"".join(_line(entries[i : i + _BATCH]) for i in range(0, len(entries), _BATCH)))
            os.replace(temporary, self._path)
        except (Timeout, OSError, NotImplementedError):
            pass


@dataclass(frozen=True)
class _State:
    """Of files: their sizes and times as text, and when the last one changed, nanoseconds."""

    text: str
    changed: int


def absolute(path: str | Path) -> str:
    """The name of a file from the root."""
    return str(path) if os.path.isabs(path) else os.path.abspath(path)


def _state(paths: Sequence[str | Path]) -> _State | None:
    """The state of files; None where it is not known, or where there is none of them."""
    texts, changed = [], -1
    for path in paths:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            texts.append("-")
            continue
        except (OSError, ValueError):
            return None
        texts.append(f"{found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}")
        changed = max(changed, found.st_mtime_ns, found.st_ctime_ns)
    if changed < 0:
        return None
    return _State(texts[0] if len(texts) == 1 else hashlib.sha256("\n".join(texts).encode()).hexdigest(), changed)


def _line(entries: Sequence[tuple[str, str, Any]]) -> bytes:
    text = json.dumps(entries, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _parsed(line: bytes) -> list[tuple[str, str, Any]] | None:
    """The entries of a line; None where it is damaged."""
    checksum, _, text = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(text):
        return None
    try:
        entries = json.loads(text)
        good = all(isinstance(name, str) and isinstance(state, str) for name, state, _ in entries)
    except (ValueError, TypeError, RecursionError):
        return None
    return entries if good else None
