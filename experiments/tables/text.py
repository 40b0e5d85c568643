"""Numbers, intervals and failures in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from tabulate import tabulate

HOLE = "-"

# Fewer images have no interval, and fewer methods no rank correlation, that is worth showing.
FEWEST = 5


class Titled(Protocol):
    """A metric, or another measure."""

    @property
    def label(self) -> str: ...

    @property
    def higher_is_better(self) -> bool | None: ...


def arrow(measure: Titled) -> str:
    """The column title with the measure's own direction."""
    return measure.label if measure.higher_is_better is None else f"{measure.label} {'↑' if measure.higher_is_better else '↓'}"


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many decimals; '-' where there is no value."""
    return HOLE if value is None else f"{value:.{digits}f}"


def p_value(p: float | None) -> str:
    """Four decimals; a p that would be 0 with them is ``< 0.0001``."""
    return "< 0.0001" if p is not None and p < 0.0001 else number(p, 4)


def limits(entry: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """Low and high end of an interval, as everything that shows one takes them; None where fewer than five images say
    nothing of a population's spread."""
    low, high = entry["ci95"] if entry["n"] >= FEWEST else (None, None)
    return low, high


def bounds(entry: Mapping[str, Any], digits: int = 3) -> str:
    """``[low, high]``; '-' where there is no interval to show."""
    low, high = limits(entry)
    return HOLE if low is None else f"[{number(low, digits)}, {number(high, digits)}]"


def interval(entry: Mapping[str, Any], digits: int = 3) -> str:
    """``mean [low, high]``."""
    return f"{number(entry['mean'], digits)} {bounds(entry, digits)}"


def describe_failures(failures: Mapping[str, int], zeros: bool = False) -> str:
    """Counts in words; those of nothing are left out, unless ``zeros``."""
    counts = [f"{count} {name.replace('_', ' ')}" for name, count in failures.items() if count or zeros]
    return ", ".join(counts) or "none"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    return tabulate(list(rows), head, tablefmt="github", disable_numparse=True)
