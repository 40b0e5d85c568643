"""Checkpoints: weights from a file, without unpickling code, and the project's own format.

Accepted: safetensors, or what ``torch.save`` wrote of a state dict (plain, or under ``state_dict``, ``model`` or ``net``;
the ``module.`` prefix of DataParallel is removed). Files are read with ``weights_only=True``.

Own checkpoints are safetensors whose metadata say what the weights need to be used: :class:`Trained`, a JSON text a field.
"""

from __future__ import annotations

import json
import pickle
import warnings
from collections import OrderedDict
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import pydantic
import torch
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from suny.classifiers.head import Head
from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import LabelSpace
from suny.images.view import View

_WRAPPERS = ("state_dict", "model", "net")

# in the metadata of own checkpoints; raised where older readers would misread them
_FORMAT = "suny-benchmark checkpoint 1"


@configured
class Trained:
    """What an own checkpoint says beside its weights.

    Args:
        model: its network, as in ``model=NAME``.
        options: further arguments of the network's builder.
        head: of the network.
        class_ids: the data set's class index of each output.
        class_names: of each output.
        label_space: what the class indices count.
        view: the preprocessing of its evaluation.
        target_layer: submodule to explain.
        dataset: name of the data set it was trained on.
        metrics: what was measured: accuracies with their intervals, the learning curve.
        configuration: of the training, resolved.
        environment: versions, revision and machine.
        digest: SHA-256 of all that the weights depend on.
    """

    model: str
    options: dict[str, Any]
    head: Head
    class_ids: Annotated[tuple[int, ...], Field(min_length=1)]
    class_names: tuple[str, ...]
    label_space: LabelSpace
    view: View
    target_layer: str
    dataset: str
    metrics: dict[str, Any]
    configuration: dict[str, Any]
    environment: dict[str, Any]
    digest: str


_TRAINED = pydantic.TypeAdapter(Trained)


def write_checkpoint(path: Path, state: dict[str, Tensor], trained: Trained) -> None:
    """Writes an own checkpoint."""
    said: dict[str, Any] = _TRAINED.dump_python(trained, mode="json")
    metadata = {"format": _FORMAT, **{key: json.dumps(value) for key, value in said.items()}}
    # save_file would make a file that only its owner can read
    path.write_bytes(save({k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata))


def read_trained(file: str) -> Trained | None:
    """What a checkpoint says beside its weights; None where it is no own one.

    Raises:
        UserError: no such file, or metadata that are damaged.
    """
    path = Path(file).expanduser()
    if path.suffix != ".safetensors":
        return None
    if not path.is_file():
        raise UserError(f"model.checkpoint={file} is not a file.")
    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
    except (OSError, SafetensorError) as error:
        raise UserError(f"model.checkpoint={file} is not a readable checkpoint ({str(error)[:120]}).") from error
    if not str(metadata.get("format", "")).startswith("suny-benchmark"):
        return None
    if metadata["format"] != _FORMAT:
        raise UserError(f"model.checkpoint={file} is a {metadata['format']}; this version reads {_FORMAT}: update the project.")
    try:
        said = {f.name: json.loads(metadata[f.name]) for f in fields(Trained)}
        trained = _TRAINED.validate_json(json.dumps(said))
    except (KeyError, ValueError) as error:  # pydantic's are ValueErrors
        raise UserError(f"model.checkpoint={file}: its metadata are damaged ({str(error)[:120]}).") from error
    if len(trained.class_names) != len(trained.class_ids):
        raise UserError(f"model.checkpoint={file}: its metadata are damaged (class names and ids differ in number).")
    return trained


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


def load_state(network: nn.Module, state: dict[str, Tensor], file: str, architecture: str, made_for: str | None = None) -> None:
    """Loads a state dict that must fit exactly.

    Args:
        network: gets the weights.
        state, file: of the checkpoint.
        architecture: of the network, for the message.
        made_for: the checkpoint's own network, as in ``model=NAME``, where it is known.

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
            f"Give the checkpoint's own architecture with model={made_for or '...'}, or another file."
        )
    network.load_state_dict(state, strict=False)


def outputs_of(state: dict[str, Tensor], key: str) -> int | None:
    """The number of classes in a state dict: rows of the last layer's weight ``key``; None where it has none."""
    return int(state[key].shape[0]) if key in state and state[key].ndim else None
