"""What ``make test-gpu`` measures: its parts on a CPU and on a pretended card, its table, its exit codes; and on a card."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pandas as pd
import pytest
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmark import agreement, bench, error, gpu
from experiments.command.program import EXIT_DEFECT, EXIT_MISTAKE, EXIT_OK, guarded
from suny.classifiers.engine import out_of_memory
from tests.pretended import pretended_card

CARD = torch.cuda.is_available()
QUICK = ["device=cpu", "quick=true", "seconds=0.02"]
FEW = ["center", "gradcam", "suny_filter"]


def run(out: Path, *arguments: str) -> tuple[int, pd.DataFrame]:
    """The command's exit code, and its table by figure."""
    code = guarded(lambda: gpu.main([*arguments, f"out={out}"]))
    return code, pd.read_csv(out.with_suffix(".csv"), keep_default_na=False).set_index("what")


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three methods, and five metrics of one image."""
    monkeypatch.setattr(agreement, "methods", lambda: FEW)
    monkeypatch.setattr(gpu, "methods", lambda: FEW)
    overrides = [o for o in agreement.SUBJECTS[0].overrides if not o.startswith("metrics")]
    monkeypatch.setattr(agreement, "SUBJECTS", [agreement.Subject([*overrides, "metrics=[fast,auroc]"], 1)])


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few passes of the bare network, one method, no compiler, which takes a minute."""
    monkeypatch.setattr(bench, "_BATCHES", 2)
    monkeypatch.setattr(error, "SETTINGS", {"bf16": error.SETTINGS["bf16"]})
    monkeypatch.setattr(error, "METHODS", ("gradcam",))


# without a card


@pytest.mark.skipif(CARD, reason="there is a card")
def test_without_a_card_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([f"out={tmp_path / 'gpu'}"]) == EXIT_OK
    said = capsys.readouterr()
    assert said.out.startswith("no GPU: this PyTorch sees no CUDA device")
    assert len(said.out.splitlines()) == 1
    assert not said.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("part=sped", "part=sped is unknown. Did you mean 'speed'?"),
        ("device=auto", "device=auto: give cuda or cpu"),
        ("seconds=long", "seconds=long: give a number"),
        ("pat=speed", "unknown key pat. Did you mean 'part'?"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], argument: str, said: str) -> None:
    assert guarded(lambda: gpu.main([argument])) == EXIT_MISTAKE
    assert said in capsys.readouterr().err


