"""The benchmark command: its figures are those of the work it times, and sampling gets nearer with more orders."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from tqdm import tqdm

import suny
from experiments.benchmark import __main__ as benchmark
from experiments.benchmark import error, memory, python, scale, threads
from experiments.benchmark.bands import Tiles, coverage, draw, settled
from experiments.benchmark.certificate import certificate
from experiments.benchmark.common import as_loaded, explainer, network, photograph
from experiments.benchmark.library import intervention_costs
from experiments.benchmark.start import ANSWERS
from experiments.command.configuration import CONF
from experiments.command.program import guarded
from experiments.jobs.machine import forget_peak
from suny.classifiers.engine import Engine
from suny.images import filecache
from suny.images.causal_shapes import CausalShapes
from suny.images.decode import decode
from suny.images.demo import Demo
from suny.images.geometry import Box
from suny.images.ilsvrc2012 import Ilsvrc2012
from suny.method.field import FieldExplainer
from tests.conftest import engine_for, noise


@pytest.mark.slow
def test_the_certificate(tmp_path: Path) -> None:
    text = certificate(tmp_path / "error.png", torch.device("cpu"), k=4, photographs=1, seeds=3)
    assert (tmp_path / "error.png").stat().st_size > 1000
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert [row[:3] for row in rows[:2]] == [["feature", "plain orders", "4"], ["feature", "plain orders", "8"]]
    assert len(rows) == 2 * 2 * 5
    for start in range(0, 20, 5):  # 64 orders of 4 players are nearer than 4
        assert float(rows[start + 4][4]) < float(rows[start][4])
        assert all(float(row[3]) <= 2**4 for row in rows[start : start + 5])


@pytest.mark.slow
def test_the_bands_cover_what_they_say(tmp_path: Path) -> None:
    """On images of known causes, whose network is small: of ten times the budget and other coalitions."""
    data = CausalShapes(name="causal_shapes", root=str(tmp_path / "shapes"), count=10).load()
    classifier = network("causal_cnn")
    engine = Engine.of(classifier)
    images = [classifier.view(decode(sample.path).image) for sample in data.samples]
    targets = [int(engine.logits(image[None]).argmax()) for image in images]
    explainer = FieldExplainer(coalitions=64, fill="zero")
    tiles = settled(explainer, engine, [(x, c, at) for at, (x, c) in enumerate(zip(images, targets, strict=True))])
    assert [one.value.shape for one in tiles] == [(2, 28 * 28)] * 10
    for row in coverage(tiles, 64):
        assert 0.9 <= row.coverage <= 0.99, row
    draw(tiles, tmp_path / "bands.png")
    assert (tmp_path / "bands.png").stat().st_size > 1000


def test_the_coverage_is_counted_over_all_tiles() -> None:
    """Errors of 1, so that the band reaches to 1.96: of the necessity's four tiles three are inside."""
    error = np.ones((2, 2))
    one = Tiles(np.array([[0.0, 2.0], [4.0, 1.0]]), error, np.array([[1.9, 4.1], [4.0, 1.0]]))
    other = Tiles(np.zeros((2, 2)) + 1, error, np.array([[1.0, -0.9], [2.9, 1.0]]))
    n, s = coverage([one, other], 8)
    assert (n.coverage, s.coverage) == (0.75, 1.0)
    assert (n.images, n.tiles, n.coalitions) == (2, 4, 8)
    # the half width over the largest value: 1.96 / 2 and 1.96 / 1; 1.96 / 4 and 1.96 / 1
    assert (n.band, s.band) == (pytest.approx(0.75 * 1.95996, rel=1e-4), pytest.approx(0.625 * 1.95996, rel=1e-4))


