"""The head of a network, its last layer: found, or replaced by one for other classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from suny.configured import configured
from suny.errors import UserError


@configured
class Head:
    """What stands in the place of the last layer.

    Args:
        kind: ``linear``: one layer; ``mlp``: one hidden layer with ReLU and, while it is trained, dropout.
        hidden: width of the hidden layer.
        dropout: probability that a hidden unit is dropped.
    """

    kind: Literal["linear", "mlp"] = "linear"
    hidden: Annotated[int, Field(ge=1)] = 512
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5

    def build(self, inputs: int, outputs: int) -> nn.Module:
        """Maps (N, inputs) to logits (N, outputs); weights are drawn from torch's random numbers."""
        if self.kind == "linear":
            return nn.Linear(inputs, outputs)
        return MlpHead(nn.Linear(inputs, self.hidden), nn.ReLU(), nn.Dropout(self.dropout), nn.Linear(self.hidden, outputs))


class MlpHead(nn.Sequential):
    """A head of several layers, so that it is known as one."""


def last_layer(network: nn.Module) -> str:
    """Name of the head, or of the layer that makes the logits: the last linear one or convolution outside training heads."""
    found = [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, nn.Conv2d, MlpHead)) and not name.lower().startswith("aux")
    ]
    heads = [name for name in found if isinstance(network.get_submodule(name), MlpHead)]
    return (heads or found)[-1]


def replace_head(network: nn.Module, head: Head, outputs: int) -> nn.Module:
    """Puts a new head in the place of a network's last layer, and takes training heads (Inception's, GoogLeNet's) away.

    Returns: the new head, which is part of the network.

    Raises:
        UserError: the last layer is no linear one.
    """
    name = last_layer(network)
    new = head.build(_inputs(network, name), outputs)
    _put(network, name, new)
    return new


def remove_head(network: nn.Module) -> None:
    """Makes a network return what its last layer takes, (N, D).

    Raises:
        UserError: the last layer is no linear one.
    """
    name = last_layer(network)
    _inputs(network, name)
    _put(network, name, nn.Identity())


def _inputs(network: nn.Module, name: str) -> int:
    layer = network.get_submodule(name)
    first = layer[0] if isinstance(layer, MlpHead) else layer
    if not isinstance(first, nn.Linear):
        raise UserError(f"the network's last layer ({name}) is no linear one: a head for other classes cannot be put there.")
    return first.in_features


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, attribute = name.rpartition(".")
    setattr(network.get_submodule(parent), attribute, module)
    if getattr(network, "aux_logits", False):
        network.aux_logits = False  # type: ignore[assignment]
        for auxiliary in ("AuxLogits", "aux1", "aux2"):
            if hasattr(network, auxiliary):
                setattr(network, auxiliary, None)
