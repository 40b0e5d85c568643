"""The forest plot shows the numbers of the paired differences, each on the side that is said to be better."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from experiments.figures.drawing import save, styled
from experiments.figures.forest import forest
from experiments.store.reading import read_results
from experiments.tables.comparisons import compare_columns
from experiments.tables.differences import Difference
from tests.cells import write_cell


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def entry(mean: float | None, low: float | None, high: float | None, n: int = 25, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "ci95": [low, high], "n": n, "p": 0.04, "effect": 0.5, **more}


LINES = [
    Difference("suny", "deletion ↓", False, entry(-0.1, -0.2, 0.05, p_holm=0.08)),
    Difference("rise", "deletion ↓", False, entry(0.3, 0.1, 0.4, p_holm=0.012)),
    Difference("suny", "insertion ↑", True, entry(0.02, 0.01, 0.03)),
    Difference("suny", "entropy", None, entry(0.5, 0.4, 0.6, n=4)),
    Difference("rise", "entropy", None, entry(None, None, None, n=0, p=None)),
]


def drawn(figure: Figure) -> list[dict[str, Any]]:
    """Points and intervals of each panel; the line at 0 comes first."""
    panels = []
    for axis in figure.axes:
        zero, *lines = axis.lines
        assert list(zero.get_xdata()) == [0, 0]
        panels.append({
            "points": {x.get_ydata()[0]: x for x in lines if len(x.get_xdata()) == 1},
            "intervals": {x.get_ydata()[0]: list(x.get_xdata()) for x in lines if len(x.get_xdata()) == 2},
        })  # fmt: skip
    return panels


def test_points_and_intervals_are_the_numbers() -> None:
    figure = forest(LINES, "demo / network", "gradcam")
    assert isinstance(figure, Figure)
    deletion, insertion, entropy = drawn(figure)
    assert {at: x.get_xdata()[0] for at, x in deletion["points"].items()} == {0: -0.1, 1: 0.3}
    assert deletion["intervals"] == {0: [-0.2, 0.05], 1: [0.1, 0.4]}
    assert insertion["intervals"] == {0: [0.01, 0.03]}
    # four images have no interval worth showing, and what was measured nowhere has no point
    assert entropy["intervals"] == {}
    assert list(entropy["points"]) == [0]
    assert [[t.get_text() for t in a.get_yticklabels()] for a in figure.axes] == [["suny", "rise"], ["suny"], ["suny", "rise"]]
    assert figure.axes[0].yaxis_inverted()  # the first line is on top
    assert [a.get_title() for a in figure.axes] == ["← better   deletion ↓", "insertion ↑   better →", "entropy"]
    assert figure.axes[-1].get_xlabel() == "difference to gradcam"
    assert [t.get_text() for t in figure.axes[0].texts] == [
        "-0.100 [-0.200, 0.050]  n 25  p 0.0800",
        "+0.300 [0.100, 0.400]  n 25  p 0.0120",
    ]
    assert figure.axes[2].texts[1].get_text() == "- -  n 0  p -"


def test_what_is_clear_is_filled_and_zero_is_in_the_middle() -> None:
    figure = forest(LINES)
    first = drawn(figure)[0]["points"]
    assert first[0].get_markerfacecolor() == "white"  # p .08 after adjustment, though .04 before it
    assert first[1].get_markerfacecolor() == first[1].get_color()
    assert first[0].get_marker() != first[1].get_marker()
    for axis in figure.axes:
        left, right = axis.get_xlim()
        assert left == -right
    assert figure.axes[0].get_xlim()[1] > 0.4


def test_the_svg_keeps_its_text_and_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with styled():
            save(forest([Difference("a_$x$ <b>", "m", True, entry(0.1, 0.0, 0.2))]), tmp_path / name, ("svg", "png"))
    content = (tmp_path / "one.svg").read_bytes()
    assert content == (tmp_path / "two.svg").read_bytes()
    texts = [e.text for e in ElementTree.fromstring(content).iter("{http://www.w3.org/2000/svg}text")]
    assert "a_$x$ <b>" in texts
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_table_of_statistics_can_be_drawn(tmp_path: Path) -> None:
    values = [0.1, 0.25, 0.31, 0.42, 0.2, 0.55]
    for method, shift in (("gradcam", 0.0), ("suny", 0.1), ("center", 0.2)):
        write_cell(tmp_path, method, {"deletion": [v + shift for v in values]})
    (compared,) = compare_columns(read_results(tmp_path))
    points = drawn(forest(compared.lines(), versus=compared.reference))[0]["points"]
    assert [round(points[at].get_xdata()[0], 9) for at in (0, 1)] == [0.1, 0.2]
