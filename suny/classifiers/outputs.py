"""What a network's outputs are: one row of values per image, and how class probabilities are read from it.

    softmax      p = softmax(z) over K >= 2 outputs
    binary       one output z for the classes 0 and 1: p_1 = sigmoid(z), which is the softmax over [0, z]
    sigmoid      every output is a binary problem of its own (a multi-label head): p_c = sigmoid(z_c)
    probability  outputs are probabilities already; of a single one p_1, p_0 = 1 - p_1
    logit        nothing is read: the class's output itself stands in the place of p. It is not in [0, 1], so that curves
                 and areas are in its unit, and what is a fraction of p_c(I) is not defined where it is not positive

All scores come from here, so that explanations and metrics use the same p.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from suny.errors import UserError, nearest

# As users say it; auto is the softmax of several outputs, and binary for a single one.
OutputKind = Literal["auto", "softmax", "sigmoid", "probability", "logit"]

# As it is found.
Reading = Literal["softmax", "binary", "sigmoid", "probability", "logit"]

# Where in a dict of outputs the classes' values are, the first one that is there.
_KEYS = ("logits", "out")

# Rows of probabilities sum to 1 up to this much.
_ROUNDING = 1e-3


def class_rows(output: Any) -> Tensor:
    """The values of the classes in what a network returns, float (N, K').

    Accepted: a tensor (N, K'), one value per image (N,), trailing axes of length 1; the first tensor of a tuple or list;
    ``logits``, ``out`` or the only tensor of a dict; the attribute ``logits`` of an object.

    Raises:
        UserError: anything else.
    """
    tensor = _tensor_in(output)
    if tensor is None:
        raise UserError(
            f"the network returns {_described(output)}, in which no class values are found: have it return a tensor (B, K), "
            "or a dict or object with 'logits'."
        )
    if not tensor.is_floating_point():
        raise UserError(f"the network returns {tensor.dtype} values: scores of classes are needed, not class numbers or codes.")
    while tensor.ndim > 2 and tensor.shape[-1] == 1:
        tensor = tensor.squeeze(-1)
    if tensor.ndim == 1:
        tensor = tensor[:, None]
    if tensor.ndim != 2:
        maps = ": a map for every class (segmentation?)" if tensor.ndim == 4 else ""
        raise UserError(
            f"the network returns outputs of shape {tuple(tensor.shape)}{maps}: one value per class is needed, (B, K); "
            "wrap it in a module that pools them."
        )
    if tensor.shape[1] == 0:
        raise UserError(f"the network returns outputs of shape {tuple(tensor.shape)}: there is no class.")
    return tensor


def _tensor_in(output: Any) -> Tensor | None:
    if isinstance(output, Tensor):
        return output if output.ndim else None
    found: list[Any]
    if isinstance(logits := getattr(output, "logits", None), Tensor):
        return logits
    if isinstance(output, Mapping):
        named = [output[key] for key in _KEYS if isinstance(output.get(key), Tensor)]
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        found = named or (tensors if len(tensors) == 1 else [])
    else:
        found = [value for value in output if isinstance(value, Tensor)] if isinstance(output, tuple | list) else []
    return found[0] if found and found[0].ndim else None


def _described(output: Any) -> str:
    if isinstance(output, Tensor):
        return "a single number"
    if isinstance(output, Mapping):
        return f"a {type(output).__name__} with the keys {', '.join(map(str, list(output)[:6]))}"
    return f"a {type(output).__name__}"


def number_of_classes(rows: Tensor, reading: Reading) -> int:
    """K: a single output stands for two classes, unless it is not read at all."""
    columns = rows.shape[1]
    return 2 if columns == 1 and reading in ("binary", "probability") else columns


def logits(rows: Tensor, reading: Reading) -> Tensor:
    """The classes' logits (N, K) from rows (N, K'); of probabilities their logarithms."""
    if reading == "binary":
        return torch.cat([torch.zeros_like(rows), rows], 1)
    if reading == "probability":
        return probabilities(rows, reading).clamp(min=torch.finfo(rows.dtype).tiny).log()
    return rows


def probabilities(rows: Tensor, reading: Reading) -> Tensor:
    """p (N, K) from rows (N, K'); the outputs themselves where they are raw ``logit`` values."""
    if reading in ("softmax", "binary"):
        return logits(rows, reading).softmax(1)
    if reading == "sigmoid":
        return rows.sigmoid()
    if reading == "probability" and rows.shape[1] == 1:
        return torch.cat([1 - rows, rows], 1)
    return rows


def log_probabilities(rows: Tensor, reading: Reading) -> Tensor:
    """log p (N, K), computed without p; raw ``logit`` values stay what they are."""
    if reading in ("softmax", "binary"):
        return logits(rows, reading).log_softmax(1)
    return torch.nn.functional.logsigmoid(rows) if reading == "sigmoid" else logits(rows, reading)


def evidence(rows: Tensor, reading: Reading) -> Tensor:
    """What gradient methods differentiate, (N, K): the logits; -z for class 0 of a binary network, whose own is fixed at 0."""
    return torch.cat([-rows, rows], 1) if reading == "binary" else logits(rows, reading)


def checked_kind(output: object, key: str = "output") -> OutputKind:
    """What a user says that outputs are.

    Raises:
        UserError: no such kind.
    """
    kinds = get_args(OutputKind)
    if output not in kinds:
        raise UserError(f"{key}={output} is unknown. {nearest(str(output), kinds)}Valid: {', '.join(kinds)}.")
    return output  # type: ignore[return-value]


def reading_of(output: OutputKind, rows: Tensor, key: str = "output") -> Reading:
    """How the outputs of a network are read.

    Args:
        output: what the user says that they are.
        rows: outputs (N, K') for different inputs: the more of them, the surer are probabilities told from logits.
        key: under which the user says it, for the messages.

    Raises:
        UserError: ``auto``, and the outputs are probabilities already; or what the user says can't be.
    """
    single = rows.shape[1] == 1
    if output == "auto" and (what := _looks_like_probabilities(rows)):
        raise UserError(
            f"the network's outputs are probabilities already ({what}): say {key}=probability, or, where they are logits after "
            f"all, {key}={'sigmoid' if single else 'softmax'}."
        )
    if output == "softmax" and single:
        raise UserError(
            f"{key}=softmax: the network has one output, and the softmax over one class is always 1; use {key}=auto."
        )
    if output == "probability" and not _within(rows):
        low, high = rows.min().item(), rows.max().item()
        raise UserError(f"{key}=probability: the network's outputs reach from {low:.4g} to {high:.4g}; use {key}=auto.")
    if output == "auto":
        return "binary" if single else "softmax"
    return "binary" if output == "sigmoid" and single else output


def _looks_like_probabilities(rows: Tensor) -> str:
    """Why rows of different inputs are probabilities; nothing where they are not."""
    if not _within(rows):
        return ""
    if rows.shape[1] > 1 and bool(((rows.sum(1) - 1).abs() <= _ROUNDING).all()):
        return "they are >= 0 and sum to 1"
    # A sigmoid returns such values; a network whose outputs never change says nothing.
    return "they lie between 0 and 1 for every input tried" if bool((rows != rows[:1]).any()) and len(rows) > 2 else ""


def _within(rows: Tensor) -> bool:
    """Whether all values are in [0, 1]."""
    return bool(((rows >= 0) & (rows <= 1 + _ROUNDING)).all())
