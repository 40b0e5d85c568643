"""What a run would cost: passes as the run counts them, times as a clock set by hand gives them, nothing written."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from baselines.rise import Rise
from experiments.command import configuration as config
from experiments.command.program import composed
from experiments.jobs.estimate import Estimate, estimates_text
from experiments.jobs.machine import process_age
from experiments.store.records import read_records
from metrics.base import Case
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Engine
from tests.conftest import Cli, SmallNet, noise, only_error, small_birds

SHAPES = ("dataset=causal_shapes", "dataset.count=6", "dataset.size=64")


def engines() -> tuple[Engine, Rehearsal]:
    network = SmallNet().eval()
    settings = {"network": network, "target_layer": "relu", "size": (16, 16), "batch_size": 4}
    return Engine(**settings), Rehearsal(**settings)  # type: ignore[arg-type]


METHODS = [
    "gradcam", "smoothgrad", "smoothgrad_vanilla", "integrated_gradients", "occlusion", "rise", "scorecam", "scorecam_softmax",
    "ablationcam", "cexcnn", "groupcam", "eigencam", "center", "random_weights", "suny", "suny_filter", "suny_groups",
    "suny_region",
]  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
def test_passes_are_those_of_the_run(method: str) -> None:
    small = {
        "rise": ["method.masks=30"], "occlusion": ["method.window=4", "method.stride=2"], "suny": ["method.k=3"],
        "groupcam": ["method.groups=3"], "suny_groups": ["method.k=3"], "suny_region": ["method.k=3", "method.orders=6"],
    }.get(method, [])  # fmt: skip
    run = config.read(
        composed([f"method={method}", "metrics=[deletion,insertion,necessity,saliency_attack]", "points=9", *small])
    )
    real, rehearsal = engines()
    rehearsal.limit = 0.0  # one run of a kind
    image, target = noise(1, 3, 16, 16), torch.tensor([1])
    for engine in (real, rehearsal, rehearsal):  # the second image finds everything known
        if engine is rehearsal:
            engine.begin()
        before = engine.cost
        saliency = run.explainer.explain(engine, image, target, [0]).saliency[0]
        for metric in run.metrics.values():
            metric.measure(Case(engine, image[0], 1, saliency))
        cost = engine.cost - before
        if engine is real:
            expected = cost
        assert cost == expected


class Clock:
    """A clock that only the network moves: .01 s for every image that passes, .5 s more for the very first one."""

    def __init__(self, engine: Engine) -> None:
        self.now, self.runs = 0.0, 0
        engine.network.register_forward_pre_hook(lambda _, inputs: self.tick(len(inputs[0])))

    def tick(self, images: int) -> None:
        self.now += 0.01 * images + (0.5 if not self.runs else 0.0)
        self.runs += 1

    def __call__(self) -> float:
        return self.now


def test_time_of_what_was_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rehearsal = engines()
    clock = Clock(rehearsal)
    monkeypatch.setattr(time, "perf_counter", clock)
    rehearsal.sample = 0.1
    rehearsal.begin()
    Rise(masks=400).explain(rehearsal, noise(1, 3, 16, 16), torch.tensor([1]), [0])
    # a warm-up of 4 images, then .1 s are three batches more
    assert clock.runs == 4
    assert clock.now == pytest.approx(0.5 + 16 * 0.01)
    assert rehearsal.skipped == pytest.approx(384 * 0.01)
    rehearsal.begin()
    Rise(masks=400).explain(rehearsal, noise(1, 3, 16, 16), torch.tensor([1]), [0])
    assert clock.runs == 4
    assert rehearsal.skipped == pytest.approx(400 * 0.01)
    rehearsal.forget()
    rehearsal.begin()
    Rise(masks=8).explain(rehearsal, noise(1, 3, 16, 16), torch.tensor([1]), [0])
    assert (clock.runs, rehearsal.skipped) == (6, 0.0)


def records_of(results: Path) -> list[dict[str, float]]:
    (card,) = (c for c in results.glob("**/card.yaml"))
    return read_records(card.parent)


@pytest.fixture
def passing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time passes with the network's passes alone: a busy machine is no slower."""
    now = [0.0]
    counted = Engine._count

    def count(self: Engine, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        counted(self, module, inputs)
        now[0] += 0.002 + 0.001 * len(inputs[0])

    monkeypatch.setattr(Engine, "_count", count)
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])


