"""The network cut at its target layer: head (image -> activation) and tail (activation -> logits).

With torch.fx the two are graphs of their own, so that an intervention on the activation runs the tail only, and each
part can be prepared for speed (batch norms folded into convolutions). A network that can't be traced is run whole, with
a hook at the layer: the same numbers at the price of full passes.

Both kinds are a module with an identity called ``cut`` between head and tail: libraries that hook a layer hook that.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.optimization import fuse

from suny.classifiers import outputs
from suny.classifiers.copies import own_copy
from suny.classifiers.layers import CHANNELS_FIRST, Layout
from suny.classifiers.outputs import Reading, class_rows
from suny.errors import UserError

# What the tail needs beside the activation: other values that cross the cut (of a skip connection, say).
Carried = tuple[Tensor, ...]

_FRESH = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
_INPLACE = {"iadd": "add", "imul": "mul", "isub": "sub", "itruediv": "truediv"}


class SplitNetwork(nn.Module):
    """A classifier cut at a layer.

    Attributes:
        cut: identity through which the activation (N, C, h, w) passes.
        tail_only: whether :meth:`tail` costs less than a full pass.
        writes: whether the network writes into the images that it is given, so that it gets some of its own.
    """

    tail_only: bool

    def __init__(self, layout: Layout = CHANNELS_FIRST) -> None:
        super().__init__()
        self.cut = nn.Identity()
        self.layout = layout
        self.writes = False

    def head(self, images: Tensor) -> tuple[Tensor, Carried]:
        """The activation (N, C, h, w) at the target layer, and what else the tail needs."""
        raise NotImplementedError

    def tail(self, activation: Tensor, carried: Carried) -> Tensor:
        """Outputs (N, K') from an activation; ``carried`` as the head returned it, for the same N images."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> Tensor:
        """Outputs (N, K') of a batch (N, C, H, W)."""
        activation, carried = self.head(images)
        return self.tail(self._through_cut(activation), carried)

    def try_on(self, images: Tensor) -> Tensor:
        """Outputs of a batch, which stays as it is; from now on it is known whether the network would change it."""
        self.writes = False
        given = images.clone()
        with torch.inference_mode():
            rows = self(given)
        self.writes = not torch.equal(given, images)
        return rows

    def _own(self, images: Tensor) -> Tensor:
        return images.clone() if self.writes else images

    def _through_cut(self, activation: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not activation.requires_grad:
            activation = activation.requires_grad_()  # the weights are frozen: gradients start at the cut
        out = self.cut(activation)
        return out.clone() if torch.is_grad_enabled() else out  # a layer that works in place may follow


class TracedSplit(SplitNetwork):
    """A network cut with torch.fx."""

    tail_only = True

    def __init__(self, head: nn.Module, tail: nn.Module, layout: Layout = CHANNELS_FIRST) -> None:
        super().__init__(layout)
        self.head_graph = head
        self.tail_graph = tail

    def head(self, images: Tensor) -> tuple[Tensor, Carried]:
        output, *carried = self.head_graph(self._own(images))
        activation, beside = self.layout.maps(output)
        return activation, (*beside, *carried)

    def tail(self, activation: Tensor, carried: Carried) -> Tensor:
        count = self.layout.beside
        return class_rows(self.tail_graph(self.layout.output(activation, carried[:count]), *carried[count:]))


class HookedSplit(SplitNetwork):
    """A network that can't be traced, run whole with a hook at the layer; of several calls the last one counts."""

    tail_only = False

    def __init__(self, network: nn.Module, layer: str, probe: Tensor, layout: Layout = CHANNELS_FIRST) -> None:
        super().__init__(layout)
        self.network = network
        self.layer = layer
        self._calls = 0
        self.try_on(probe)
        self._last = self._calls

    def _run(self, images: Tensor, at_cut: Callable[[Tensor], Tensor]) -> Tensor:
        self._calls = 0

        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            self._calls += 1
            return at_cut(output) if self._calls == getattr(self, "_last", 0) else output

        handle = self.network.get_submodule(self.layer).register_forward_hook(hook)
        try:
            return class_rows(self.network(self._own(images)))
        finally:
            handle.remove()

    def head(self, images: Tensor) -> tuple[Tensor, Carried]:
        seen: list[tuple[Tensor, Carried]] = []

        def keep(output: Tensor) -> Tensor:
            # a copy, since a layer that works in place may follow
            seen.append(self.layout.maps(output.clone()))
            return output

        with torch.no_grad() if not images.requires_grad else torch.enable_grad():
            self._run(images, keep)
        activation, beside = seen[0]
        return activation, (*beside, images)

    def tail(self, activation: Tensor, carried: Carried) -> Tensor:
        *beside, images = carried
        return self._run(images, lambda _output: self.layout.output(activation.clone(), tuple(beside)))

    def forward(self, images: Tensor) -> Tensor:
        def through(output: Tensor) -> Tensor:
            activation, beside = self.layout.maps(output)
            return self.layout.output(self._through_cut(activation), beside)

        return self._run(images, through)


class WholeNetwork(SplitNetwork):
    """A network that is not cut, for what needs whole passes only."""

    tail_only = False

    def __init__(self, network: nn.Module, why: str = "") -> None:
        super().__init__()
        self.network = network
        self.why = why or (
            "the network has no layer that can be read (compiled by torch.jit, or none returns a feature map): give the module "
            "that it was made from."
        )

    def head(self, images: Tensor) -> tuple[Tensor, Carried]:
        raise UserError(without_layer(self.why))

    def forward(self, images: Tensor) -> Tensor:
        return class_rows(self.network(self._own(images)))


def without_layer(why: str) -> str:
    """The line for what needs a target layer where there is none, with the methods that need none.

    Args:
        why: there is none, as a sentence.
    """
    return f"{why} Methods that take whole passes only need no layer: rise, occlusion, suny_region, integrated_gradients."


def split(
    network: nn.Module,
    layer: str | None,
    size: tuple[int, int],
    reading: Reading = "softmax",
    layout: Layout = CHANNELS_FIRST,
    probe: Tensor | None = None,
    no_layer: str = "",
) -> SplitNetwork:
    """Cuts a network in evaluation mode at a layer; the network itself is left as it is.

    Args:
        network: maps (N, C, H, W) to outputs.
        layer: name of a submodule with a feature map as output; None: it is not cut.
        size: (H, W) of the input, pixels.
        reading: how class probabilities are read from the outputs.
        layout: of the layer's output.
        probe: an image that the network takes, (1, C, H, W); None: noise of three channels.
        no_layer: why it is not cut, as a sentence, for what asks for a layer.
    """
    network = own_copy(network)
    for module in network.modules():
        if not isinstance(module, torch.jit.ScriptModule) and getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    images = noise if probe is None else torch.cat([probe, probe.flip(-1)])
    if layer is None:
        whole = WholeNetwork(network, no_layer)
        whole.try_on(images)
        return whole
    try:
        head, tail = _traced(network, layer)
        prepared: SplitNetwork = TracedSplit(_prepared(head), _prepared(tail), layout)
        if _agree(prepared, network, images, reading):
            return prepared
        plain = TracedSplit(head, tail, layout)
        if _agree(plain, network, images, reading):
            return plain
    except Exception:  # the user's code under the tracer may raise anything: the hooked pass handles any module
        pass
    return HookedSplit(network, layer, images[:1], layout)


class _NotCuttable(Exception):
    """The graph can't be cut at the layer."""


class _Tracer(fx.Tracer):
    """Records which value the last call of a layer returns."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        self.cut: fx.Node | None = None

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        out = super().call_module(m, forward, args, kwargs)
        if self.path_of_module(m) == self.layer and isinstance(out, fx.Proxy):
            self.cut = out.node
        return out


def _traced(network: nn.Module, layer: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    tracer = _Tracer(layer)
    graph = tracer.trace(network)
    cut = tracer.cut
    if cut is None:
        raise _NotCuttable(layer)
    _out_of_place(graph)
    nodes = list(graph.nodes)
    below: set[fx.Node] = set()  # what depends on the activation
    for node in nodes:
        if node is not cut and any(n is cut or n in below for n in node.all_input_nodes):
            below.add(node)
    output = nodes[-1]
    if output not in below:
        raise _NotCuttable(layer)

    head = fx.Graph()
    copied: dict[fx.Node, fx.Node] = {}
    for node in nodes:
        if node not in below:
            copied[node] = head.node_copy(node, lambda n: copied[n])

    tail = fx.Graph()
    inside: dict[fx.Node, fx.Node] = {cut: tail.placeholder("activation")}
    carried: list[fx.Node] = []
    for node in nodes:
        if node not in below:
            continue
        for needed in node.all_input_nodes:
            if needed in inside:
                continue
            if needed.op == "get_attr":
                inside[needed] = tail.node_copy(needed)
            elif _is_batch_size(needed):
                inside[needed] = tail.call_method("size", (inside[cut], 0))
            else:
                carried.append(needed)
                inside[needed] = tail.placeholder(f"carried_{len(carried)}")
        inside[node] = tail.node_copy(node, lambda n: inside[n])
    head.output((copied[cut], *(copied[n] for n in carried)))
    # placeholders must come first, in the order of the call
    first = next(n for n in tail.nodes if n.op == "placeholder")
    for node in [n for n in tail.nodes if n.op == "placeholder"][1:]:
        first.append(node)
        first = node
    return _module(network, head), _module(network, tail)


def _module(network: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    module = fx.GraphModule(network, graph)
    graph.eliminate_dead_code()
    graph.lint()
    module.recompile()
    module.delete_all_unused_submodules()
    return module


def _is_batch_size(node: fx.Node) -> bool:
    """``x.size(0)``, ``x.shape[0]`` of the input: the tail has to ask its own batch."""

    def of_input(value: object) -> bool:
        return isinstance(value, fx.Node) and value.op == "placeholder"

    if node.op == "call_method" and node.target == "size":
        return of_input(node.args[0]) and node.args[1:] == (0,)
    if node.op == "call_function" and node.target is operator.getitem and node.args[1] == 0:  # x.shape[0], x.size()[0]
        shape = node.args[0]
        asked = isinstance(shape, fx.Node) and (
            (shape.target is getattr and shape.args[1] == "shape") or (shape.target == "size" and len(shape.args) == 1)
        )
        return asked and of_input(shape.args[0])  # type: ignore[union-attr]
    return False


def _out_of_place(graph: fx.Graph) -> None:
    """Replaces in-place operations, which would change the activation behind the reader's back."""
    for node in graph.nodes:
        if node.op == "call_function":
            name = getattr(node.target, "__name__", "")
            if name in _INPLACE and node.target is getattr(operator, name):
                node.target = getattr(operator, _INPLACE[name])
            if node.kwargs.get("inplace"):
                node.kwargs = {**node.kwargs, "inplace": False}
            elif name.endswith("_") and not name.endswith("__"):  # torch.relu_ and its like
                node.target = getattr(torch, name.removesuffix("_"), node.target)
        elif node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__"):
            node.target = str(node.target).removesuffix("_")


def _prepared(part: fx.GraphModule) -> nn.Module:
    """A part made faster: batch norms folded into convolutions, activation functions in place where nobody else looks."""
    fused: Any = fuse(part, no_trace=True)
    safe: dict[str, bool] = {}
    for node in fused.graph.nodes:
        if node.op == "call_module" and hasattr(fused.get_submodule(node.target), "inplace"):
            source = node.args[0]
            # A layer with weights returns a tensor of its own, which this node alone reads.
            own = source.op == "call_module" and isinstance(fused.get_submodule(source.target), _FRESH)
            safe[node.target] = safe.get(node.target, True) and own and len(source.users) == 1
    for target, in_place in safe.items():
        fused.get_submodule(target).inplace = in_place
    return fused


def _agree(prepared: SplitNetwork, network: nn.Module, images: Tensor, reading: Reading) -> bool:
    """Whether the prepared network gives the probabilities of the original one, on two images, within 1e-5."""
    with torch.inference_mode():
        if not all(isinstance(c, Tensor) and len(c) == len(images) for c in prepared.head(images.clone())[1]):
            raise _NotCuttable("what crosses the cut is not of one image each")
        own, original = prepared.try_on(images), class_rows(network(images.clone()))
    got, expected = (outputs.probabilities(rows, reading) for rows in (own, original))
    return bool(torch.allclose(got, expected, rtol=1e-4, atol=1e-5))
