"""The layers of a network that can be explained: whose output has places, and where in it they are.

Which axes are spatial is not seen in one shape: of (1, 7, 7, 768) and (1, 3, 197, 64) one is a feature map. The network runs
on an image, on a higher one and on a wider one; an axis that grows with the height is y, one that grows with the width is x.
A layer whose axis 2 grows with the one and axis 3 with the other returns feature maps (B, C, h, w); axes 1 and 2, and it
returns them with channels last. One axis that grows with both holds tokens; two, an attention matrix. Where the network takes
no other size the shape of its output has to do: axes in the proportion of the image, and not as long as its tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import mode
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from suny.classifiers.outputs import class_rows
from suny.errors import UserError


class NoLayer(UserError):
    """No layer, or not the one that is asked for, has places to explain: only methods of whole passes are left."""


Shape = tuple[int, ...]
Reshape = Literal["tokens", "channels_last"]

# How much higher and wider the other images are, pixels: a multiple of what networks usually divide by.
_MORE = 64

# The most tokens that stand before those of the places: of the class, of the teacher, registers.
_MOST_PREFIX = 16


@dataclass(frozen=True)
class Layout:
    """Where a layer's output has channels and places.

    Args:
        reshape: None: (B, C, h, w); ``channels_last``: (B, h, w, C); ``tokens``: (B, prefix + h * w, C).
        grid: (h, w) of tokens.
        prefix: tokens before those of the places.
    """

    reshape: Reshape | None = None
    grid: tuple[int, int] = (0, 0)
    prefix: int = 0

    @property
    def beside(self) -> int:
        """How many tensors :meth:`maps` returns beside the maps."""
        return int(self.reshape == "tokens")

    def maps(self, output: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Feature maps (B, C, h, w) in a layer's output, and what it holds beside them."""
        if self.reshape == "channels_last":
            return output.permute(0, 3, 1, 2), ()
        if self.reshape == "tokens":
            beside, places = output[:, : self.prefix], output[:, self.prefix :]
            return places.transpose(1, 2).reshape(len(output), -1, *self.grid), (beside,)
        return output, ()

    def output(self, maps: Tensor, beside: tuple[Tensor, ...]) -> Tensor:
        """The layer's output that has these maps."""
        if self.reshape == "channels_last":
            return maps.permute(0, 2, 3, 1)
        if self.reshape == "tokens":
            return torch.cat([beside[0], maps.flatten(2).transpose(1, 2)], 1)
        return maps

    def places(self, shape: Shape) -> tuple[int, int]:
        """(h, w) in an output of a shape."""
        if self.reshape == "tokens":
            return self.grid
        return (shape[1], shape[2]) if self.reshape == "channels_last" else (shape[2], shape[3])


CHANNELS_FIRST = Layout()
CHANNELS_LAST = Layout("channels_last")