@pytest.mark.usefixtures("passing")
def test_a_dry_run_counts_what_the_run_counts_and_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    arguments = (*SHAPES, f"dataset.root={tmp_path / 'data'}", "method=scorecam", "metrics=fast", "points=5")
    results = tmp_path / "results"
    dry = cli(*arguments, f"results_dir={results}", "dry_run=true")
    assert dry.code == 0, dry.err
    assert not results.exists()
    assert cli(*arguments, f"results_dir={results}").code == 0
    (row,) = (line for line in dry.out.splitlines() if "causal_shapes/causal_cnn/scorecam" in line)
    cells = [c.strip() for c in row.split("|")[1:-1]]
    assert cells[1] == "6 of 6"
    tried = [r["forwards"] for at, r in enumerate(records_of(results)) if at in (0, 2, 4)]  # spread over the list
    assert cells[2] == f"{sum(tried) / 3:,.0f}"
    assert "dry run: nothing was computed or written" in dry.out


def test_what_is_done_is_not_counted_again(cli: Cli, tmp_path: Path) -> None:
    arguments = (*SHAPES, f"dataset.root={tmp_path / 'data'}", "method=center", "metrics=[deletion]", "points=5",
                 f"results_dir={tmp_path / 'r'}")  # fmt: skip
    assert cli(*arguments).code == 0
    (card,) = (tmp_path / "r").glob("**/card.yaml")
    whole = (card.parent / "records.jsonl").read_bytes().splitlines(keepends=True)
    (card.parent / "records.jsonl").write_bytes(b"".join(whole[:2]))
    before = {p: p.stat().st_mtime_ns for p in card.parent.iterdir()}
    assert "| 4 of 6 " in cli(*arguments, "dry_run=true").out
    assert {p: p.stat().st_mtime_ns for p in card.parent.iterdir()} == before
    assert "| 6 of 6 " in cli(*arguments, "maps=true", "dry_run=true").out  # the two maps are missing too
    (card.parent / "records.jsonl").write_bytes(b"".join(whole))
    finished = cli(*arguments, "dry_run=true")
    assert finished.code == 0
    assert "| 0 of 6 " in finished.out


def test_a_sweep_is_summed(cli: Cli, tmp_path: Path) -> None:
    ended = cli("-m", *SHAPES, f"dataset.root={tmp_path / 'data'}", "method=center,random", "metrics=[deletion]", "points=5",
                f"results_dir={tmp_path / 'r'}", "dry_run=true")  # fmt: skip
    assert ended.code == 0, ended.err
    assert "causal_shapes/causal_cnn/center" in ended.out
    assert "causal_shapes/causal_cnn/random" in ended.out
    # classification, and four of the five points of the curve: the first one is the clean image
    assert f"; {2 * 6 * (1 + 4)} forwards;" in ended.out
    assert not (tmp_path / "r").exists()


def test_images_that_would_be_generated_are_not_left_behind(cli: Cli, tmp_path: Path) -> None:
    ended = cli(*SHAPES, "method=center", "metrics=[auroc]", f"results_dir={tmp_path / 'r'}", "dry_run=true")
    assert ended.code == 0, ended.err
    assert "| 6 of 6 " in ended.out
    assert not (tmp_path / "r").exists()


def test_mistakes_are_told_as_in_a_run(cli: Cli, tmp_path: Path) -> None:
    said_ = only_error(cli("dataset=ilsvrc2012", f"dataset.root={tmp_path / 'none'}", "dry_run=true"))
    assert "is not a folder" in said_
    assert "did you mean" in only_error(cli("dry_runn=true")).lower()


