"""Statistics beside the tables: every method against the best baseline, and all of them by their ranks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from experiments.store.reading import BASELINE, CONTROL, Result, numbers
from experiments.tables.columns import Block, Column, blocks
from experiments.tables.differences import Difference
from experiments.tables.render import as_csv
from experiments.tables.specs import SPECS
from experiments.tables.text import bounds, limits, number, p_value, table
from metrics.statistics import Entry, rank_comparison

# every measure with a direction that says how good a map is
MEASURES = tuple(dict.fromkeys(m for spec in SPECS if spec.name != "cost" for m in spec.measures))


@dataclass(frozen=True, eq=False)
class Comparison:
    """One column of a block.

    Args:
        block, column: which.
        reference: the best baseline; without one the best control, or the best of all.
        differences: each other method minus the reference, in the column's order of means.
        ranks: of the methods that all have a number, by Friedman and Nemenyi; None for fewer than three or two images.
    """

    block: Block
    column: Column
    reference: str
    differences: dict[str, Entry]
    ranked: list[str]
    ranks: Entry | None

    def lines(self) -> list[Difference]:
        """The differences as a plot or a table of paired differences takes them."""
        measure = self.column.measure
        return [Difference(row, self.column.title, measure.higher_is_better, e) for row, e in self.differences.items()]


def compare_columns(results: Sequence[Result]) -> list[Comparison]:
    """Every column with a direction and two methods or more."""
    comparisons = []
    for block in blocks(results, MEASURES):
        for column in block.columns:
            if column.measure.higher_is_better is None or len(column.ranked) < 2:
                continue
            family = {row: column.cells[row].family for row in column.ranked}
            reference = next(
                (row for kind in (BASELINE, CONTROL) for row in column.ranked if family[row] == kind), column.ranked[0]
            )
            differences = column.against(reference, [row for row in column.ranked if row != reference])
            if differences:
                comparisons.append(Comparison(block, column, reference, differences, list(column.ranked), _ranks(column)))
    return comparisons


def _ranks(column: Column) -> Entry | None:
    values = numbers([column.cells[row] for row in column.ranked], column.measure.name)
    if values is None or len(values) < 3 or len(values[0]) < 2:
        return None
    return rank_comparison(np.array(values).T, bool(column.measure.higher_is_better))


def markdown(comparisons: Sequence[Comparison]) -> str:
    parts = [
        "# Statistics",
        "Methods compared on the images that both have. Difference: method - reference, mean [95% bootstrap interval over "
        "images]; p: Wilcoxon's signed ranks, two-sided, and adjusted over the methods (Holm); effect: rank-biserial "
        "correlation, from -1 (smaller on every image) to 1. The reference is the best baseline; where there is none, the best "
        "control. "
        "Average ranks: 1 is best; those further apart than the critical difference differ (Nemenyi, .05).",
    ]
    for block in dict.fromkeys(c.block for c in comparisons):
        parts.append(f"## {block.title}")
        for c in (c for c in comparisons if c.block is block):
            parts.append(f"### {c.column.title}: difference to {c.reference}")
            average = dict(zip(c.ranked, c.ranks["ranks"], strict=True)) if c.ranks else {}
            rows = [
                [
                    row, f"{e['mean']:+.3f}", bounds(e), e["n"], p_value(e["p"]), p_value(e["p_holm"]),
                    f"{e['effect']:+.2f}", number(average.get(row), 2),
                ]
                for row, e in c.differences.items()
            ]  # fmt: skip
            head = ["method", "difference", "95% interval", "n", "p", "p (Holm)", "effect", "average rank"]
            parts.append(table(head, rows))
            if c.ranks:
                parts.append(
                    f"Average rank of {c.reference}: {average[c.reference]:.2f}. Critical difference "
                    f"{c.ranks['critical_difference']:.2f}; Friedman's chi-square {c.ranks['chi2']:.1f}, "
                    f"p {p_value(c.ranks['p'])}, {c.ranks['n']} images."
                )
    return "\n\n".join(parts) + "\n"


def tidy(comparisons: Sequence[Comparison]) -> str:
    head = (
        "dataset", "model", "apart", "measure", "column", "method", "reference", "difference", "low", "high", "n", "p",
        "p_holm", "effect", "average_rank", "critical_difference", "friedman_p",
    )  # fmt: skip
    lines = []
    for c in comparisons:
        apart = "; ".join(f"{k}={v}" for k, v in c.block.apart.items())
        start = [c.block.dataset, c.block.model, apart, c.column.measure.name, c.column.title]
        for at, row in enumerate(c.ranked):
            e = c.differences.get(row)
            if e is None and row != c.reference:
                continue
            test = [e["mean"], *limits(e), e["n"], e["p"], e["p_holm"], e["effect"]] if e else [""] * 7
            ranks = [c.ranks["ranks"][at], c.ranks["critical_difference"], c.ranks["p"]] if c.ranks else [""] * 3
            lines.append([*start, row, c.reference, *test, *ranks])
    return as_csv(head, lines)
