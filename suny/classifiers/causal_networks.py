"""Networks whose causes are known, for the generated images of :mod:`suny.images.causal_shapes`.

:class:`CausalAnalytic` is written down by hand for the world ``colours``: each channel of its target layer sees one hue, so
that it is known what every channel does, and the value of every coalition of channels can be enumerated.

:class:`CausalCnn` is trained (``python -m experiments.train_causal``), also on images from which shapes have been taken:
its class follows the rules, whatever is removed.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from suny.classifiers.checkpoint import load_state, read_state
from suny.classifiers.classifier import Classifier, Model, Source, finish
from suny.configured import configured
from suny.errors import UserError
from suny.images.scenes import WORLDS, World, WorldName
from suny.images.view import View

SIDE = 64
VIEW = View(resize=SIDE, crop=SIDE, interpolation="bilinear", mean=(0.5,) * 3, std=(0.25,) * 3)


@configured
class CausalCnn(Model):
    """The trained network of a world; other keys as in :class:`~suny.classifiers.classifier.Model`.

    Args:
        world: whose rules it knows: ``main`` or ``dev``.
    """

    world: WorldName = "main"

    def build(self) -> Classifier:
        file = self.checkpoint or str(Path(__file__).with_name(f"causal_cnn_{self.world}.safetensors"))
        trained = self.weights == "pretrained" or self.checkpoint is not None
        if trained and not self.checkpoint and not Path(file).is_file():
            raise UserError(
                f"model '{self.name}' knows no world '{self.world}': use dataset.world=main or dev, or model=causal_analytic "
                "for colours."
            )
        network = causal_cnn(len(WORLDS[self.world].classes), self.seed)
        if trained:
            state, notes = read_state(file, network)
            load_state(network, state, file, "causal_cnn")
        built = replace(finish(self, Source(network, VIEW, "features")), notes=notes if trained else ())
        return _named(built, WORLDS[self.world])


@configured
class CausalAnalytic(Model):
    """The network of the world ``colours``, its weights set by hand; there are no others.

    Args:
        world: has to be ``colours``.
    """

    world: WorldName = "colours"

    def build(self) -> Classifier:
        if self.world != "colours":
            raise UserError(f"model '{self.name}' sees hues only: use dataset.world=colours, not {self.world}.")
        if self.weights != "pretrained" or self.checkpoint is not None:
            raise UserError(f"model '{self.name}' has no weights but its own: leave model.weights and model.checkpoint alone.")
        return _named(finish(self, Source(causal_analytic(), VIEW, "maps")), WORLDS["colours"])


def _named(built: Classifier, world: World) -> Classifier:
    return Classifier(**{**vars(built), "class_names": world.classes, "label_space": "own"})


def causal_cnn(classes: int, seed: int) -> nn.Sequential:
    """Four convolutions to 56 maps of 8 x 8, their maxima, two linear layers; about 63,000 parameters.

    The last maps see 33 pixels, more than any shape has. Whether a shape is there is a maximum, not a mean: with average
    pooling the network learns the rules less well.
    """

    def block(inputs: int, outputs: int, kernel: int, stride: int) -> list[nn.Module]:
        convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        blocks = [*block(3, 24, 5, 2), *block(24, 40, 3, 2), *block(40, 56, 3, 2), *block(56, 56, 3, 1)]
        network = nn.Sequential()
        network.add_module("features", nn.Sequential(*blocks))
        network.add_module("pool", nn.AdaptiveMaxPool2d(1))
        network.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(56, 64), nn.ReLU(), nn.Linear(64, classes)))
    return network


# Channels of the analytic network: a hue each, in the order of the world's kinds; then a second one for the cause of the
# rule "one" (redundant: either will do), and one that never responds.
HUES = "abcdefghpqx"
REDUNDANT = len(HUES)
DEAD = len(HUES) + 1
CHANNELS = len(HUES) + 2

# A hue's cone is 15 degrees to each side of it, half the distance between two hues; shapes jitter by 6. Contrast and
# threshold put every shape at 1 and the tinted background at 0.
_CONE = math.radians(15)
_CONTRAST, _THRESHOLD = 18.0, 0.4

# the share of the image that a hue has to cover to count as there; the smallest shapes cover .018
_AREA = 0.012

# logit of a rule that holds, and minus that of one that does not; "none" stays at 0
_CERTAIN = 6.0


def causal_analytic() -> nn.Sequential:
    """Detects hues, measures their area, applies the rules.

    ``maps`` (13 x 16 x 16) is 1 where a channel's hue is and 0 elsewhere. Its mean, scaled and clamped to [0, 1], says which
    kinds z are there. The rules are piecewise linear in z: one: min(1, a + a'), and: max(0, b + c - 1), or: min(1, d + e),
    two of three: f + g + h - 1 clamped to [0, 1], inhibit: max(0, p - q).
    """
    kinds = WORLDS["colours"].kinds
    hues = [math.radians(kinds[k].hue) for k in HUES]
    hues.append(hues[0])
    # the plane of colours around grey: a hue at angle h lies at (cos h, sin h) times its saturation times its value
    plane = torch.tensor([[1.0, -0.5, -0.5], [0.0, math.sqrt(3) / 2, -math.sqrt(3) / 2]], dtype=torch.float64)
    mean, std = (torch.tensor(v, dtype=torch.float64) for v in (VIEW.mean, VIEW.std))
    along = torch.tensor([[math.cos(h), math.sin(h)] for h in hues], dtype=torch.float64) @ plane
    across = torch.tensor([[-math.sin(h), math.cos(h)] for h in hues], dtype=torch.float64) @ plane
    axes = torch.cat([along, across, -across])  # a pixel is in the cone where along * tan(15 deg) > |across|

    project = nn.Conv2d(3, len(axes), 1)
    _set(project, axes * std, axes @ mean)  # on normalised pixels
    detect = nn.Conv2d(len(axes), CHANNELS, 1)
    cones = torch.zeros(CHANNELS, len(axes), dtype=torch.float64)
    for i in range(len(hues)):
        cones[i, [i, i + len(hues), i + 2 * len(hues)]] = _CONTRAST * torch.tensor(
            [math.tan(_CONE), -1, -1], dtype=torch.float64
        )
    _set(detect, cones, torch.full((CHANNELS,), -_THRESHOLD, dtype=torch.float64))

    present = nn.Linear(CHANNELS, CHANNELS, bias=False)
    _set(present, torch.eye(CHANNELS, dtype=torch.float64) / _AREA)
    rules = nn.Linear(CHANNELS, 5)
    at = {k: i for i, k in enumerate(HUES)}
    table = torch.zeros(5, CHANNELS, dtype=torch.float64)
    for row, plus in enumerate(("a", "bc", "de", "fgh", "p")):
        table[row, [at[k] for k in plus]] = 1
    table[0, REDUNDANT] = 1
    table[4, at["q"]] = -1
    _set(rules, table, torch.tensor([0.0, -1.0, 0.0, -1.0, 0.0]))
    decide = nn.Linear(5, 6)
    _set(decide, torch.cat([2 * _CERTAIN * torch.eye(5), torch.zeros(1, 5)]), torch.tensor([-_CERTAIN] * 5 + [0.0]))

    network = nn.Sequential()
    network.add_module("hues", nn.Sequential(project, nn.ReLU(), detect, nn.Hardtanh(0.0, 1.0)))
    network.add_module("maps", nn.AvgPool2d(4))
    network.add_module("present", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), present, nn.Hardtanh(0.0, 1.0)))
    network.add_module("rules", nn.Sequential(rules, nn.Hardtanh(0.0, 1.0)))
    network.add_module("decide", decide)
    return network


def _set(layer: Any, weight: Tensor, bias: Tensor | None = None) -> None:
    with torch.no_grad():
        layer.weight.copy_(weight.reshape(layer.weight.shape))
        if bias is not None:
            layer.bias.copy_(bias)