def test_what_the_library_costs_leaves_the_network_alone() -> None:
    network = torchvision.models.resnet18(weights=None).eval()
    engine = engine_for(network, 64, "layer4")
    costs = intervention_costs(network, "layer4", noise(1, 3, 64, 64), torch.tensor([0]), engine.batch_size)
    assert min(costs) > 0
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("modles=vgg16", "unknown key modles. Did you mean 'models'?"),
        ("seconds=0", "seconds=0: give a number above 0"),
        ("batch_size=many", "batch_size=many: give a number above 0"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], argument: str, said: str) -> None:
    assert guarded(lambda: benchmark.main(["suny", argument])) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_ratios(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.csv"
    assert benchmark.main(["models=causal_cnn", "seconds=0.02", "quick=true", f"out={out}"]) == 0
    figures = pd.read_csv(out)[["what", "value"]].to_records(index=False).tolist()
    found = dict(figures)
    # not one time, but one result: the same areas, the same maps
    assert found["  largest difference of the four areas"] < 1e-4
    maps = [value for what, value in figures if "difference of the maps" in what]
    assert len(maps) == 2
    assert max(maps) < 1e-3
    assert sum("growth from" in what for what, _ in figures) == 6  # k, channels as masks and off, points, size, images
    for name in ("suny", "rise", "scorecam", "occlusion", "deletion and insertion, 225 points"):
        assert found[f"{name}: of the prepared network's throughput"] > 0
    for name in ("suny", "gradcam", "deletion and insertion"):
        parts = [found[f"{name}: {where}"] for where in ("in the network", "making its inputs", "elsewhere")]
        assert sum(parts) == pytest.approx(100)
        assert min(parts) >= 0
    assert "| causal_cnn |" in capsys.readouterr().out


def test_the_network_as_loaded_gives_its_last_map_a_name() -> None:
    """The map that is explained, and the class probabilities, are those of the prepared network."""
    classifier = network("efficientnet_lite0")
    engine = Engine.of(classifier)
    image, _ = photograph(classifier, engine)
    loaded, layer = as_loaded(classifier, torch.device("cpu"))
    seen: list[torch.Tensor] = []
    loaded.get_submodule(layer).register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    with torch.inference_mode():
        torch.testing.assert_close(loaded(image).softmax(1), engine.probabilities(image), rtol=0, atol=1e-5)
    torch.testing.assert_close(seen[0], engine.activations(image)[0], rtol=0, atol=1e-3)
    assert float(seen[0].max()) > 1


@pytest.mark.whole
def test_every_method_has_its_peak_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(memory.methods()) == {p.stem for p in (CONF / "method").glob("*.yaml")}
    device = torch.device("cpu")

    def peak(batch_size: int) -> float:
        forget_peak(device)  # of other tests
        return memory.peak("causal_cnn", "rise", batch_size, device)

    smaller, larger = peak(1), peak(4000)
    assert larger - smaller > 4000 * 24 * 32 * 32 * 4 / 2  # the first layer's output of all images at once, 390 MB


@pytest.mark.whole
def test_the_error_of_bfloat16(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(error, "SETTINGS", {"bf16": error.SETTINGS["bf16"]})  # compiling takes a minute
    monkeypatch.setattr(error, "METHODS", ("gradcam",))
    out = tmp_path / "figures.csv"
    assert benchmark.main(["error", "models=causal_cnn", "seconds=0.02", "quick=true", f"out={out}"]) == 0
    table = pd.read_csv(out)
    exact = table[table["what"] == "gradcam, deletion: float32"]["value"].item()
    at = table.index[table["what"] == "gradcam, deletion: float32"][0]
    assert table["what"][at + 1] == "  bf16: error of the mean"
    assert 0 < exact < 1
    assert 0 < table["value"][at + 1] < 0.1  # eight bits of a mantissa
    assert table["value"][at + 1] <= table["value"][at + 2]  # no mean is further off than the worst image


def test_what_starts_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: what a start reads is counted all the same."""
    monkeypatch.setattr(filecache, "SETTLED", 0.0)
    monkeypatch.setattr(scale, "SETTLED", 0.0)
    monkeypatch.setattr(scale, "_started", lambda root, caches, count: [scale.start(root, caches) for _ in range(count)])
    decode(Demo(name="demo").load().samples[0].path)  # Pillow reads its own files with its first picture
    with tqdm(total=scale.STEPS, file=io.StringIO()) as progress:
        found = {f.what: f.value for f in scale.figures(20, 2, progress)}
        assert progress.n == scale.STEPS
    scale.make(tmp_path, 20)
    images = Ilsvrc2012(name="ilsvrc2012", root=str(tmp_path)).load()
    assert {(s.label, s.boxes) for s in images.samples} == {(i, (Box(5, 6, 50, 40),)) for i in range(1, 21)}
    if Path("/proc/self/io").exists():
        files = sum(path.stat().st_size for path in tmp_path.rglob("*.*")) / 1e6
        assert files < found["first start: read"] == pytest.approx(found["caches=null: read"], rel=1e-3)
        assert found["second start: read"] < found["first start: read"] - files * 0.9
        assert found["64 shards, second start, 64 times that of one: read"] == pytest.approx(64 * found["second start: read"])
        assert found["2 processes at once, second start: read"] == pytest.approx(2 * found["second start: read"], rel=0.1)


@pytest.mark.slow
def test_starts_of_other_processes(tmp_path: Path) -> None:
    out = tmp_path / "figures.csv"
    assert benchmark.main(["scale", "images=20", "together=2", f"out={out}"]) == 0
    assert len(pd.read_csv(out)) == 3 * scale.STEPS + 2


@pytest.mark.slow
def test_the_start(tmp_path: Path) -> None:
    out = tmp_path / "figures.csv"
    assert benchmark.main(["start", "quick=true", f"out={out}"]) == 0
    table = pd.read_csv(out)
    seconds = table[table["unit"] == "s"].set_index("what")["value"]
    ratios = table[table["unit"] == "times"]["value"].tolist()  # of one round: those of its seconds
    said = [seconds[what] / seconds["import torch"] for what in ANSWERS]
    needed = seconds["import torch, torchvision"] + seconds["the network's preparation"]
    assert ratios == pytest.approx([*said, seconds["first image"] / needed])
    assert (seconds > 0).all()


@pytest.mark.slow
def test_the_python_interface(tmp_path: Path) -> None:
    out = tmp_path / "figures.csv"
    assert benchmark.main(["python", "models=causal_cnn", "quick=true", f"out={out}"]) == 0
    table = pd.read_csv(out)
    differ = table[table["unit"] == "-"]["value"]
    assert len(differ) == len(python.METHODS)
    assert differ.max() < 1e-5
    assert (table[table["unit"] != "-"]["value"] > 0).all()
    ratios = table[table["unit"] == "times"]
    assert len(ratios) == 2 * len(python.METHODS)
    seconds = table[table["unit"] == "s"].set_index("what")["value"]
    prepared = sum(seconds[f"first call: {part}"] for part in python.PARTS[2:5])
    assert seconds["preparing the network, all three"] == pytest.approx(prepared)


def test_explain_and_the_engine_do_the_same_work() -> None:
    """What is timed are the same maps from the same passes."""
    classifier = network("causal_cnn")
    engine = Engine.of(classifier)
    image, target = photograph(classifier, engine)
    settings = {"method": "suny", **python.METHODS["suny"]}
    before = engine.cost
    own = explainer("method=suny", *(f"method.{k}={v}" for k, v in python.METHODS["suny"].items()))
    maps = own.explain(engine, image, target, [0]).saliency
    found = suny.explain(classifier.network, image, target, target_layer=classifier.target_layer, **settings)
    assert found.cost == engine.cost - before
    torch.testing.assert_close(found.saliency, maps)


@pytest.mark.slow
def test_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "figures.csv"
    arguments = ["suny", "models=efficientnet_lite0", "seconds=0.1", f"out={out}", "certificate="]
    assert benchmark.main(arguments) == 0
    table = pd.read_csv(out).set_index("what")["value"]
    assert table["suny (feature, exact, k = 8): forwards"] == 753
    assert table["suny_filter (exact, k = 8): passes of the tail"] > 1280 * 2
    assert (table > 0).all()
    assert "| efficientnet_lite0 |" in capsys.readouterr().out


def test_busy_loops_end_with_the_block_and_with_their_parent() -> None:
    ended = []

    def stopped() -> None:
        with threads.busy(2) as running:
            for pid in running:
                os.kill(pid, 0)  # they are there
            ended.extend(running)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert len(ended) == 2
    for pid in ended:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    program = (
        "import os, subprocess, sys\n"
        f"subprocess.Popen([sys.executable, '-c', {threads._LOOP!r}, str(os.getpid())])\n"
        "os.kill(os.getpid(), 9)"
    )
    # this comes back once the pipe is at its end, and the loop has the pipe too
    killed = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, check=False, timeout=300)
    assert killed.returncode == -9


def test_outside_the_network_every_batch_is_built_and_some_run() -> None:
    classifier = network("causal_cnn")
    sparing, engine = threads._SparingEngine.of(classifier, "cpu", batch_size=2), Engine.of(classifier, batch_size=2)
    image, target = photograph(classifier, engine)
    built: list[slice] = []

    def build(part: slice) -> torch.Tensor:
        built.append(part)
        return image.expand(part.stop - part.start, -1, -1, -1)

    before = sparing.cost
    found = sparing.score(2 * threads._EVERY + 2, build, int(target))
    torch.testing.assert_close(found, engine.score(len(found), build, int(target)))  # of one image they are all the same
    assert len(built) == 2 * (threads._EVERY + 1)
    assert (sparing.cost - before).forwards == 2 * 2  # the first batch and the last
    assert sparing.spent["in the network"] > 0


@pytest.mark.slow
def test_the_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "works", lambda: ["gradcam", "statistics"])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    out = tmp_path / "figures.csv"
    assert benchmark.main(["threads", "models=causal_cnn", "seconds=0.02", f"out={out}"]) == 0
    table = pd.read_csv(out).set_index("what")
    assert list(table.index) == ["gradcam", "statistics"]
    assert (table[["seconds", "all_threads", "busy", "all_threads_busy"]] > 0).all(axis=None)
    assert os.environ["OMP_NUM_THREADS"] == "1"  # the processes were started without it
