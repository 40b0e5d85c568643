"""Shows work under way: lines, and one bar.

A job of a sweep that runs in another process, perhaps on another machine, shows neither: it writes how far it is to a small
file, which the process that waits for all jobs reads and draws as one bar; its lines are handed over with its result.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Seconds between two reports of a job, and between two readings of all reports.
_EVERY = 2.0


@dataclass
class Job:
    """A job that this process runs for another one, which shows how far it is.

    Args:
        report: the file for the number of images that are done.
        lines: those for the user, handed over with the result.
    """

    report: Path
    lines: list[str] = field(default_factory=list)


_job: Job | None = None

# Where in a sweep the cell stands that is computed now.
_place = ""


def set_place(text: str) -> None:
    """What the next bars say before the name of their cell."""
    global _place
    _place = text


def enter(report: Path | None) -> None:
    """Notes that this process runs a job for another one, which reads the report; None: no longer."""
    global _job
    _job = None if report is None else Job(report)


def current_job() -> Job | None:
    return _job


# How many jobs of this command were told each note.
_noted: Counter[str] = Counter()


def forget_notes() -> None:
    """A new command: nothing was told yet."""
    _noted.clear()


def note(text: str) -> None:
    """Tells the user what is to be known of a job's cell, once, where several jobs of a command share it, and counts them."""
    _noted[text] += 1
    if _noted[text] == 1 or _job is not None:
        tell(f"note: {text}")


def count_notes(lines: Iterable[str]) -> None:
    """Counts the notes among the lines of a job in another process, which are told with its ending."""
    _noted.update({line.removeprefix("note: ") for line in lines if line.startswith("note: ")})


def shared_notes() -> Mapping[str, int]:
    """The notes that several jobs share, and how many."""
    return {text: jobs for text, jobs in _noted.items() if jobs > 1}


def tell(text: str) -> None:
    """Shows the user a line beside the results, without tearing a progress bar."""
    if _job is not None:
        _job.lines.append(text)
    tqdm.write(text, file=sys.stderr)


class ProgressBar:
    """Shows how many images are done: as a bar, or, in a job, in its report.

    Args:
        title: the name of the cell.
        done: images that were done before.
        total: all images.
    """

    def __init__(self, title: str, done: int, total: int) -> None:
        self._state = [done, done, total]
        name = ", ".join(filter(None, [_place, title]))
        hidden = {} if _job is None else {"disable": True}
        self._bar: Any = tqdm(total=total, initial=done, desc=name, unit="img", smoothing=0, **hidden)
        self._reported = 0.0
        self._report()

    def update(self) -> None:
        self._state[1] += 1
        self._bar.update()
        self._report()

    def close(self) -> None:
        self._reported = 0.0
        self._report()
        self._bar.close()

    def _report(self) -> None:
        if _job is None or time.monotonic() - self._reported < _EVERY:
            return
        self._reported = time.monotonic()
        with suppress(OSError):  # the process that waits may have gone
            _job.report.write_text(" ".join(map(str, self._state)), encoding="ascii")


class JobsBar:
    """One bar over the images of several jobs elsewhere, with an estimate of the end.

    Args:
        reports: the file of each job.
    """

    def __init__(self, reports: Sequence[Path]) -> None:
        self._reports = reports
        self._known: dict[int, list[int]] = {}
        self._ended: set[int] = set()
        self._read = 0.0
        self._bar: Any = None

    def end(self, place: int) -> None:
        self._read_report(place)
        self._ended.add(place)
        self._draw()

    def refresh(self) -> None:
        # a thousand files should not be read every second
        if time.monotonic() - self._read > max(_EVERY, len(self._reports) / 50):
            for place in set(range(len(self._reports))) - self._ended:
                self._read_report(place)
            self._read = time.monotonic()
            self._draw()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def _read_report(self, place: int) -> None:
        try:
            began, done, total = map(int, self._reports[place].read_text(encoding="ascii").split())
        except (OSError, ValueError):  # the job has not begun, or writes its report at this moment
            return
        self._known[place] = [began, done, total]

    def _draw(self) -> None:
        """Jobs that have not begun count as large as the others are on average."""
        if self._bar is None:  # made late: perhaps no job ever begins
            self._bar = tqdm(total=0, unit="img", smoothing=0)
        began, done, total = (sum(state[i] for state in self._known.values()) for i in range(3))
        unknown = len(self._reports) - len(self._ended | self._known.keys())
        self._bar.initial, self._bar.n = began, done
        self._bar.total = total + round(unknown * total / max(len(self._known), 1))
        self._bar.set_description_str(f"{len(self._ended)} of {len(self._reports)} jobs ended")
