"""A copy of somebody's network that is the project's own: weights and layers, and nothing else that hangs on it."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

# Where a module keeps its hooks.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")

# Hooks that compute a weight from others before every pass; each can put the weight into their place.
_COMPUTING = (WeightNorm, SpectralNorm, BasePruningMethod)


def own_copy(network: nn.Module) -> nn.Module:
    """A copy in which every tensor is a leaf, without hooks of anybody else.

    Weights that are computed from others (weight_norm, spectral_norm, pruning, parametrizations) are computed once, and are
    plain weights in the copy. Features that the network keeps from an earlier pass are copied without their history.
    """
    computing = {name: _computing_hooks(module) for name, module in network.named_modules()}
    memo: dict[int, Any] = {}
    for module in network.modules():
        for kind in _HOOKS:
            hooks = vars(module).get(kind)
            if hooks:
                memo[id(hooks)] = OrderedDict()
    with torch.inference_mode(False):  # weights made in it could not take part in gradients later
        with torch.no_grad(), _WithoutHistory():
            copied = copy.deepcopy(network, memo)
        for name, hooks in computing.items():
            for hook in hooks:
                copy.copy(hook).remove(copied.get_submodule(name))
        for module in list(copied.modules()):
            if parametrize.is_parametrized(module):
                _without_parametrizations(module)
    return copied


def _without_parametrizations(module: nn.Module) -> None:
    """Makes the tensors that parametrizations compute plain parameters of a module.

    Not torch's own function: it changes the class, which the caller's module shares.
    """
    training = module.training
    module.eval()  # spectral norms would take a step of their power iteration
    with torch.no_grad():
        weights = {name: getattr(module, name).clone() for name in module.parametrizations}  # type: ignore[union-attr]
    module.train(training)
    module.__class__ = type(module).__bases__[0]  # the one that it had before
    del module.parametrizations
    for name, weight in weights.items():
        module.register_parameter(name, nn.Parameter(weight))


class _WithoutHistory(TorchFunctionMode):
    """Makes ``deepcopy`` take tensors that an operation returned, which it refuses otherwise."""

    def __torch_function__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            return args[0].detach().clone()
        return func(*args, **(kwargs or {}))


def _computing_hooks(module: nn.Module) -> list[Any]:
    return [hook for hook in vars(module).get("_forward_pre_hooks", {}).values() if isinstance(hook, _COMPUTING)]
