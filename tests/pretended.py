"""A pretended card: tensors that say they are on CUDA while their numbers lie on the CPU; what CUDA would refuse is refused.

Every call into PyTorch passes a :class:`torch.overrides.TorchFunctionMode`. A tensor that is put on ``cuda`` becomes
:class:`OnCard`, everything computed from it is on the card too, and a call that mixes the two kinds raises as CUDA does. The
numbers come from the CPU's kernels, so that they are the CPU's bit for bit: what runs here on ``cuda`` has to give the same
result as on ``cpu``, and a tensor that is made in the wrong place is found on a machine without a card.

What it can't show: the numbers of CUDA's own kernels, memory, time. Inside of PyTorch's own functions nothing is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

CARD = torch.device("cuda")
CPU = torch.device("cpu")

# CUDA has these for floating-point numbers only
_FLOATING = {"einsum", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "conv2d", "linear"}

# of no dimension a tensor of the CPU may meet one of the card, but not in these
_STRICT = _FLOATING | {"cat", "stack", "gather", "scatter"}

# they take their values from any device
_COPIES = {"copy_", "__set__"}

# what needs the numbers on the CPU
_HOST_ONLY = {"numpy", "__array__", "__cuda_array_interface__", "data_ptr", "share_memory_", "pin_memory"}


class OnCard(Tensor):
    """A tensor of the pretended card; its numbers lie on the CPU."""

    def __repr__(self, **_: Any) -> str:
        with torch._C.DisableTorchFunctionSubclass():
            return f"OnCard({self.as_subclass(Tensor)!r})"


class Pretending(TorchFunctionMode):
    """What CUDA does with devices, for each call."""

    def __torch_function__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_card = any(isinstance(t, OnCard) for t in tensors)
        if name == "_has_compatible_shallow_copy_type":  # whether a module that is moved can keep its parameters
            return all(isinstance(t, OnCard) for t in tensors) or not on_card
        if name == "__get__":
            return self._got(func, args)
        if name in ("to", "type_as", "cuda", "cpu", "is_cuda", "get_device"):
            return self._moved(name, func, args, kwargs)
        if name == "__deepcopy__" and on_card:
            return args[1].setdefault(id(args[0]), _copied(args[0]))
        if name in _HOST_ONLY and isinstance(args[0], OnCard):
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy ({name}). Use Tensor.cpu() first.")
        wanted = _device(kwargs.pop("device", None))
        if wanted is not None or name.startswith("new_"):
            return self._made(func, name, wanted, args, kwargs)
        if name == "__getitem__":
            _check_index(args[0], args[1])
        elif name == "__setitem__":
            _check_index(args[0], args[1])
            if isinstance(args[2], Tensor) and any(isinstance(i, Tensor) for i in _parts(args[1])):
                _check(name, [args[0], args[2]])
        elif name not in _COPIES:
            _check(name, tensors)
        out = _run(func, args, kwargs)
        if name in ("__setitem__", "__set__"):
            return out
        return _tagged(out) if on_card else out

    def _got(self, func: Any, args: Sequence[Any]) -> Any:
        """A property of a tensor."""
        held, what = args[0], getattr(getattr(func, "__self__", None), "__name__", "")
        if isinstance(held, OnCard):
            if what == "device":
                return torch.device("cuda", 0)
            if what in ("is_cuda", "is_cpu"):
                return what == "is_cuda"
            return _tagged(_run(func, args, {}))
        return _run(func, args, {})

    def _moved(self, name: str, func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """``to`` and its like: the device is the argument's, or stays."""
        held, rest = args[0], list(args[1:])
        device = CARD if isinstance(held, OnCard) else CPU
        if name == "get_device":
            return 0 if device == CARD else -1
        if name in ("cpu", "cuda"):
            wanted, name = torch.device(name), "to"
        else:
            wanted = _device(kwargs.pop("device", None)) or device
            for at, value in enumerate(rest):
                if isinstance(value, str | torch.device):
                    wanted, rest[at] = torch.device(value), CPU
                elif isinstance(value, Tensor):
                    wanted = CARD if isinstance(value, OnCard) else CPU
            other = kwargs.get("other")
            if isinstance(other, Tensor):
                wanted = CARD if isinstance(other, OnCard) else CPU
        out = _run(func if name != "to" or func.__name__ == "to" else Tensor.to, [held, *(rest or [CPU])], kwargs)
        if wanted.type == device.type:
            return _tagged(out) if device == CARD else out
        if out is held:
            out = _run(Tensor.view_as, [held, held], {})
        return _tagged(out) if wanted.type == "cuda" else _run(Tensor.as_subclass, [out, Tensor], {})

    def _made(self, func: Any, name: str, wanted: torch.device | None, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """A factory of tensors."""
        like = args[0] if args and isinstance(args[0], Tensor) else None
        where = wanted or (CARD if isinstance(like, OnCard) else CPU)
        generator = kwargs.get("generator")
        if generator is not None and generator.device.type != where.type:
            raise RuntimeError(f"Expected a '{where.type}' device type for generator but found '{generator.device.type}'")
        out = _run(func, args, kwargs)
        return _tagged(out) if where.type == "cuda" else _run(Tensor.as_subclass, [out, Tensor], {})


def _run(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return func(*args, **kwargs)


def _tagged(out: Any) -> Any:
    def tag(x: Any) -> Any:
        return x if not isinstance(x, Tensor) or isinstance(x, OnCard) else _run(Tensor.as_subclass, [x, OnCard], {})

    return pytree.tree_map(tag, out) if not isinstance(out, torch.Size) else out


def _copied(held: Tensor) -> Tensor:
    copy = _tagged(_run(lambda: held.detach().clone(), [], {}))
    return torch.nn.Parameter(copy, held.requires_grad) if isinstance(held, torch.nn.Parameter) else copy


def _device(given: Any) -> torch.device | None:
    return None if given is None else torch.device(given)


def _parts(index: Any) -> Sequence[Any]:
    return index if isinstance(index, tuple | list) else [index]


def _check_index(held: Tensor, index: Any) -> None:
    """Stricter than CUDA, which moves indices of the CPU to the card: that takes a transfer for each call."""
    tensors = [i for i in _parts(index) if isinstance(i, Tensor) and i.dim() > 0]
    if any(isinstance(i, OnCard) != isinstance(held, OnCard) for i in tensors):
        places = ["the card" if isinstance(t, OnCard) else "the CPU" for t in (held, *tensors)]
        raise RuntimeError(f"indices should be on the same device as the indexed tensor: {places}")


def _check(name: str, tensors: Sequence[Tensor]) -> None:
    card = [t for t in tensors if isinstance(t, OnCard)]
    if name in _FLOATING and any(not _run(Tensor.is_floating_point, [t], {}) for t in card):
        raise RuntimeError(f"{name}: not implemented on CUDA for integers")
    host = [t for t in tensors if not isinstance(t, OnCard) and (name in _STRICT or t.dim() > 0)]
    if card and host:
        shapes = f"{tuple(host[0].shape)} on the CPU, {tuple(card[0].shape)} on the card"
        raise RuntimeError(f"Expected all tensors to be on the same device, but found at least two devices in {name}: {shapes}")


@contextmanager
def pretended_card() -> Iterator[torch.device]:
    """Within, PyTorch says that there is a card."""
    real = torch.autocast

    def autocast(device_type: str, *arguments: Any, **keys: Any) -> torch.autocast:
        return real("cpu", *arguments, **keys)  # that of CUDA would leave the CPU's kernels in float32

    with (
        mock.patch("torch.autocast", autocast),
        mock.patch("torch.cuda.is_available", return_value=True),
        mock.patch("torch.cuda.synchronize"),
        mock.patch("torch.cuda.get_device_name", return_value="pretended card"),
        Pretending(),
    ):
        yield CARD
