"""Loading weights from a file, without unpickling code.

Accepted: safetensors, or what ``torch.save`` wrote of a state dict (plain, or under ``state_dict``, ``model`` or ``net``;
the ``module.`` prefix of DataParallel is removed). Files are read with ``weights_only=True``.
"""

from __future__ import annotations

import pickle
import warnings
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from suny.errors import UserError

_WRAPPERS = ("state_dict", "model", "net")


def read_state(file: str) -> dict[str, Tensor]:
    """The state dict in a checkpoint file.

    Raises:
        UserError: no such file, not a checkpoint, or one that would run code when loaded.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"model.checkpoint={file} is not a file.")
    _refuse_stand_in(path)
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused below
                state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"model.checkpoint={file} holds more than tensors and is not loaded, since that could run code: "
            "save the network's state_dict() alone, or as safetensors."
        ) from error
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"model.checkpoint={file} is not a readable checkpoint ({str(error)[:120]}).") from error
    for key in _WRAPPERS:
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"model.checkpoint={file} holds no state dict: save the network's state_dict().")
    plain: OrderedDict[str, Tensor] = OrderedDict((str(k).removeprefix("module."), v) for k, v in state.items())
    if isinstance(versions := getattr(state, "_metadata", None), dict):  # networks that changed ask it (MNASNet)
        plain._metadata = {str(k).removeprefix("module").removeprefix("."): v for k, v in versions.items()}  # type: ignore
    return plain


def _refuse_stand_in(path: Path) -> None:
    """Downloads that went wrong leave a small text in the place of the weights."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"model.checkpoint={path} is a git-lfs pointer, not the weights: fetch them with 'git lfs pull'.")
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"model.checkpoint={path} is a web page, not the weights: download the file itself.")


def load_state(network: nn.Module, state: dict[str, Tensor], file: str, architecture: str) -> None:
    """Loads a state dict that must fit exactly.

    Raises:
        UserError: keys or shapes differ; the line names the first difference.
    """
    own = network.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    if missing or extra or shapes:
        what = [f"{len(missing)} of its {len(own)} tensors are missing (first: {missing[0]})"] if missing else []
        what += [f"{len(extra)} are not its own (first: {extra[0]})"] if extra else []
        if shapes:
            k = shapes[0]
            what.append(f"{len(shapes)} have another shape ({k}: {tuple(state[k].shape)}, needed {tuple(own[k].shape)})")
        raise UserError(
            f"model.checkpoint={file} is no checkpoint of {architecture}: {'; '.join(what)}. "
            "Give the checkpoint's own architecture with model=..., or another file."
        )
    network.load_state_dict(state, strict=False)


def outputs_of(state: dict[str, Tensor], key: str) -> int | None:
    """The number of classes in a state dict: rows of the last layer's weight ``key``; None where it has none."""
    return int(state[key].shape[0]) if key in state and state[key].ndim else None
