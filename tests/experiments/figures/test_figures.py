"""Figures: what is drawn is what the records hold, and can be told apart without colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from experiments.command.program import guarded
from experiments.figures import __main__ as command
from experiments.figures import drawing as figures
from experiments.store.reading import read_results
from experiments.tables.ablations import ablation_sweeps
from experiments.tables.columns import blocks
from experiments.tables.comparisons import compare_columns
from metrics.statistics import mean_band
from suny.bivariate import legend
from suny.plots import HEAT, two_sided
from tests.cells import write_cell

RAMP = np.kron(np.linspace(0, 1, 64).reshape(8, 8), np.ones((28, 28)))  # of the size of the network's view
VALUES = np.array([0.1, 0.3, 0.2, 0.4, 0.35, 0.15])


def curve(values: list[float]) -> dict[str, list[float]]:
    return {"value": values, "fraction": [i / (len(values) - 1) for i in range(len(values))]}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    for shift, method in enumerate(("gradcam", "suny", "center")):
        values = (VALUES + shift / 10).tolist()
        curves = [{"deletion": curve([0.8, v, 0.0]), "necessity": curve([0.0, v, 1.0])} for v in values]
        found = {"deletion": values, "necessity": values, "sufficiency": [1 - v for v in values]}
        folder = write_cell(tmp_path, method, found, overrides=["maps=true"], records={"curves": curves})
        for i in range(6):
            (folder / "maps").mkdir(exist_ok=True)
            ramp = RAMP.astype(np.float32)
            sides = {"necessity": ramp, "sufficiency": ramp[::-1]} if method == "suny" else {}
            np.savez_compressed(folder / "maps" / f"image-{i:03d}.npz", saliency=ramp, **sides)
    return tmp_path


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


@pytest.mark.whole
def test_all_figures_are_written(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(results, "suny", {"deletion": VALUES.tolist()}, overrides=["method.k=4"])
    assert guarded(lambda: command.main([f"results_dir={results}"])) == 0
    place = "demo-efficientnet_lite0"
    names = {p.name for p in (results / "figures").iterdir()}
    for name in (f"curves-{place}", f"ns_plane-{place}", f"methods-{place}", "colour_square", f"ablation_k-{place}-suny",
                 f"critical_difference-deletion-{place}"):  # fmt: skip
        assert {f"{name}.pdf", f"{name}.png"} <= names
    content = (results / "figures" / f"curves-{place}.pdf").read_bytes()
    assert content.startswith(b"%PDF")
    assert b"/FontFile2" in content  # the text is text, in an embedded font
    again = {p.name: p.read_bytes() for p in (results / "figures").glob("*.pdf")}
    assert guarded(lambda: command.main([f"results_dir={results}"])) == 0
    assert {p.name: p.read_bytes() for p in (results / "figures").glob("*.pdf")} == again


def test_curves_are_means_with_bands(results: Path) -> None:
    (block,) = blocks(read_results(results), ["deletion", "necessity"])
    figure = figures.curves(block)
    deletion, necessity = figure.axes
    lines = {x.get_label(): x for x in deletion.lines}
    assert set(lines) == {"gradcam", "suny", "center"}
    np.testing.assert_allclose(lines["suny"].get_xydata(), [[0, 0.8], [0.5, VALUES.mean() + 0.1], [1, 0]])
    band = deletion.collections[0].get_paths()[0].vertices
    _, low, high = mean_band(np.array([[v] for v in VALUES]))
    assert band[:, 1].max() == pytest.approx(0.8)
    middle = band[band[:, 0] == 0.5][:, 1]
    np.testing.assert_allclose([middle.min(), middle.max()], [low[0], high[0]])
    assert necessity.get_title() == "necessity, 6 images"
    # the methods' intervals stand beside each other: the ends of the same one, at places of their own
    whiskers = [c.get_segments() for c in deletion.collections if isinstance(c, LineCollection)]
    assert len(whiskers) == 3
    places = [[segment[0, 0] for segment in segments] for segments in whiskers]
    assert np.all(np.diff(np.array(places), axis=0) > 0)
    middle = min(whiskers[0], key=lambda segment: abs(segment[0, 0] - 0.5))
    np.testing.assert_allclose(middle[:, 1], [low[0], high[0]])


def test_the_band_is_the_bootstrap_of_the_mean() -> None:
    values = np.random.default_rng(0).normal(size=(400, 3))
    mean, low, high = mean_band(values)
    half = 1.96 * values.std(0) / 20
    np.testing.assert_allclose(mean, values.mean(0))
    np.testing.assert_allclose(high - mean, half, rtol=0.12)
    np.testing.assert_allclose(mean - low, half, rtol=0.12)
    one = mean_band(np.ones((1, 3)))
    assert all((x == 1).all() for x in one)


def test_the_plane_has_a_point_an_image(results: Path) -> None:
    (block,) = blocks(read_results(results), ["necessity", "sufficiency"])
    first = figures.plane(block).axes[0]
    assert first.get_title() == f"gradcam: S {1 - VALUES.mean():.2f}, N {VALUES.mean():.2f}, n {len(VALUES)}"
    everything, own = first.collections
    assert len(everything.get_offsets()) == 18
    np.testing.assert_allclose(own.get_offsets(), np.stack([1 - VALUES, VALUES], 1))


def test_the_method_grid_without_photographs(results: Path) -> None:
    """The data set has changed: its photographs are not those of the cells, and are not shown."""
    (block,) = blocks(read_results(results), ["deletion"])
    figure = figures.grid(figures._with_maps(block), None, rows=2)
    assert "the data set has changed" in figure.get_suptitle()
    assert [a.get_title() for a in figure.axes[:4]] == ["", "gradcam", "suny", "center"]
    assert all(len(a.images) == 1 for a in figure.axes)
    both = figure.axes[2].images[0].get_array()
    grey = np.full((*RAMP.shape, 3), 0.5)
    np.testing.assert_allclose(both, two_sided(grey, RAMP, RAMP[::-1]), atol=1e-6)


def test_an_ablation_with_intervals(results: Path) -> None:
    write_cell(results, "suny", {"deletion": VALUES.tolist()}, overrides=["method.k=4"])
    (sweep,) = [s for s in ablation_sweeps(read_results(results)) if s.ablation.name == "k"]
    (axis,) = figures.ablation(sweep).axes
    assert [t.get_text() for t in axis.get_xticklabels()] == ["4", "8"]
    line = next(x for x in axis.lines if x.get_label() == "suny")
    np.testing.assert_allclose(line.get_ydata(), [VALUES.mean(), VALUES.mean() + 0.1])
    bars = axis.collections[0].get_segments()
    for label, bar in zip(("4", "8"), bars, strict=True):
        entry = sweep.curves["deletion"].entry(label)
        assert entry is not None
        np.testing.assert_allclose(bar[:, 1], entry["ci95"])


def test_bars_join_what_is_closer_than_the_critical_difference(results: Path) -> None:
    assert figures._cliques(np.array([1.0, 1.5, 3.0, 3.2]), 1.0) == [(0, 1), (2, 3)]
    assert figures._cliques(np.array([1.0, 1.5, 2.2, 3.0]), 1.0) == [(0, 1), (1, 2), (2, 3)]
    assert figures._cliques(np.array([1.0, 1.5, 2.0]), 1.0) == [(0, 2)]
    assert figures._cliques(np.array([1.0, 3.0, 5.0]), 1.0) == []
    found = next(c for c in compare_columns(read_results(results)) if c.column.measure.name == "deletion")
    texts = [t.get_text() for t in figures.critical_difference(found).axes[0].texts]
    # the same order on all six images; Nemenyi's 2.343 * sqrt(3 * 4 / 36)
    assert {"gradcam 1.00 ", "suny 2.00 ", " 3.00 center", "critical difference 1.35"} <= set(texts)


def test_lines_differ_without_colours() -> None:
    rows = [f"method {i}" for i in range(28)]
    looks = figures.styles(rows)
    assert len({(x["marker"], str(x["linestyle"])) for x in looks.values()}) == 28
    neighbours = [looks[r]["color"] for r in rows[: len(figures.COLOURS)]]
    assert len(set(neighbours)) == len(figures.COLOURS)


# of linear RGB, as people without one of the three kinds of cones see it: Machado, Oliveira, Fernandes, IEEE TVCG 2009
BLINDNESS = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def seen(colours: tuple[str, ...], kind: str) -> np.ndarray:
    """CIE Lab of colours as somebody with this colour vision sees them."""
    rgb = np.array([to_rgb(c) for c in colours])
    linear = (np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ np.array(BLINDNESS[kind]).T).clip(0, 1)
    return rgb2lab(np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055))


def closest(colours: tuple[str, ...], kind: str) -> float:
    """Smallest CIEDE2000 difference of two of the colours."""
    lab = seen(colours, kind)
    return float(deltaE_ciede2000(lab[:, None], lab[None])[np.triu_indices(len(lab), 1)].min())


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_differ_for_colour_blind_readers(kind: str) -> None:
    assert closest(figures.COLOURS, kind) > 10
    usual = tuple(plt.rcParams["axes.prop_cycle"].by_key()["color"][: len(figures.COLOURS)])
    assert closest(usual, "protanopia") < 2  # the check would see it


def test_maps_read_in_grey() -> None:
    heat = plt.get_cmap(HEAT)(np.linspace(0, 1, 64))[:, :3]
    assert (np.diff(rgb2lab(heat)[:, 0]) > 0).all()
    square = rgb2lab(legend())[..., 0]
    assert (np.diff(square, axis=1) > 0).all()  # more sufficiency is lighter
    assert (np.diff(square, axis=0) < 0).all()  # more necessity, upwards, too


@pytest.mark.parametrize("given", ["images=many", "strips=-1"])
def test_mistakes(results: Path, capsys: pytest.CaptureFixture[str], given: str) -> None:
    assert guarded(lambda: command.main([f"results_dir={results}", given])) == 2
    assert "give a number of images" in capsys.readouterr().err
