"""transformers' image classifiers, which return objects with ``logits``, are explained as they are."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageClassification, ConvNextConfig, PretrainedConfig, ResNetConfig, ViTConfig

import suny
from experiments.cell.single import classify_file
from experiments.command.configuration import read, register_on_request
from experiments.command.program import composed
from suny.classifiers.layers import find_layers
from suny.images.demo import Demo
from tests.conftest import noise

CONFIGS: dict[str, tuple[PretrainedConfig, str]] = {
    "resnet": (
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", num_labels=4),
        "resnet.encoder.stages.1",
    ),
    "convnext": (
        ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2, num_labels=4, image_size=64),
        "convnext.encoder.stages.1",
    ),
    "vit": (
        ViTConfig(
            hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=64, patch_size=16,
            num_labels=4,
        ),
        "layernorm_before",
    ),
}  # fmt: skip


class Plain(nn.Module):
    """The same network with its logits as a tensor."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.network(pixel_values=x).logits  # type: ignore[no-any-return]


def network(name: str) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return AutoModelForImageClassification.from_config(CONFIGS[name][0]).eval()


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("method", "keys"), [("gradcam", {}), ("suny_filter", {"k": 2}), ("rise", {"masks": 20})])
def test_the_maps_are_those_of_the_logits(name: str, method: str, keys: dict[str, Any]) -> None:
    model, images = network(name), noise(2, 3, 64, 64)
    layer, _ = find_layers(model, images[:1]).default()
    assert layer.endswith(CONFIGS[name][1])
    # tokens are taken as maps where the layer is the default one, for both
    given = {} if name == "vit" else {"target_layer": layer}
    found = suny.explain(model, images, [1, 2], method, progress=False, **given, **keys)
    plain = suny.explain(
        Plain(model), images, [1, 2], method, progress=False, **{k: f"network.{v}" for k, v in given.items()}, **keys
    )
    assert found.target_layer == layer
    torch.testing.assert_close(found.saliency, plain.saliency, rtol=0, atol=0)
    assert float(found.saliency.amax((1, 2)).min()) > 0
    assert (
        suny.explain(model, images, method="gradcam", progress=False).targets.tolist()
        == Plain(model)(images).argmax(1).tolist()
    )


def test_scores_are_of_the_logits() -> None:
    model, images = network("resnet"), noise(1, 3, 64, 64)
    frame = suny.score(model, images, torch.rand(1, 64, 64), ["deletion"], targets=1)
    assert frame["prob"].iloc[0] == pytest.approx(Plain(model)(images).softmax(1)[0, 1].item(), abs=1e-5)


def test_one_is_a_network_of_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "user_transformers.py").write_text(
        "from transformers import AutoModelForImageClassification, ResNetConfig\n\n\n"
        "def make(**keys):\n    return AutoModelForImageClassification.from_config(ResNetConfig(**keys))\n"
    )
    arguments = "{embedding_size:8,hidden_sizes:[8,16],depths:[1,1],layer_type:basic,num_labels:4}"
    keys = ["model=custom", "model.factory=user_transformers:make", f"model.arguments={arguments}", "model.crop=64"]
    register_on_request(keys)
    run = read(composed([*keys, "method=gradcam"]))
    sample = Demo(name="demo").load().samples[0]
    file = classify_file(sample.path, run, "predicted")
    expected = Plain(network("resnet"))(file.pixels[None].cpu()).softmax(1)[0]
    torch.testing.assert_close(file.probabilities.cpu(), expected, rtol=0, atol=1e-5)
    assert file.classifier.target_layer == "resnet.encoder.stages.1"
    assert len(file.classifier.notes) == 1
