"""Checkpoints: weights from a file, without unpickling code, and the project's own format.

Accepted: safetensors, or what ``torch.save`` wrote of a state dict, plain or wrapped (:mod:`suny.classifiers.matching`).
Files are read with ``weights_only=True``.

Own checkpoints are safetensors whose metadata say what the weights need to be used: :class:`Trained`, a JSON text a field.
"""

from __future__ import annotations

import argparse
import json
import pickle
import re
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

from suny.classifiers.head import Head, last_layer
from suny.classifiers.matching import differences, match
from suny.configured import configured
from suny.errors import UserError
from suny.images.dataset import LabelSpace
from suny.images.view import View

# in the metadata of own checkpoints; raised where older readers would misread them
_FORMAT = "suny-benchmark checkpoint 1"


@configured
class Trained:
    """What an own checkpoint says beside its weights.

    Args:
        model: its network, as in ``model=NAME``.
        options: arguments of the network's builder, those that its weights implied included.
        head: of the network.
        class_ids: the data set's class index of each output.
        class_names: of each output.
        label_space: what the class indices count.
        view: the preprocessing of its evaluation.
        target_layer: submodule to explain; None: the network has none.
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
    target_layer: str | None
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


def read_state(file: str, network: nn.Module) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The state dict of a network in a checkpoint file, and notes on what had to be removed to find it.

    Args:
        file: the checkpoint.
        network: whose keys are looked for; its head may have another number of classes.

    Raises:
        UserError: no such file, not a checkpoint, or one that would run code when loaded; several networks in it that fit.
    """
    found = match(read_content(file), network.state_dict().keys(), file)
    if found is None:
        raise UserError(f"model.checkpoint={file} holds no state dict: save the network's state_dict().")
    return found.state, found.notes


def read_content(file: str) -> Any:
    """What a checkpoint file holds: tensors, numbers and texts in dictionaries.

    Raises:
        UserError: no such file, not a checkpoint, or one that would run code when loaded.
    """
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"model.checkpoint={file} is not a file.")
    _refuse_stand_in(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of a TorchScript archive, which is refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        kind = re.search(r"GLOBAL (\S+)", str(error))
        raise UserError(
            f"model.checkpoint={file} holds more than tensors{f' ({kind[1]})' if kind else ''} and is not loaded, since that "
            "could run code: save the network's state_dict() alone, or as safetensors."
        ) from error
    except (OSError, RuntimeError, SafetensorError, EOFError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UserError(f"model.checkpoint={file} is not a readable checkpoint ({str(error)[:120]}).") from error


def _refuse_stand_in(path: Path) -> None:
    """Downloads that went wrong leave a small text in the place of the weights."""
    with path.open("rb") as file:
        start = file.read(64).lstrip()
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"model.checkpoint={path} is a git-lfs pointer, not the weights: fetch them with 'git lfs pull'.")
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise UserError(f"model.checkpoint={path} is a web page, not the weights: download the file itself.")


def load_state(
    network: nn.Module,
    state: dict[str, Tensor],
    file: str,
    architecture: str,
    made_for: str | None = None,
    advice: str | None = None,
) -> None:
    """Loads a state dict that must fit exactly.

    Args:
        network: gets the weights.
        state, file: of the checkpoint.
        architecture: of the network, for the message.
        made_for: the checkpoint's own network, as in ``model=NAME``, where it is known.
        advice: what to do where they differ; None: what the tensors suggest.

    Raises:
        UserError: keys or shapes differ; the line names the first difference.
    """
    if said := differences(network, state):
        raise UserError(
            f"model.checkpoint={file} is no checkpoint of {architecture}: {'; '.join(said)}. "
            f"{advice or _advice(network, state, made_for)}, or another file."
        )
    if not hasattr(state, "_metadata"):  # safetensors has no versions of modules: they are today's
        state = OrderedDict(state)
        state._metadata = network.state_dict()._metadata  # type: ignore[attr-defined]
    network.load_state_dict(state, strict=False)


def _advice(network: nn.Module, state: dict[str, Tensor], made_for: str | None) -> str:
    """What to do about a state dict that does not fit a network."""
    from suny.classifiers.torchvision_models import recognised  # which needs this module

    own, head = network.state_dict(), f"{last_layer(network)}."
    if own.keys() == state.keys() and all(own[k].shape == state[k].shape for k in own if not k.startswith(head)):
        return "Leave model.num_classes out: the file says how many classes it has"
    if name := made_for or recognised(state):
        return f"Give the checkpoint's own architecture with model={name}"
    return "Give the architecture that it was made with (model=NAME)"


def outputs_of(state: dict[str, Tensor], key: str) -> int | None:
    """The number of classes in a state dict: rows of the last layer's weight ``key``; None where it has none."""
    return int(state[key].shape[0]) if key in state and state[key].ndim else None
