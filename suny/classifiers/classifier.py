"""A classifier: a network with its preprocessing, its target layer and its class names.

:class:`Model` is what ``conf/model`` configures; ``build()`` makes the :class:`Classifier`. A new kind of network is one
module with a subclass of :class:`Model` and one conf file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from suny.classifiers.checkpoint import Trained
from suny.classifiers.layers import CHANNELS_FIRST, Layers, Layout, NoLayer, Reshape, find_layers
from suny.classifiers.layers import last_map as last_map
from suny.classifiers.layers import output_shapes as output_shapes
from suny.classifiers.outputs import OutputKind, Reading, number_of_classes, reading_of
from suny.classifiers.probing import rows_of
from suny.configured import Seed, configured
from suny.errors import UserError, nearest
from suny.images.dataset import LabelSpace, imagenet_classes
from suny.images.view import View

Channels = Annotated[list[float], Field(min_length=3, max_length=3)]


@dataclass(frozen=True)
class Classifier:
    """A network ready to be explained.

    Its outputs are counted 0..K-1. The class indices of a data set are the same numbers, unless an own checkpoint says which
    of them its outputs are (:meth:`label`, :meth:`output`).

    Args:
        name: as on the command line.
        network: maps a normalised batch (N, 3, H, W) to outputs (:mod:`suny.classifiers.outputs`).
        view: its preprocessing.
        target_layer: name of the submodule whose output is explained; None: there is none, and only methods that take whole
            passes can explain the network.
        num_classes: K.
        class_names: by output; empty where unknown.
        label_space: what the class indices count: ``imagenet`` where the outputs are ImageNet's 1000 classes, else ``own``,
            unless an own checkpoint says it.
        trained: what an own checkpoint says; None for other weights.
        notes: what a user should know about the weights, one line each.
        reading: how class probabilities are read from the outputs.
        layout: of the target layer's output.
        factory: SHA-256 of the user's own files that make the network; None for networks of this project and of libraries.
        class_ids: the data set's class index of each output, where the names of the classes say it; None: the checkpoint's, or
            the same numbers.
        no_layer: why there is no target layer, in a line.
        implied: arguments of the network's builder that its weights imply, where neither its configuration nor the weights'
            shapes say them and they are not the usual ones.
    """

    name: str
    network: nn.Module
    view: View
    target_layer: str | None
    num_classes: int
    class_names: dict[int, str]
    label_space: LabelSpace
    trained: Trained | None = None
    notes: tuple[str, ...] = ()
    reading: Reading = "softmax"
    layout: Layout = CHANNELS_FIRST
    factory: str | None = None
    class_ids: tuple[int, ...] | None = None
    no_layer: str = ""
    implied: Mapping[str, Any] = field(default_factory=dict)

    def class_name(self, output: int) -> str:
        return self.class_names.get(output, f"class {output}")

    def label(self, output: int) -> int:
        """The class index of an output."""
        return self._ids[output]

    def output(self, label: int) -> int | None:
        """The output for a class index; None where the network does not have the class."""
        return self._ids.index(label) if label in self._ids else None

    @property
    def _ids(self) -> Sequence[int]:
        return self.class_ids or (self.trained.class_ids if self.trained else range(self.num_classes))


@dataclass(frozen=True)
class Source:
    """A network as its checkpoint has it, before anything is changed for speed: as it can be trained.

    Args:
        network: maps a normalised batch to logits.
        view: its preprocessing.
        target_layer: the usual one; None: the last feature map.
        trained: what an own checkpoint says; None for other weights.
        options: the arguments that the network was built with, beside its number of classes.
        notes: what a user should know about the weights, one line each.
        implied: of the options, those of :attr:`Classifier.implied`.
    """

    network: nn.Module
    view: View
    target_layer: str | None
    trained: Trained | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    implied: Mapping[str, Any] = field(default_factory=dict)


@configured
class Model:
    """Base of the configured networks.

    Args:
        name: as in ``model=NAME``.
        weights: ``pretrained`` (the published ImageNet weights) or ``random`` (seeded, for tests and controls).
        checkpoint: file with own weights (.safetensors, .pth, .pt), instead of ``weights``.
        num_classes: outputs of the network; None: what the checkpoint has, or 1000.
        target_layer: submodule to explain; None: the checkpoint's, or the network's usual one.
        seed: of the random weights.
        output: what the network's outputs are (:mod:`suny.classifiers.outputs`); ``auto``: logits of a softmax, or, of a
            single one, of a binary problem.
        reshape: ``tokens``: a target layer that the user names may return tokens of places
            (:class:`suny.classifiers.layers.Layout`). Maps with channels last are always taken, and layers that the user does
            not name as they are.

    Attributes:
        packages: whose versions the card lists because the network is theirs, beside the usual ones.
    """

    packages: ClassVar[tuple[str, ...]] = ()

    name: str
    weights: Literal["pretrained", "random"] = "pretrained"
    checkpoint: str | None = None
    num_classes: Annotated[int, Field(ge=1)] | None = None
    target_layer: str | None = None
    seed: Seed = 0
    output: OutputKind = "auto"
    reshape: Reshape | None = None

    def build(self) -> Classifier:
        """The network with its weights, in evaluation mode, on the CPU.

        Raises:
            UserError: weights that can't be had, a checkpoint that does not fit, an unknown layer.
        """
        return finish(self, self.source())

    def to_fetch(self) -> str | None:
        """What has to be downloaded before the network can be built; None where nothing has."""
        return None

    def source(self) -> Source:
        """The network with its weights, as :mod:`experiments.train` trains it.

        Raises:
            UserError: weights that can't be had, a checkpoint that does not fit.
        """
        raise UserError(f"model={self.name} cannot be trained here: its class has no source().")


@configured
class ViewedModel(Model):
    """Base of the networks whose preprocessing is known, and can be another one.

    Args:
        resize, crop: pixels of the shorter side, and of the square that is cut from it; None: the checkpoint's, or the usual.
        interpolation: of the resize; None: the checkpoint's, or the usual.
        mean, std: of each RGB channel, for pixels in [0, 1]; None: the checkpoint's, or the usual.
    """

    resize: Annotated[int, Field(ge=1)] | None = None
    crop: Annotated[int, Field(ge=1)] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    mean: Channels | None = None
    std: Channels | None = None

    def seen(self, usual: View) -> View:
        """The usual preprocessing with what the keys say."""
        given = {key: getattr(self, key) for key in ("resize", "crop", "interpolation", "mean", "std")}
        said: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if v is not None}
        return replace(usual, **said)


def finish(model: Model, source: Source) -> Classifier:
    """What every network needs last: evaluation mode, a checked target layer, class names."""
    network, view, trained = source.network, source.view, source.trained
    network.eval().requires_grad_(False)
    image = torch.randn(1, 3, view.crop, view.crop, generator=torch.Generator().manual_seed(0))
    layers = find_layers(network, image)
    rows = rows_of(network, image, layers.rows)
    reading = reading_of(model.output, rows, "model.output")
    outputs = number_of_classes(rows, reading)
    no_layer = ""
    try:
        layer, layout = _layer(model, source, layers)
    except NoLayer as error:
        layer, layout, no_layer = None, CHANNELS_FIRST, str(error)
    found: Any = {
        "trained": trained, "notes": source.notes, "reading": reading, "layout": layout, "no_layer": no_layer,
        "implied": dict(source.implied),
    }  # fmt: skip
    if trained:
        own_names = dict(enumerate(trained.class_names))
        return Classifier(model.name, network, view, layer, outputs, own_names, trained.label_space, **found)
    space: LabelSpace = "imagenet" if outputs == 1000 else "own"
    names = dict(imagenet_classes().values()) if space == "imagenet" else {}
    return Classifier(model.name, network, view, layer, outputs, names, space, **found)


def _layer(model: Model, source: Source, layers: Layers) -> tuple[str, Layout]:
    """The target layer: the one that the user names, the usual one, or the last one with places.

    Raises:
        NoLayer: it can't be explained, or there is none.
        UserError: the network has no layer of the name.
    """
    usual = source.trained.target_layer if source.trained else source.target_layer
    layer = model.target_layer or usual
    if layer is None:
        return layers.default()
    if layer not in layers.shapes:
        maps = layers.having(None)
        shown = list(maps) if len(maps) <= 40 else [m for m in maps if m.count(".") <= 1]
        known = any(name == layer for name, _ in source.network.named_modules())
        raise (NoLayer if known else UserError)(
            f"model.target_layer={layer} is no layer of {model.name} with a feature map as output. "
            f"{nearest(layer, maps)}Valid: {', '.join(shown)}"
            f"{'' if len(shown) == len(maps) else f', and {len(maps) - len(shown)} layers inside these'}."
        )
    named = model.target_layer is not None
    allowed: tuple[Reshape | None, ...] = (None, "channels_last", model.reshape if named else "tokens")
    no_map = f"model.target_layer={layer} is no layer of {model.name} with a feature map (B, C, h, w) as output"
    return layer, layers.chosen(layer, allowed, no_map, "model.")


def settings_digest(network: nn.Module) -> str:
    """SHA-256 of what a network's modules are beside their weights: their classes and plain attributes, such as strides."""
    digest = hashlib.sha256()
    for name, module in network.named_modules():
        said = {k: _plain(v) for k, v in vars(module).items() if k[0] != "_" and k != "training"}
        digest.update(f"{name} {type(module).__module__}.{type(module).__qualname__} {sorted(said.items())}".encode())
    return digest.hexdigest()


def _plain(value: Any) -> str:
    """A number, text or function, or several, as text; of other objects the class."""
    if isinstance(value, tuple | list):
        return str([_plain(one) for one in value])
    if value is None or isinstance(value, bool | int | float | str):
        return repr(value)
    return str(getattr(value, "__qualname__", type(value).__qualname__))


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, shapes, types, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
