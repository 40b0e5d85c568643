"""Paired differences, one type for the tables and the plots that show them."""

from __future__ import annotations

from dataclasses import dataclass

from experiments.tables.text import limits
from metrics.statistics import Entry


@dataclass(frozen=True, eq=False)
class Difference:
    """One metric of two methods on the images that both have: a method minus the one that it is compared with.

    Args:
        label: names the method, or both.
        metric: the column title, with its arrow.
        higher_is_better: of the metric; None where neither direction is better.
        entry: of :func:`metrics.statistics.paired`, with ``p_holm`` where p was adjusted.
    """

    label: str
    metric: str
    higher_is_better: bool | None
    entry: Entry

    @property
    def limits(self) -> tuple[float | None, float | None]:
        """Low and high end of the 95% interval; None where there are too few images for one."""
        return limits(self.entry)

    @property
    def p(self) -> float | None:
        """Wilcoxon's p, adjusted where it was."""
        return self.entry.get("p_holm", self.entry["p"])