@dataclass(frozen=True)
class Layers:
    """What the layers of a network return for an image.

    Args:
        network: theirs.
        image: (1, C, H, W).
        shapes: of every layer's output with three axes or more, in the order in which they finish.
        layouts: of those that have places.
        rows: the network's outputs, (1, K').
    """

    network: nn.Module
    image: Tensor
    shapes: dict[str, Shape]
    layouts: dict[str, Layout]
    rows: Tensor

    def having(self, *reshape: Reshape | None) -> dict[str, Shape]:
        """Layers of some layouts with more than one place, by name."""
        known = {n: layout for n, layout in self.layouts.items() if layout.reshape in reshape}
        return {n: self.shapes[n] for n, layout in known.items() if max(layout.places(self.shapes[n])) > 1}

    def default(self) -> tuple[str, Layout]:
        """The last layer with places, poolings aside; of a network of tokens the last one whose places reach the outputs.

        Raises:
            NoLayer: there is none.
        """
        maps = self.having(None, "channels_last")
        tokens = [n for n in self.having("tokens") if self._of_the_stream(n)]
        last = list(self.shapes).index(last_map(self.network, self._places(maps))) if maps else -1
        later = [n for n in tokens if list(self.shapes).index(n) > last]
        # Layers that reach the outputs come before those that no longer do.
        reaching = bisect_left(later, True, key=lambda n: not self._reaches(n))
        if reaching:
            return later[reaching - 1], self.layouts[later[reaching - 1]]
        name = last_map(self.network, self._places(maps))
        return name, self.layouts[name]

    def chosen(self, name: str, allowed: Collection[Reshape | None], no_map: str, prefix: str = "") -> Layout:
        """The layout of a layer that the user names.

        Args:
            name: of the layer.
            allowed: layouts that may be taken as maps.
            no_map: the beginning of the message for any other.
            prefix: of the keys in messages.

        Raises:
            NoLayer: it can't be explained; the line names the nearest layer that can.
        """
        key = f"{prefix}target_layer={name}"
        shape, layout = self.shapes.get(name), self.layouts.get(name)
        if shape is None or layout is None or layout.reshape not in allowed:
            raise NoLayer(f"{no_map}{self._what(name)}. {self._advice(name, prefix)}")
        if max(layout.places(shape)) == 1:
            raise NoLayer(f"{key} returns maps of 1 x 1: it has no places left to explain; choose an earlier layer.")
        if layout.reshape == "tokens" and not self._reaches(name):
            only = "the tokens of its places do not reach the outputs, only the class token does"
            raise NoLayer(f"{key}: {only}. {self._advice(name, prefix)}")
        return layout

    def _what(self, name: str) -> str:
        layout = self.layouts.get(name)
        kind = f", {layout.reshape.replace('_', ' ')}" if layout and layout.reshape else ""
        return f": it returns {self.shapes[name]}{kind}" if name in self.shapes else ""

    def _advice(self, name: str, prefix: str) -> str:
        """Which layer near one can be explained, and with which key."""
        own = self.layouts.get(name)
        if own and own.reshape == "tokens" and self._reaches(name):
            return f"Say {prefix}reshape=tokens to take it as maps."
        order = [n for n, _ in self.network.named_modules()]
        finished = list(self.shapes)
        at = finished.index(name) if name in finished else len(finished)
        before, after = finished[:at][::-1], finished[at + 1 :]
        if name in order and name not in finished:  # its place among the others is that of its definition
            place = order.index(name)
            before = [n for n in reversed(finished) if n in order and order.index(n) < place]
            after = [n for n in finished if n not in before]
        near = next((n for n in (*before, *after) if self._usable(n)), None)
        if near is None:
            return "No layer of this network returns one."
        reshape = self.layouts[near].reshape
        key = f" {prefix}reshape={reshape}" if reshape else ""
        return f"The nearest layer that works: {prefix}target_layer={near}{key}."

    def _usable(self, name: str) -> bool:
        layout = self.layouts.get(name)
        if layout is None or max(layout.places(self.shapes[name])) == 1:
            return False
        return layout.reshape != "tokens" or (self._of_the_stream(name) and self._reaches(name))

    def _of_the_stream(self, name: str) -> bool:
        """Whether a layer's tokens are as wide as most are, and not the inside of an attention or of a perceptron."""
        widths = [self.shapes[n][-1] for n, layout in self.layouts.items() if layout.reshape == "tokens"]
        parts = name.split(".")
        around = (self.network.get_submodule(".".join(parts[:at])) for at in range(1, len(parts)))
        # an attention's projections are as wide as the stream in some networks
        attention = any("attention" in type(module).__name__.lower() for module in around)
        return self.shapes[name][-1] == mode(widths) and not attention

    def _places(self, shapes: dict[str, Shape]) -> dict[str, Shape]:
        """Shapes as if all channels came first."""
        return {n: (1, 0, *self.layouts[n].places(shape)) for n, shape in shapes.items()}

    def _reaches(self, name: str) -> bool:
        """Whether the outputs depend on what a layer returns at its places: NaN there comes out, even where weights are 0."""
        layout = self.layouts[name]

        def poisoned(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            maps, beside = layout.maps(output)
            return layout.output(torch.full_like(maps, torch.nan), beside)

        handle = self.network.get_submodule(name).register_forward_hook(poisoned)
        try:
            with torch.inference_mode():
                return bool(class_rows(self.network(self.image.clone())).isnan().any())
        except Exception:  # of a layer that is called for several sizes, say: it is none to explain
            return False
        finally:
            handle.remove()


def find_layers(network: nn.Module, image: Tensor) -> Layers:
    """The layers of a network in evaluation mode that can be explained.

    Args:
        network: maps images (B, C, H, W) to outputs.
        image: (1, C, H, W); the network has to take it.
    """
    shapes, rows = _recorded(network, image)
    height, width = image.shape[-2:]
    higher, wider = (
        _recorded_if_taken(network, nnf.interpolate(image, size=size, mode="nearest"))
        for size in ((height + _MORE, width), (height, width + _MORE))
    )
    lengths = {shape[1] for shape in shapes.values() if len(shape) == 3}  # of token sequences
    layouts: dict[str, Layout] = {}
    for name, shape in shapes.items():
        if len(shape) != 4 or shape[0] != 1:
            continue
        grows = _growing(shape, higher.get(name)), _growing(shape, wider.get(name))
        suggested = _by_shape(shape, (height, width), lengths)
        for layout, axes in ((CHANNELS_FIRST, ([2], [3])), (CHANNELS_LAST, ([1], [2]))):
            # A layer that does not grow has not run, or has a size of its own, as behind adaptive pooling.
            not_against = all(found in ([], expected) for found, expected in zip(grows, axes, strict=True))
            if grows == axes or (not_against and not all(grows) and suggested == layout):
                layouts[name] = layout
    grids = [layout.places(shapes[name]) for name, layout in layouts.items()]
    for name, shape in shapes.items():
        if len(shape) == 3 and shape[0] == 1 and _growing(shape, higher.get(name)) in ([], [1]):
            known = [(shape[1] - h * w, (h, w)) for h, w in grids if h * w > 1 and 0 <= shape[1] - h * w <= _MOST_PREFIX]
            if known:
                prefix, grid = min(known)
                layouts[name] = Layout("tokens", grid, prefix)
    return Layers(network, image, shapes, layouts, rows)


def output_shapes(network: nn.Module, size: tuple[int, int]) -> dict[str, Shape]:
    """Shapes (of a batch of one, three channels) of every layer's feature maps (1, C, h, w), in calling order.

    The entry "" is the network itself: its outputs' shape (1, K').
    """
    found = find_layers(network, torch.zeros(1, 3, *size))
    return {"": tuple(found.rows.shape)} | {n: found.shapes[n] for n, one in found.layouts.items() if one == CHANNELS_FIRST}


def last_map(network: nn.Module, shapes: dict[str, Shape]) -> str:
    """The default target layer: the last submodule to finish, poolings aside, whose output still has spatial extent.

    Raises:
        NoLayer: there is none.
    """

    def pools(name: str) -> bool:
        module = network.get_submodule(name)
        while isinstance(module, nn.Sequential) and len(module):
            module = module[-1]
        return "pool" in f"{name} {type(module).__name__}".lower()

    spatial = [name for name, shape in shapes.items() if min(shape[-2:]) > 1 and not pools(name)]
    if not spatial:
        raise NoLayer("the network has no layer with a feature map as output: it cannot be explained by its channels.")
    return spatial[-1]


def _recorded(network: nn.Module, image: Tensor) -> tuple[dict[str, Shape], Tensor]:
    """Shapes of the layers' outputs with three axes or more, and the network's outputs."""
    with _recording(network) as shapes, torch.inference_mode():
        rows = class_rows(network(image.clone()))
    return shapes, rows


def _recorded_if_taken(network: nn.Module, image: Tensor) -> dict[str, Shape]:
    """The same of an image of another size, up to where the network stops taking it."""
    with _recording(network) as shapes, torch.inference_mode():
        try:
            network(image)
        except Exception:  # whatever a network raises for a size that is not its own
            return shapes
    return shapes


@contextmanager
def _recording(network: nn.Module) -> Iterator[dict[str, Shape]]:
    shapes: dict[str, Shape] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim >= 3 and output.is_floating_point():
                shapes[name] = tuple(output.shape)

        return hook

    for name, module in network.named_modules():
        if name and not isinstance(module, torch.jit.ScriptModule):  # compiled code runs no hooks
            handles.append(module.register_forward_hook(note(name)))
    try:
        yield shapes
    finally:
        for handle in handles:
            handle.remove()


def _growing(shape: Shape, other: Shape | None) -> list[int]:
    return [at for at, (a, b) in enumerate(zip(shape, other, strict=False)) if b > a] if other else []


def _by_shape(shape: Shape, size: tuple[int, int], lengths: set[int]) -> Layout | None:
    """The layout of (1, a, b, c) as one shape suggests it: the places have the proportion of the image."""

    def proportional(h: int, w: int) -> bool:
        return h <= size[0] and w <= size[1] and abs(h * size[1] - w * size[0]) <= max(size)

    if proportional(*shape[2:]) and not lengths.intersection(shape[2:]):
        return CHANNELS_FIRST
    if proportional(*shape[1:3]) and not lengths.intersection(shape[1:3]):
        return CHANNELS_LAST
    return None
