"""Any classifier of torchvision, by its name there.

Weights come from torchvision's cache or, with a network connection, from its server; own weights from a checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.error import URLError

import torch
from pydantic import Field
from torch import nn

from suny.classifiers.checkpoint import Trained, load_state, outputs_of, read_state, read_trained
from suny.classifiers.classifier import Model, Source
from suny.classifiers.head import last_layer, replace_head
from suny.classifiers.torchvision_names import names
from suny.configured import configured
from suny.errors import UserError, nearest
from suny.images.view import View
from suny.later import Later

if TYPE_CHECKING:
    from torchvision import models
else:
    models = Later("torchvision.models")

Channels = Annotated[list[float], Field(min_length=3, max_length=3)]

# the layers that are usually explained: the last convolution after its ReLU, the last stage, the last mixed block
TARGET_LAYERS = {"vgg16": "features.29", "resnet50": "layer4", "inception_v3": "Mixed_7c"}


# Files whose download has failed in this process, with what was said then: the other cells of a sweep don't try again.
_not_to_be_had: dict[Path, str] = {}


@configured
class TorchvisionModel(Model):
    """A torchvision classifier.

    Args:
        arch: its name in ``torchvision.models``.
        weights_version: enum member of its published weights (``IMAGENET1K_V1``); None: torchvision's default.
        resize, crop, interpolation, mean, std: preprocessing; None: the checkpoint's, or what torchvision declares for the
            weights.
        options: further arguments of torchvision's builder; those that an own checkpoint was trained with stay.
    """

    arch: str
    weights_version: str | None = None
    resize: Annotated[int, Field(ge=1)] | None = None
    crop: Annotated[int, Field(ge=1)] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: Channels | None = None
    std: Channels | None = None
    options: Mapping[str, Any] | None = None

    def source(self) -> Source:
        if self.arch not in names():
            raise UserError(f"model.arch={self.arch} is no classifier of torchvision. {nearest(self.arch, names())}")
        weights = self._weights()
        trained = None
        if self.checkpoint:
            state, trained = read_state(self.checkpoint), read_trained(self.checkpoint)
            network = self._network(state, trained)
            load_state(network, state, self.checkpoint, self.arch, trained.model if trained else None)
        elif self.weights == "pretrained":
            network = self._published(weights)
        else:
            network = self._network(None)
        return Source(network, self._view(weights, trained), TARGET_LAYERS.get(self.arch), trained)

    def to_fetch(self) -> str | None:
        if self.checkpoint or self.weights != "pretrained" or self.arch not in names():
            return None
        weights = self._weights()
        self._refuse_other_classes(weights)
        file = _kept(weights)
        size = weights.meta.get("_file_size")
        return None if file.exists() else f"{file.name}{f' ({size:.0f} MB)' if size else ''} from {weights.url}"

    def _weights(self) -> Any:
        enum = models.get_model_weights(self.arch)
        version = self.weights_version or "DEFAULT"
        if version not in enum.__members__:
            raise UserError(
                f"model.weights_version={version} is unknown for {self.arch}. Valid: {', '.join(enum.__members__)}."
            )
        return enum[version]

    def _refuse_other_classes(self, weights: Any) -> None:
        classes = len(weights.meta["categories"])
        if self.num_classes not in (None, classes):
            raise UserError(
                f"model.num_classes={self.num_classes}: the published weights of {self.arch} have {classes} classes; "
                "give model.checkpoint=FILE or model.weights=random."
            )

    def _published(self, weights: Any) -> nn.Module:
        """The network with torchvision's weights, from its cache or its server, built as torchvision says for them."""
        self._refuse_other_classes(weights)
        file = _kept(weights)
        if file in _not_to_be_had and not file.exists():
            raise UserError(_not_to_be_had[file])
        try:
            return _builder(self.arch, self.options or {}, weights)
        except (URLError, OSError, RuntimeError, EOFError) as error:
            _not_to_be_had[file] = (
                f"the weights of {self.arch} could not be had ({str(error)[:200]}): fetch {weights.url} and "
                f"put it into {file.parent}, or give model.checkpoint=FILE, or model.weights=random for a test; "
                "model=efficientnet_lite0 needs no download."
            )
            raise UserError(_not_to_be_had[file]) from error

    def _network(self, state: dict[str, torch.Tensor] | None, trained: Trained | None = None) -> nn.Module:
        options = {**(self.options or {}), **(trained.options if trained else {})}
        classes = self.num_classes
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _builder(self.arch, {**options, **({"num_classes": classes} if classes else {})})
            if state is not None:
                # Inception and GoogLeNet: training heads that a checkpoint may or may not hold
                auxiliary = any(k.lower().startswith("aux") for k in state)
                if hasattr(network, "aux_logits"):
                    options["aux_logits"] = auxiliary
                found = len(trained.class_ids) if trained else outputs_of(state, f"{last_layer(network)}.weight")
                options["num_classes"] = classes or found or 1000
                torch.manual_seed(self.seed)
                network = _builder(self.arch, options)
                if trained:
                    replace_head(network, trained.head, options["num_classes"])
        return network

    def _view(self, weights: Any, trained: Trained | None) -> View:
        declared = weights.transforms()
        usual: Any = (
            trained.view
            if trained
            else View(
                resize=declared.resize_size[0],
                crop=declared.crop_size[0],
                interpolation=declared.interpolation.value,
                mean=tuple(declared.mean),
                std=tuple(declared.std),
            )
        )
        return View(
            resize=self.resize or usual.resize,
            crop=self.crop or usual.crop,
            interpolation=self.interpolation or usual.interpolation,
            mean=tuple(self.mean or usual.mean),
            std=tuple(self.std or usual.std),
        )


def _kept(weights: Any) -> Path:
    """The file in PyTorch's cache that published weights are downloaded to."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rpartition("/")[2]


def _builder(arch: str, options: Mapping[str, Any], weights: Any = None) -> nn.Module:
    if weights is None and arch in ("inception_v3", "googlenet"):
        options = {"init_weights": False, **options}  # their own initialisation takes a minute and warns
    try:
        return models.get_model(arch, weights=weights, **options)
    except (TypeError, ValueError) as error:
        raise UserError(f"model.options of {arch}: {error}.") from error
