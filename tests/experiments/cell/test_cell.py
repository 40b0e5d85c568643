"""A cell of a network without feature maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from experiments.store.records import read_records
from tests.conftest import Cli, only_error

MLP = """
import torch
from torch import nn

from suny.classifiers.classifier import Model, Source, finish
from suny.configured import configured
from suny.images.view import View


@configured
class Mlp(Model):
    def build(self):
        torch.manual_seed(0)
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4), nn.ReLU(), nn.Linear(4, 2))
        return finish(self, Source(network, View(16, 16, "bilinear", (0.5,) * 3, (0.25,) * 3), None))
"""


@pytest.fixture
def given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    (tmp_path / "own_mlp.py").write_text(MLP)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mlp.yaml").write_text("_target_: own_mlp.Mlp\nname: mlp\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "photos").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / "photos" / "a.png")
    own = ("--config-dir", str(tmp_path / "conf"), "model=mlp", "metrics=[deletion,insertion]", "points=3")
    return (*own, "dataset=imagefolder", f"dataset.root={tmp_path / 'photos'}", f"results_dir={tmp_path / 'r'}")


WHOLE = [
    "rise method.masks=8", "occlusion method.window=8 method.stride=8", "center", "random", "edges",
    "suny_region method.k=2", "integrated_gradients method.steps=4", "smoothgrad_vanilla method.samples=2",
]  # fmt: skip


@pytest.mark.parametrize("method", WHOLE)
def test_methods_of_whole_passes_explain_a_network_without_feature_maps(
    cli: Cli, tmp_path: Path, given: tuple[str, ...], method: str
) -> None:
    ended = cli(*given, *f"method={method}".split())
    assert ended.code == 0, ended.err
    (card,) = (tmp_path / "r").glob("*/*/*/card.yaml")
    assert yaml.safe_load(card.read_text())["identity"]["target_layer"] is None
    (record,) = read_records(card.parent)
    assert record["status"] == "ok"
    assert 0 < record["prob"] < 1


@pytest.mark.parametrize("method", ["gradcam", "scorecam", "ablationcam", "suny", "suny_semi", "random_weights", "smoothgrad"])
def test_methods_of_a_layer_refuse_it_before_anything_is_written(
    cli: Cli, tmp_path: Path, given: tuple[str, ...], method: str
) -> None:
    said = only_error(cli(*given, f"method={method}"))
    assert said.startswith(f"method={method} needs a target layer: the network has no layer with a feature map as output")
    assert not list((tmp_path / "r").rglob("card.yaml"))