def test_the_sum_of_estimates() -> None:
    one = Estimate(Path("a"), "d/n/m", 50_000, 40_000, 753.0, 0.0, 1.0, 2.0, (1.8, 2.5), 100.0, 2**30, 4e7, "cuda")
    other = dataclasses.replace(one, left=0, images=10, forwards=0.0, seconds=0.0, drift=(0.0, 0.0), fixed=20.0)
    text = estimates_text([one, other], beginning=5.0, tried=3)
    assert one.total == 100 + 80_000
    assert one.bounds == (100 + 72_000, 100 + 100_000)
    assert f"total: {80_125 / 3600:.0f} h (20 h to 28 h) one cell after the other, {80_125 / 3600:.3g} GPU-hours" in text
    assert "30,120,000 forwards" in text
    assert "1,800" in text.splitlines()[2]  # images an hour
    assert "0 of 10" in text.splitlines()[3]


def test_memory_and_age() -> None:
    # in a process of its own: where the peak can't be forgotten, this one's may be higher than what is asked for here
    program = """
import torch
from experiments.jobs.machine import forget_peak, held_memory, peak_memory
device = torch.device("cpu")
forget_peak(device)
before = peak_memory(device)
block = torch.ones(2**26)  # 256 MiB
assert peak_memory(device) - before >= 2**27
assert held_memory(device) >= block.nbytes
del block
assert peak_memory(device) >= held_memory(device)
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert 0 < process_age() < 86400 or not os.path.exists("/proc/self/stat")


@pytest.mark.usefixtures("passing")
@pytest.mark.parametrize("method", ["suny", "rise", "gradcam"])
def test_the_estimate_is_within_a_quarter_of_the_run(cli: Cli, tmp_path: Path, method: str) -> None:
    arguments = (*SHAPES, f"dataset.root={tmp_path / 'data'}", f"results_dir={tmp_path / 'r'}", "points=25", f"method={method}")
    arguments += {"suny": ("method.k=5",), "rise": ("method.masks=500",)}.get(method, ())
    dry = cli(*arguments, "dry_run=true")
    row = next(line for line in dry.out.splitlines() if f"causal_shapes/causal_cnn/{method}" in line)
    estimated = float(row.split("|")[5])
    assert cli(*arguments).code == 0
    taken = [r["seconds"] for r in records_of(tmp_path / "r")]
    assert estimated == pytest.approx(sum(taken) / len(taken), rel=0.25)


def test_a_dry_run_needs_no_weights(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Random ones take as long; what has to be fetched is said, once for all cells of the network."""

    def fetched(*_: object, **__: object) -> None:
        raise AssertionError("a dry run downloads nothing")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fetched)
    arguments = ("-m", "model=squeezenet1_1", "method=center,random", "metrics=[deletion]", "points=3", "dataset.limit=1")
    ended = cli(*arguments, f"results_dir={tmp_path / 'r'}", "dry_run=true")
    assert ended.code == 0, ended.err
    assert "demo/squeezenet1_1/random" in ended.out
    weights = torchvision.models.SqueezeNet1_1_Weights.DEFAULT
    file = weights.url.rsplit("/", 1)[1]
    said_ = f"note: a run fetches the weights of squeezenet1_1 first: {file} (5 MB) from {weights.url}"
    assert ended.out.splitlines().count(said_) == 1
    assert not (tmp_path / "r").exists()
    refused = only_error(cli(*arguments[1:2], "method=center", "model.num_classes=7", "dry_run=true"))
    assert refused.startswith("model.num_classes=7: the published weights of squeezenet1_1 have 1000 classes")


def test_a_network_of_other_classes_is_said_beside_the_table_and_in_a_dry_run(cli: Cli, tmp_path: Path) -> None:
    birds = small_birds(tmp_path)
    arguments = ("dataset=cub", f"dataset.root={birds}", "metrics=[deletion]", "points=3", "dataset.limit=1",
                 f"results_dir={tmp_path / 'r'}")  # fmt: skip
    note = (
        "note: cub has 200 classes, efficientnet_lite0 has 1000 outputs: the wrong-class count means nothing unless the "
        f"network was trained on these classes (python -m experiments.train dataset=cub dataset.root={birds} "
        "model=efficientnet_lite0 trains one)"
    )
    for given in (("method=center",), ("-m", "method=center,random")):
        for dry in ((), ("dry_run=true",)):
            ended = cli(*given, *arguments, *dry)
            assert ended.code == 0, ended.err
            assert ended.out.splitlines().count(note) == 1, (given, dry, ended.out)
