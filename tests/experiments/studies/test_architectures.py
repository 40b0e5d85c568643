"""Networks side by side: orders, flips and shares of cells that are made by hand."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest

from experiments.store.reading import read_results
from experiments.studies.architectures import FILES, build, crossings
from experiments.studies.crossed import COMPONENTS, variance_components
from tests.cells import write_cell
from tests.experiments.tables.test_tables import rows

METHODS = ("gradcam", "gradcampp", "groupcam", "cexcnn", "center", "random")
IMAGES = np.linspace(-0.1, 0.1, 8)
FIRST = np.array([0.60, 0.55, 0.50, 0.45, 0.30, 0.20])
# the first two the other way round, all others lower
SECOND = np.array([0.45, 0.50, 0.40, 0.35, 0.20, 0.10])


def scores(means: np.ndarray, slope: float = 1.0) -> np.ndarray:
    """(images, methods): the same differences between methods on every image, but for a trace of noise."""
    noise = np.random.default_rng(0).normal(size=(8, 6)) * 1e-3
    return means + slope * IMAGES[:, None] + noise


def write(root: Path, model: str, values: np.ndarray, **keys: object) -> None:
    for method, column in zip(METHODS, values.T, strict=True):
        write_cell(root, method, {"overall": column.tolist()}, (f"model={model}",), **keys)  # type: ignore[arg-type]


@pytest.fixture
def two(tmp_path: Path) -> Path:
    write(tmp_path, "efficientnet_lite0", scores(FIRST))
    write(tmp_path, "squeezenet1_1_pypi", scores(SECOND, 0.5))
    return tmp_path


def test_orders_flips_and_shares_by_hand(two: Path) -> None:
    text = build(read_results(two))["architectures.md"]
    # of 15 pairs of methods one is the other way round: tau = (14 - 1) / 15
    assert rows(text)[1][:4] == ["overall ↑", "efficientnet_lite0 / squeezenet1_1", "6", "8"]
    assert rows(text)[1][4].startswith("0.867 [")
    assert rows(text)[1][5:] == ["15", "1"]
    flip = next(r for r in rows(text) if "gradcampp" in r)
    assert flip[3:5] == ["gradcam", "gradcampp"]
    assert flip[5].startswith("+0.05")
    assert flip[6].startswith("-0.05")
    (shares,) = [r for r in rows(text) if r[1] == "6 (all)"]
    expected = variance_components(np.stack([scores(FIRST), scores(SECOND, 0.5)])).shares
    assert [float(x.split()[0]) for x in shares[4:]] == pytest.approx([expected[c].value for c in COMPONENTS], abs=0.005)
    (others,) = [r for r in rows(text) if r[1] == "4 (without controls)"]
    assert others[3] == "8"


def test_the_file_of_numbers(two: Path) -> None:
    lines = list(csv.DictReader(io.StringIO(build(read_results(two))["architectures.csv"])))
    (tau,) = [x for x in lines if x["what"] == "tau"]
    assert float(tau["value"]) == pytest.approx(13 / 15, abs=1e-6)
    assert (tau["networks"], tau["n"], tau["methods"]) == ("efficientnet_lite0 / squeezenet1_1", "8", "6")
    flipped = [x for x in lines if (x["first"], x["second"]) == ("gradcam", "gradcampp")]
    assert [np.sign(float(x["value"])) for x in flipped] == [1, -1]
    shares = [float(x["value"]) for x in lines if x["what"].startswith("share of") and x["methods"] == "6"]
    assert sum(shares) == pytest.approx(1.0, abs=1e-5)


def test_only_images_that_all_cells_have_count(two: Path) -> None:
    names = [f"image-{i:03d}" for i in range(6)]
    for folder in two.glob("*/*/random-*"):
        lines = (folder / "records.jsonl").read_text().splitlines()
        (folder / "records.jsonl").write_text("".join(f"{x}\n" for x in lines if any(n in x for n in names)))
    (found,) = crossings(read_results(two))
    assert found.images == 6


def test_too_few_say_nothing(tmp_path: Path) -> None:
    write(tmp_path / "a", "efficientnet_lite0", scores(FIRST)[:4])
    write(tmp_path / "a", "squeezenet1_1_pypi", scores(SECOND)[:4])
    text = build(read_results(tmp_path / "a"))["architectures.md"]
    assert rows(text)[1][4:] == ["0.867 -", "0", "0"]
    assert "Nowhere, as far as" in text
    assert "variance of a score come from" not in text
    # four methods have no order
    for model in ("efficientnet_lite0", "squeezenet1_1_pypi"):
        for method, column in zip(METHODS[:4], scores(FIRST).T, strict=False):
            write_cell(tmp_path / "b", method, {"overall": column.tolist()}, (f"model={model}",))
    assert build(read_results(tmp_path / "b")) == {}


def test_one_network_or_other_images_or_points_stand_alone(tmp_path: Path) -> None:
    write(tmp_path, "efficientnet_lite0", scores(FIRST))
    assert build(read_results(tmp_path)) == {}
    write(tmp_path, "squeezenet1_1_pypi", scores(SECOND), changes={"images": {"count": 8, "sha256": "f" * 64}})
    assert build(read_results(tmp_path)) == {}
    for method, column in zip(METHODS, scores(SECOND).T, strict=True):
        write_cell(tmp_path, method, {"overall": column.tolist()}, ("model=resnet50", "points=225"))
    assert build(read_results(tmp_path)) == {}
    assert set(FILES) == {"architectures.md", "architectures.csv"}


def test_a_lower_score_is_better_where_the_measure_says_so(tmp_path: Path) -> None:
    for model, means in (("efficientnet_lite0", FIRST), ("squeezenet1_1_pypi", SECOND)):
        for method, column in zip(METHODS, scores(means).T, strict=True):
            write_cell(tmp_path, method, {"deletion": column.tolist()}, (f"model={model}",))
    (found,) = crossings(read_results(tmp_path))
    (both,) = found.pairs.values()
    assert both.rows == list(METHODS)[::-1]
    (flip,) = both.flips
    assert flip[:2] == ("gradcampp", "gradcam")  # the better on the first network is the lower one
