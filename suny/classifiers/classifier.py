"""A classifier: a network with its preprocessing, its target layer and its class names.

:class:`Model` is what ``conf/model`` configures; ``build()`` makes the :class:`Classifier`. A new kind of network is one
module with a subclass of :class:`Model` and one conf file.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from suny.classifiers.checkpoint import Trained
from suny.configured import Seed, configured
from suny.errors import UserError, nearest
from suny.images.dataset import LabelSpace, imagenet_classes
from suny.images.view import View


@dataclass(frozen=True)
class Classifier:
    """A network ready to be explained.

    Its outputs are counted 0..K-1. The class indices of a data set are the same numbers, unless an own checkpoint says which
    of them its outputs are (:meth:`label`, :meth:`output`).

    Args:
        name: as on the command line.
        network: maps a normalised batch (N, 3, H, W) to logits (N, K).
        view: its preprocessing.
        target_layer: name of the submodule whose output (N, C, h, w) is explained.
        num_classes: K.
        class_names: by output; empty where unknown.
        label_space: what the class indices count: ``imagenet`` where the outputs are ImageNet's 1000 classes, else ``own``,
            unless an own checkpoint says it.
        trained: what an own checkpoint says; None for other weights.
    """

    name: str
    network: nn.Module
    view: View
    target_layer: str
    num_classes: int
    class_names: dict[int, str]
    label_space: LabelSpace
    trained: Trained | None = None

    def class_name(self, output: int) -> str:
        return self.class_names.get(output, f"class {output}")

    def label(self, output: int) -> int:
        """The class index of an output."""
        return self.trained.class_ids[output] if self.trained else output

    def output(self, label: int) -> int | None:
        """The output for a class index; None where the network does not have the class."""
        known = self.trained.class_ids if self.trained else range(self.num_classes)
        return known.index(label) if label in known else None


@dataclass(frozen=True)
class Source:
    """A network as its checkpoint has it, before anything is changed for speed: as it can be trained.

    Args:
        network: maps a normalised batch to logits.
        view: its preprocessing.
        target_layer: the usual one; None: the last feature map.
        trained: what an own checkpoint says; None for other weights.
    """

    network: nn.Module
    view: View
    target_layer: str | None
    trained: Trained | None = None


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
    """

    name: str
    weights: Literal["pretrained", "random"] = "pretrained"
    checkpoint: str | None = None
    num_classes: Annotated[int, Field(ge=1)] | None = None
    target_layer: str | None = None
    seed: Seed = 0

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


def finish(model: Model, source: Source) -> Classifier:
    """What every network needs last: evaluation mode, a checked target layer, class names."""
    network, view, trained = source.network, source.view, source.trained
    network.eval().requires_grad_(False)
    maps = output_shapes(network, (view.crop, view.crop))
    outputs = maps.pop("")[1]
    layer = model.target_layer or (trained.target_layer if trained else source.target_layer) or last_map(network, maps)
    if layer not in maps:
        shown = list(maps) if len(maps) <= 40 else [m for m in maps if m.count(".") <= 1]
        raise UserError(
            f"model.target_layer={layer} is no layer of {model.name} with a feature map as output. "
            f"{nearest(layer, maps)}Valid: {', '.join(shown)}"
            f"{'' if len(shown) == len(maps) else f', and {len(maps) - len(shown)} layers inside these'}."
        )
    refuse_points(maps[layer], f"model.target_layer={layer}")
    if trained:
        own_names = dict(enumerate(trained.class_names))
        return Classifier(model.name, network, view, layer, outputs, own_names, trained.label_space, trained)
    space: LabelSpace = "imagenet" if outputs == 1000 else "own"
    names = dict(imagenet_classes().values()) if space == "imagenet" else {}
    return Classifier(model.name, network, view, layer, outputs, names, space)


def refuse_points(shape: tuple[int, ...], where: str) -> None:
    """Raises UserError for maps of a single place: an explanation could not tell places apart."""
    if max(shape[-2:]) == 1:
        raise UserError(f"{where} returns maps of 1 x 1: it has no places left to explain; choose an earlier layer.")


def output_shapes(network: nn.Module, size: tuple[int, int]) -> dict[str, tuple[int, ...]]:
    """Output shape (of a batch of one) of every submodule that returns a feature map (1, C, h, w), in calling order.

    Maps with channels last (of a Swin transformer, say), which a square input gives away, are left out. The entry "" is
    the network itself: its logits' shape (1, K).
    """
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> None:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and (not name or (output.ndim == 4 and not channels_last(output))):
                shapes[name] = tuple(output.shape)

        handles.append(network.get_submodule(name).register_forward_hook(hook))

    def channels_last(output: Tensor) -> bool:
        return size[0] == size[1] and output.shape[1] == output.shape[2] != output.shape[3]

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, _ in network.named_modules():
        note(name)
    try:
        with torch.inference_mode():
            network(torch.zeros(1, 3, *size))
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def last_map(network: nn.Module, shapes: dict[str, tuple[int, ...]]) -> str:
    """The default target layer: the last submodule to finish, poolings aside, whose output still has spatial extent.

    Raises:
        UserError: there is none.
    """

    def pools(name: str) -> bool:
        module = network.get_submodule(name)
        while isinstance(module, nn.Sequential) and len(module):
            module = module[-1]
        return "pool" in f"{name} {type(module).__name__}".lower()

    spatial = [name for name, shape in shapes.items() if min(shape[-2:]) > 1 and not pools(name)]
    if not spatial:
        raise UserError("the network has no layer with a feature map as output: it cannot be explained by its channels.")
    return spatial[-1]


def weights_digest(network: nn.Module) -> str:
    """SHA-256 of all parameters and buffers: names, shapes, types, bytes."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
