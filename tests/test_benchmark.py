"""The benchmark command: its figures are those of the work it times, and sampling gets nearer with more orders."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
import torchvision

from experiments import benchmark
from experiments.cli import guarded

from .conftest import engine_for, noise


def test_the_certificate(tmp_path: Path) -> None:
    text = benchmark.certificate(tmp_path / "error.png", torch.device("cpu"), k=4, photographs=1, seeds=3)
    assert (tmp_path / "error.png").stat().st_size > 1000
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    assert [row[:3] for row in rows[:2]] == [["feature", "plain orders", "4"], ["feature", "plain orders", "8"]]
    assert len(rows) == 2 * 2 * 5
    for start in range(0, 20, 5):  # 64 orders of 4 players are nearer than 4
        assert float(rows[start + 4][4]) < float(rows[start][4])
        assert all(float(row[3]) <= 2**4 for row in rows[start : start + 5])


def test_what_the_library_costs_leaves_the_network_alone() -> None:
    network = torchvision.models.resnet18(weights=None).eval()
    engine = engine_for(network, 64, "layer4")
    costs = benchmark.library_costs(network, "layer4", noise(1, 3, 64, 64), torch.tensor([0]), engine.batch_size)
    assert min(costs) > 0
    assert not any(m._forward_hooks for m in network.modules())


@pytest.mark.parametrize(
    ("argument", "said"),
    [("modles=vgg16", "unknown key modles. Did you mean 'models'?"), ("seconds=0", "seconds=0: give a number above 0")],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], argument: str, said: str) -> None:
    assert guarded(lambda: benchmark.main(["suny", argument])) == 2
    assert said in capsys.readouterr().err


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
