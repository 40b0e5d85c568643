"""How the computation of a cell, or of a shard of it, ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class FinishedCell:
    """A cell that has everything that was asked for.

    Args:
        folder: the cell's folder.
        columns: for each metric that was asked for, the key of its column.
        notes: what has to be known of its numbers, and is said beside them.
    """

    folder: Path
    columns: Mapping[str, str]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class CellProgress:
    """A cell in which one shard is complete and others are not.

    Args:
        folder: the cell's folder.
        done: its images that are recorded.
        count: all of its images.
    """

    folder: Path
    done: int
    count: int

    def __str__(self) -> str:
        return f"{self.done} of {self.count} images are recorded: {self.folder}"
