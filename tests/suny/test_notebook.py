"""examples/notebook.ipynb: its outputs are there, its numbers are the command line's, and a fresh kernel gives them again."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.store.reading import Result, read_results
from metrics.statistics import mean_interval
from tests.conftest import ROOT
from tests.notebook import NOTEBOOK, executed, read

METRICS = ["deletion", "insertion", "energy_proportion"]
# what is printed has three decimals
PRINTED = 0.0006


@pytest.fixture(scope="module")
def notebook() -> Any:
    return read()


def code(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell: Any) -> list[str]:
    return [o.text if o.output_type == "stream" else o.data.get("text/plain", "") for o in cell.outputs]


def table(notebook: Any, ending: str) -> pd.DataFrame:
    """The table that the cell whose source ends so shows."""
    (cell,) = (c for c in code(notebook) if c.source.endswith(ending))
    # the name of the index stands in a line of its own
    head, _, *lines = (line.split() for line in texts(cell)[0].splitlines())
    return pd.DataFrame([line[1:] for line in lines], index=[line[0] for line in lines], columns=head)


@pytest.fixture(scope="module")
def cells() -> dict[str, Result]:
    """The committed cells of the demo, by method, with their usual settings."""
    return {r.row: r for r in read_results(Path(ROOT / "results" / "reference" / "demo"))}


def values(cell: Result, name: str, images: list[str]) -> list[float]:
    return [cell.records[i][name] for i in images]


def test_it_is_executed_small_and_of_no_machine(notebook: Any) -> None:
    assert [c.execution_count for c in code(notebook)] == list(range(1, len(code(notebook)) + 1))
    outputs = [o for c in code(notebook) for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"]
    assert sum("image/png" in o.get("data", {}) for o in outputs) == 2
    assert NOTEBOOK.stat().st_size < 600_000
    assert not re.search(r"/(work|root|home|tmp)/", NOTEBOOK.read_text(encoding="utf-8"))
    assert [i for i in range(len(code(notebook))) if "import suny" in code(notebook)[i].source] == [0]


def test_scores_are_those_of_the_command_line(notebook: Any, cells: dict[str, Result]) -> None:
    """Of the committed cells, which run.py made of the same photographs."""
    shown = table(notebook, 'scores[["target", "prob", *metrics]]')
    images = list(shown.index)
    assert sorted(images) == sorted(cells["suny_filter"].records)
    for name in ("target", "prob", *METRICS):
        np.testing.assert_allclose(shown[name].astype(float), values(cells["suny_filter"], name, images), atol=PRINTED)
    means = table(notebook, "suny.summary(scores)")
    for name in METRICS:
        entry = mean_interval(values(cells["suny_filter"], name, images))  # an interval depends on the order of the images
        expected = [entry["mean"], *entry["ci95"], 6]
        np.testing.assert_allclose(means.loc[name, ["mean", "low", "high", "n"]].astype(float), expected, atol=PRINTED)


@pytest.mark.parametrize("other", ["gradcam", "center"])
def test_comparisons_are_those_of_scipy(notebook: Any, cells: dict[str, Result], other: str) -> None:
    shown = table(notebook, f"# suny_filter - {other}")
    images = sorted(cells[other].records)
    for name in METRICS:
        a, b = (np.array(values(cells[row], name, images)) for row in ("suny_filter", other))
        row = shown.loc[name]
        assert float(row["difference"]) == pytest.approx((a - b).mean(), abs=PRINTED)
        moved = (a - b)[np.abs(a - b) > 1e-9]
        assert float(row["p"]) == pytest.approx(stats.wilcoxon(moved, method="exact").pvalue, abs=0.002)
        assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
        assert row["better"] == {"deletion": "lower"}.get(name, "higher")


NUMBER = r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?"


@pytest.mark.slow
def test_a_fresh_kernel_gives_the_same_again(notebook: Any) -> None:
    again = executed(notebook)
    for cell, other in zip(code(notebook), code(again), strict=True):
        assert [o.output_type for o in cell.outputs] == [o.output_type for o in other.outputs], cell.source
        for one, two in zip(texts(cell), texts(other), strict=True):
            assert re.sub(NUMBER + r"|[\s-]+", " ", one).split() == re.sub(NUMBER + r"|[\s-]+", " ", two).split()
            pairs = (tuple(map(float, re.findall(NUMBER, text))) for text in (one, two))
            # another processor adds in another order
            np.testing.assert_allclose(*pairs, rtol=1e-2, atol=2e-3, err_msg=cell.source)
