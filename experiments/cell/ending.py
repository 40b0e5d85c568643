"""How the computation of a cell, or of a shard of it, ends."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FinishedCell:
    """A cell that is complete, with the columns that were asked for: ``summary["metrics"]`` has these under their names."""

    folder: Path
    dataset: str
    model: str
    method: str
    summary: dict[str, Any]
    records: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class CellProgress:
    """A cell of which a shard is complete, and others are not: so many of its images are recorded."""

    folder: Path
    done: int
    count: int

    def __str__(self) -> str:
        return f"{self.done} of {self.count} images are recorded: {self.folder}"
