"""The full tables on paper: sums by hand, passes by rehearsal."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments import plan
from experiments.command.configuration import register_torchvision
from experiments.command.program import guarded
from experiments.jobs import plan as planning
from experiments.jobs.plan import PlannedCell
from suny.classifiers.engine import Cost

CELLS = [
    PlannedCell("table1", "n", "rise", Cost(4000, 0, 0), 1000, 0),
    PlannedCell("table1", "n", "smoothgrad", Cost(50, 0, 50), 500, 200_000),
    PlannedCell("table1", "n", "cexcnn", Cost(50, 1000, 0), 500, 0),
]


def row(text: str, inside: str) -> list[str]:
    (line,) = (line for line in text.splitlines() if inside in line)
    return [cell.strip() for cell in line.split("|")[1:-1]]


def test_hours_shards_and_bytes() -> None:
    # 4000 + (50 + 2 * 50) + (50 + 1000 / 20) forwards; 100 a second
    table = row(planning.gpu_table(CELLS, {"n": 100.0}, 36_000, 1.0), "n, 3 methods")
    assert table[2:6] == ["4,250", "425", "0.1", "7"]
    assert table[6:] == ["rise: 400 h", "90", "400"]  # 3600 * 100 / 4000 images an hour
    fastest, slowest = planning.file_table(CELLS, {"n": 100.0}, decode=0.01, size=100e3).splitlines()[2:]
    assert [c.strip() for c in fastest.split("|")[2:-1]] == ["table1, cexcnn", "1.00", "0.01", "0.10", "0.5", "1.00"]
    assert "table1, rise" in slowest


def test_passes_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "table1.yaml").write_text(
        "hydra: {sweeper: {params: {model: resnet18, method: 'gradcam,rise'}}}"
    )
    monkeypatch.setattr(planning, "conf_file", lambda group, name: tmp_path / group / f"{name}.yaml")
    register_torchvision(["model=resnet18"])
    cells, flops = planning.count_passes(["table1"], torch.device("cpu"))
    assert flops["resnet18"] == pytest.approx(2 * 1.814e9, rel=0.01)  # torchvision's figure, in multiplications and additions
    metrics = 2 * 28  # 29 points: of deletion without the clean image, of insertion likewise
    assert [(cell.method, cell.cost) for cell in cells] == [
        ("gradcam", Cost(1 + 1 + metrics, 0, 1)),
        ("rise", Cost(1 + 4000 + metrics, 0, 0)),
    ]
    assert all(cell.record > 300 and cell.maps > 1000 for cell in cells)


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("tables=table9", "tables=table9: conf/experiment has no such file"),
        ("throughput=2500", "throughput=2500: give NAME:IMAGES_A_SECOND"),
        ("throughput=resnet50:-1", "throughput=resnet50:-1: give a number above 0 for resnet50"),
        ("images=all", "images=all: give a number above 0"),
    ],
)
def test_mistakes(capsys: pytest.CaptureFixture[str], argument: str, said: str) -> None:
    assert guarded(lambda: plan.main([argument])) == 2
    assert said in capsys.readouterr().err
