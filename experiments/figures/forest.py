"""The forest plot: paired differences with their intervals, a panel for each metric and a line for each method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt

from experiments.figures.drawing import styles
from experiments.tables.columns import LEVEL
from experiments.tables.differences import Difference
from experiments.tables.text import HOLE, bounds, p_value
from suny.plots import drawable

# Inches: of a line, of what stands around the lines of a panel, and of the title.
_LINE, _AROUND, _TITLE = 0.2, 0.5, 0.35


def forest(differences: Sequence[Difference], title: str = "", versus: str = "") -> Any:
    """A matplotlib figure of paired differences: point and 95% interval beside a line at 0.

    Each metric has a panel with a scale of its own, and an arrow says in which direction the method is better. A filled
    marker has p < .05 (adjusted, where p was). To the right of each line stand its numbers.

    Args:
        differences: in the order of the panels and of their lines; at least one.
        title: above the figure.
        versus: what the methods are compared with, for the axes' labels.
    """
    panels: dict[str, list[Difference]] = {}
    for difference in differences:
        panels.setdefault(difference.metric, []).append(difference)
    looks = styles(list(dict.fromkeys(d.label for d in differences)))
    heights = [_AROUND + _LINE * len(lines) for lines in panels.values()]
    figure, axes = plt.subplots(
        len(panels), 1, figsize=(6.4, sum(heights) + _TITLE), height_ratios=heights, layout="constrained", squeeze=False
    )
    for axis, (metric, lines) in zip(axes[:, 0], panels.items(), strict=True):
        _panel(axis, metric, lines, looks)
    axes[-1, 0].set_xlabel(f"difference to {drawable(versus)}" if versus else "difference", parse_math=False)
    figure.suptitle(drawable(title), fontsize=8, parse_math=False)
    return figure


def _panel(axis: Any, metric: str, lines: Sequence[Difference], looks: dict[str, dict[str, Any]]) -> None:
    places = range(len(lines))
    axis.axvline(0, color="0.4", linewidth=0.8)
    reach = 0.0
    for at, line in zip(places, lines, strict=True):
        mean, (low, high) = line.entry["mean"], line.limits
        _numbers(axis, at, line)
        if mean is None:
            continue
        look = looks[line.label]
        clear = line.p is not None and line.p < LEVEL
        if low is not None and high is not None:
            axis.plot([low, high], [at, at], color=look["color"], linewidth=1.2, solid_capstyle="butt")
        axis.plot(
            mean, at, color=look["color"], marker=look["marker"], markersize=5, linestyle="none", zorder=3,
            markerfacecolor=look["color"] if clear else "white",
        )  # fmt: skip
        reach = max([reach, *(abs(v) for v in (mean, low, high) if v is not None)])
    # zero in the middle, so that the length of a line to either side can be compared by eye
    axis.set_xlim(-1.1 * (reach or 1.0), 1.1 * (reach or 1.0))
    axis.set_ylim(len(lines) - 0.5, -0.5)
    axis.set_yticks(places, [drawable(line.label) for line in lines], parse_math=False)
    axis.grid(False, axis="y")
    axis.locator_params(axis="x", nbins=5)
    before, after = {True: ("", "   better →"), False: ("← better   ", ""), None: ("", "")}[lines[0].higher_is_better]
    axis.set_title(f"{before}{drawable(metric)}{after}", parse_math=False)


def _numbers(axis: Any, at: int, line: Difference) -> None:
    """The numbers of a line, to its right."""
    entry = line.entry
    mean = HOLE if entry["mean"] is None else f"{entry['mean']:+.3f}"
    text = f"{mean} {bounds(entry)}  n {entry['n']}  p {p_value(line.p)}"
    axis.text(1.02, at, text, transform=axis.get_yaxis_transform(), va="center", fontsize=7)
