"""Estimates of what cells would cost, and their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.tables.text import table


@dataclass(frozen=True)
class Estimate:
    """The cost of what is left of a cell.

    Args:
        folder: the cell's.
        title: data set, model and method.
        images: the number of images of the cell.
        left: the number of images that are to be computed.
        forwards, tail_forwards, backwards: passes per image, the mean over the images that were tried.
        seconds: seconds per image.
        drift: the range of ``seconds``.
        fixed: seconds that do not depend on the number of images: lists, network, summary.
        memory: the peak of the GPU's tensors, or of the process, bytes.
        disk: bytes that will be written.
        device: ``cpu`` or ``cuda``.
        threads: threads of the CPU that the network uses.
        notes: what the user should know before the cell is started, one line each.
    """

    folder: Path
    title: str
    images: int
    left: int
    forwards: float
    tail_forwards: float
    backwards: float
    seconds: float
    drift: tuple[float, float]
    fixed: float
    memory: float
    disk: float
    device: str
    threads: int = 1
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """The seconds that the cell takes."""
        return self.fixed + self.left * self.seconds

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of ``total``."""
        low, high = self.drift
        return self.fixed + self.left * low, self.fixed + self.left * high


def estimates_text(estimates: Sequence[Estimate], beginning: float, tried: int) -> str:
    """The estimates as a table, and their total.

    Args:
        estimates: those of one command's cells.
        beginning: seconds that the program itself takes to start.
        tried: the largest number of images per cell that were tried.
    """
    rows = [
        [
            e.title,
            f"{e.left} of {e.images}",
            f"{e.forwards:,.0f}" + (f" + {e.tail_forwards:,.0f} of the tail" if e.tail_forwards else ""),
            f"{e.backwards:,.0f}",
            f"{e.seconds:.3g}",
            f"{3600 / e.seconds:,.0f}" if e.seconds else "-",
            _duration(e.total),
            f"{_duration(e.bounds[0])} to {_duration(e.bounds[1])}",
            _bytes(e.memory),
            _bytes(e.disk),
        ]
        for e in estimates
    ]
    head = [
        "cell",
        "images left",
        "forwards/image",
        "backwards/image",
        "s/image",
        "images/h",
        "time",
        "range",
        "memory",
        "disk",
    ]
    total, low, high = (beginning + sum(x) for x in zip(*((e.total, *e.bounds) for e in estimates), strict=True))
    passes = sum(e.left * e.forwards for e in estimates)
    cuda = estimates[0].device == "cuda"
    threads = estimates[0].threads
    hours = f"{total / 3600:.3g} GPU-hours" if cuda else f"{total * threads / 3600:.3g} CPU-hours ({threads} threads)"
    notes = "".join(f"note: {note}\n" for note in dict.fromkeys(note for e in estimates for note in e.notes))
    return (
        f"{table(head, rows)}\n\n{notes}"
        f"total: {_duration(total)} ({_duration(low)} to {_duration(high)}) one cell after the other, {hours}; "
        f"{passes:,.0f} forwards; peak memory {_bytes(max(e.memory for e in estimates))}; "
        f"disk {_bytes(sum(e.disk for e in estimates))}\n"
        f"dry run: nothing was computed or written; estimated from up to {tried} images per cell on this machine"
    )


def _duration(seconds: float) -> str:
    for limit, unit, text in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {text}"
    return f"{seconds / 86400:.1f} days"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