def test_parts_gather_in_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures of other parts stay where card and code are the same; what fails is told, and costs no other part its figures."""

    def broken(_: gpu.Options) -> Iterator[gpu.Check]:
        yield gpu.Check("net", "before", 1.0, "s")
        raise RuntimeError("CUDA error:\nan illegal memory access")

    parts = {
        "one": lambda _: iter([gpu.Check("net", "a", 0.5, "s", most=0.5, least=0.25), gpu.Check("net", "b", 7.0, "s")]),
        "two": lambda _: iter([gpu.Check("net", "c", 0.5, "s", most=0.4)]),
        "three": lambda _: iter([gpu.Check("net", "d", float("nan"), "s", most=0.4)]),
        "broken": broken,
    }
    monkeypatch.setattr(gpu, "PARTS", parts)
    out = tmp_path / "there" / "gpu"
    assert run(out, "part=one", "device=cpu")[0] == EXIT_OK
    code, table = run(out, "part=two", "device=cpu")
    assert code == EXIT_DEFECT
    assert "| net       | c        | 0.5     | s      | <= 0.4    | no      |" in capsys.readouterr().out
    assert table["ok"].to_dict() == {
        "a": "yes", "b": "", "c": "no", "finished": "yes", "time of this part": "",
    }  # fmt: skip
    assert table["part"].tolist() == ["one"] * 4 + ["two"] * 3
    assert run(out, "part=three", "device=cpu")[0] == EXIT_DEFECT  # not a number holds nothing
    code, table = run(out, "part=broken,one", "device=cpu")
    assert code == EXIT_DEFECT
    assert table["ok"]["finished: RuntimeError: CUDA error: an illegal memory access"] == "no"
    assert {"a", "before", "c", "d"} <= set(table.index)
    assert out.with_suffix(".md").read_text().count("\n## ") == 4
    monkeypatch.setattr(gpu, "machine", lambda _: "another card")
    assert set(run(out, "part=one", "device=cpu")[1]["part"]) == {"one"}


# the parts on a CPU


@pytest.mark.usefixtures("few")
def test_equal(tmp_path: Path) -> None:
    """The CPU beside itself: no difference in float32, and no more in bf16 than bf16 makes there."""
    code, table = run(tmp_path / "gpu", "part=equal", *QUICK)
    assert code == EXIT_OK
    exact = table[table.index.str.endswith("float32")]
    assert set(exact["value"]) == {0.0}
    assert set(table[table["ok"] == "yes"].index) >= {f"map of {name}, {p}" for name in FEW for p in ("float32", "bf16")}
    assert {"deletion, bf16", "auroc, float32"} <= set(table.index)


@pytest.mark.usefixtures("few")
def test_wrong_numbers_are_beyond_what_is_allowed(tmp_path: Path) -> None:
    """Weights that are off by what TensorFloat-32 rounds away, a thousandth, are found in float32; eight bits are in bf16."""

    def differences(off: float) -> dict[tuple[str, str], bool]:
        one = agreement.DeviceComparison(agreement.SUBJECTS[0], torch.device("cpu"), str(tmp_path))
        for engine in one.there.values():
            for at, weight in enumerate(engine.network.parameters()):
                weight.data *= 1 + off * torch.randn(weight.shape, generator=torch.Generator().manual_seed(at))
        found = [*one.compare_methods(["gradcam", "scorecam"], tqdm(disable=True)), *one.compare_metrics(tqdm(disable=True))]
        return {(f.what, f.precision): f.most is None or f.value <= f.most for f in found}

    near, far = differences(1e-3), differences(0.5)
    assert not near["map of gradcam", "float32"]
    assert not near["map of scorecam", "float32"]
    assert near["map of gradcam", "bf16"]
    assert near["deletion", "bf16"]
    assert not far["map of gradcam", "bf16"]
    assert not far["deletion", "float32"]
    assert not far["deletion", "bf16"]


def test_differences_of_maps() -> None:
    true = torch.tensor([[0.0, 4.0], [2.0, 0.0]])
    assert agreement.map_difference("gradcam", [true + 1], [true])[0] == 0.25
    assert agreement.map_difference("gradcam", [true, true + 2], [true, true])[0] == 0.5  # the worst side
    blank = torch.zeros(2, 2)
    assert agreement.map_difference("gradcam", [blank], [blank])[0] == 0
    assert agreement.map_difference("gradcam", [true], [blank])[0] > 1e30
    turned = partial(agreement.map_difference, "smoothgrad_vanilla")
    assert turned([3 * true], [true])[0] == pytest.approx(0, abs=1e-12)
    assert turned([torch.tensor([[0.0, 2.0], [-4.0, 0.0]])], [true])[0] == pytest.approx(1)
    assert turned([blank], [blank])[0] == 0
    assert turned([true], [blank])[0] == 1


def test_numbers_of_metrics() -> None:
    assert agreement.numbers({"a": [1, [2.5]], "b": None, "c": (True,)}) == [1.0, 2.5, 1.0]
    assert agreement.numbers(None) == []


def test_little_memory(tmp_path: Path) -> None:
    code, table = run(tmp_path / "gpu", "part=oom", *QUICK)
    assert code == EXIT_OK
    assert table["value"]["rise: batches, before"] == 64
    assert table["value"]["rise: batches, with little memory"] == 16  # of 20 that a batch has room for
    assert table["value"]["suny_filter: tails per batch, with little memory"] == 14  # from 56, the channels that there are


def test_batches_that_need_no_halving_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_ROOM", 10**6)
    monkeypatch.setattr(gpu, "_GREEDY", {"scorecam": []})
    code, table = run(tmp_path / "gpu", "part=oom", *QUICK)
    assert code == EXIT_DEFECT
    assert table["ok"]["scorecam: batches are halved"] == "no"


@pytest.mark.usefixtures("few")
def test_memory_of_methods(tmp_path: Path) -> None:
    code, table = run(tmp_path / "gpu", "part=memory", *QUICK)
    assert code == EXIT_OK
    assert all(float(table["value"][f"{name}: peak memory, batches of 64"]) > 0.01 for name in FEW)


@pytest.mark.slow
def test_jobs_on_cards(tmp_path: Path) -> None:
    code, table = run(tmp_path / "gpu", "part=joblib", *QUICK)
    assert code == EXIT_OK
    assert table["ok"]["gradcam: records that differ from a run's own"] == "yes"


@pytest.mark.usefixtures("short")
def test_speed_and_error(tmp_path: Path) -> None:
    _, table = run(tmp_path / "gpu", "part=speed,error", *QUICK)  # so small a network is no measure of the goal
    assert table.loc["suny: of the prepared network's throughput", "least"] == "85.0"
    assert float(table.loc["suny: of the prepared network's throughput", "value"]) > 0
    assert table["ok"]["bf16 runs"] == "yes"
    assert table["ok"]["finished"].tolist() == ["yes", "yes"]


# the parts on a pretended card


@pytest.mark.slow
@pytest.mark.usefixtures("few", "short")
def test_parts_on_a_pretended_card(tmp_path: Path) -> None:
    """Everything that asks for CUDA by its name, and all devices."""
    about = SimpleNamespace(total_memory=8 * 2**30, major=9, minor=0)
    shares: list[float] = []
    with (
        pretended_card(),
        mock.patch.dict("suny.classifiers.engine.DEFAULT_BATCH_SIZE", {"cuda": 8}),  # those of a card take long on a CPU
        mock.patch("torch.cuda.get_device_properties", return_value=about),
        mock.patch("torch.cuda.set_per_process_memory_fraction", shares.append),
        mock.patch("torch.cuda.reset_peak_memory_stats"),
        mock.patch("torch.cuda.max_memory_allocated", return_value=3 * 2**30),
        mock.patch("torch.cuda.memory_allocated", return_value=2**30),
        mock.patch("torch.cuda.memory_reserved", return_value=2 * 2**30),
    ):
        _, table = run(tmp_path / "gpu", "part=equal,oom,memory,speed,error", "quick=true", "seconds=0.02")
    assert table["ok"]["finished"].tolist() == ["yes"] * 5
    exact = table[(table["part"] == "equal") & table.index.str.endswith("float32")]
    assert set(exact["value"]) == {0.0}
    assert shares[:2] == [pytest.approx((2 + 0.4 * 2) / 8), 1.0]
    assert table["value"]["gradcam: peak memory, batches of 64"] == 3
    assert table["machine"].iloc[0].startswith("cuda (pretended card), 8 GiB, compute capability 9.0; torch 2")


@pytest.mark.parametrize(
    "said",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported",
    ],
)
def test_what_a_card_says_without_memory(said: str) -> None:
    assert out_of_memory(RuntimeError(said))
    assert not out_of_memory(ValueError(said))
    assert not out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


# on a card


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not CARD, reason="needs a card: this PyTorch sees no CUDA device")
@pytest.mark.parametrize("part", gpu.PARTS)
def test_on_a_card(tmp_path: Path, part: str) -> None:
    code, table = run(tmp_path / "gpu", f"part={part}")
    assert code == EXIT_OK, table[table["ok"] == "no"].to_string()


@pytest.mark.gpu
@pytest.mark.skipif(not CARD, reason="needs a card: this PyTorch sees no CUDA device")
def test_the_pretended_card_refuses_no_more_than_a_card() -> None:
    """What the tests of a pretended card take for granted about CUDA."""
    from tests.house.test_devices import ALLOWED, REFUSED

    def pair() -> tuple[Tensor, Tensor]:
        return torch.randn(3, 3, device="cuda"), torch.randn(3, 3)

    for what, work in ALLOWED.items():
        assert work(*pair()).is_cuda, what
    for what, (expected, _, work) in REFUSED.items():
        if what != "indices of the CPU":  # refused for the time it takes
            with pytest.raises(expected):
                work(*pair())
