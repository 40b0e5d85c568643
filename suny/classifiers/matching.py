"""Which tensors of a checkpoint file are those of a network.

Programs that train put a state dict into others (``state_dict``, ``model_state_dict``, ``ema``) and names before its keys:
DataParallel ``module.``, torch.compile ``_orig_mod.``, Lightning the attribute that holds the network (``model.``), also where
only a part of the network was wrapped (``features.module.0``). Whatever wrapper or common prefix it is, it is the right one if
the keys fit the network's once it is removed. What was removed, and what lies beside, is said.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from suny.errors import UserError

# dictionaries within dictionaries in which a state dict is looked for
_DEPTH = 3

# where several dictionaries fit, the first of these is taken
_USUAL = ("state_dict", "model_state_dict", "model", "net")

# averages of weights are taken only where there are no weights beside them
_AVERAGES = re.compile(r"(^|[._/])(ema|averaged?|swa)([._/]|$)")

# parts of keys that wrappers put anywhere into them: DataParallel, torch.compile, FSDP, activation checkpointing
_WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}

# keys of DenseNet in the files that torchvision publishes: dots in the names of modules were allowed once
_DOTTED = re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])(?=\.)")

# tensors that a checkpoint may lack: counters, and training heads (Inception's, GoogLeNet's)
_OPTIONAL = re.compile(r"(^|\.)num_batches_tracked$|^aux", re.IGNORECASE)


@dataclass(frozen=True)
class Match:
    """The tensors of a file that are a network's.

    Args:
        state: by the network's own keys, and those that are not its own; with the versions of modules that torch notes.
        whole: whether no tensor is missing.
        notes: what was removed and left out, one line each.
    """

    state: OrderedDict[str, Tensor]
    whole: bool
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Reading:
    """A way to read a file: the dictionary at a place, its keys without a prefix, and without wrappers where ``bare``.

    Args:
        place: ``state_dict``, or ``a/b`` of a dictionary in another one.
        state: the dictionary.
        bare, prefix: how its keys are read.
        count: how many of them are the network's then.
    """

    place: str
    state: Mapping[Any, Any]
    bare: bool
    prefix: str
    count: int

    @property
    def rank(self) -> tuple[int, bool, int]:
        """The largest is the best: most of the network's keys, no average, a usual place."""
        usual = _USUAL.index(self.place) if self.place in _USUAL else len(_USUAL)
        return self.count, not _AVERAGES.search(f"{self.place}/{self.prefix}"), -usual

    @property
    def title(self) -> str:
        return repr(f"{self.place} {self.prefix}".strip())

    def name(self, key: str) -> str | None:
        """A key of the file as the network has it; None for one outside the prefix."""
        key = _bare(key) if self.bare else key
        return key.removeprefix(self.prefix) if key.startswith(self.prefix) else None

    def names(self) -> dict[str, str]:
        """The file's keys by the network's."""
        return {new: key for key in _keys(self.state) if (new := self.name(key)) is not None}

    def tensors(self) -> set[tuple[str, str]]:
        """The tensors that are read, by place and key."""
        return {(self.place, key) for key in self.names().values()}

    def read(self) -> OrderedDict[str, Tensor]:
        found = OrderedDict((new, self.state[key]) for new, key in self.names().items())
        if isinstance(versions := getattr(self.state, "_metadata", None), dict):  # networks that changed ask it (MNASNet)
            named = {self.name(f"{key}." if key else self.prefix): v for key, v in versions.items()}
            found._metadata = {key.removesuffix("."): v for key, v in named.items() if key is not None}  # type: ignore[attr-defined]
        return found

    def notes(self) -> Iterator[str]:
        keys = list(_keys(self.state))
        removed = [self.place] if self.place else []
        if self.bare:
            removed += sorted({f"{part}." for k in keys for part in k.split(".") if part in _WRAPPERS})
            removed += ["dots within the names of DenseNet's layers"] if any(map(_DOTTED.search, keys)) else []
        removed += [self.prefix] if self.prefix else []
        if removed:
            yield f"{', '.join(map(repr, removed))} before the network's own names removed"
        if beside := [k for k in keys if self.name(k) is None]:
            yield f"{len(beside)} other tensor(s) left out: {', '.join(beside[:3])}{', ...' * (len(beside) > 3)}"


def match(content: Any, own: Collection[str], file: str) -> Match | None:
    """Finds a network's tensors in what a file holds.

    Args:
        content: of the file: dictionaries of tensors, in each other.
        own: the network's keys.
        file: for messages.

    Returns: the best match; None where there are no tensors with names.

    Raises:
        UserError: several state dicts fit, and none is the usual one.
    """
    keys = set(own)
    readings = [r for place, state in _states(content) for r in _readings(place, state, keys)]
    if not readings:
        return None
    readings.sort(key=lambda r: r.rank, reverse=True)
    best, others = readings[0], []
    taken = best.tensors()
    for reading in readings[1:]:
        if reading.count == best.count and taken.isdisjoint(tensors := reading.tensors()):
            others.append(reading)
            taken |= tensors
    found = best.read()
    whole = all(k in found or _OPTIONAL.search(k) for k in keys)
    notes = list(best.notes())
    if whole and others:
        names = ", ".join(r.title for r in others)
        if others[0].rank == best.rank:
            raise UserError(
                f"model.checkpoint={file} holds several networks that fit, {best.title} and {names}: save one of them alone."
            )
        notes.append(f"{best.title} is used, not {names}, which fits too")
    return Match(found, whole, tuple(f"model.checkpoint={file}: {note}" for note in notes))


def _states(content: Any, place: str = "", depth: int = _DEPTH) -> Iterator[tuple[str, Mapping[Any, Any]]]:
    """The dictionaries with named tensors in them, by their place."""
    if not isinstance(content, dict):
        return
    if any(_keys(content)):
        yield place, content
    for key, value in content.items():
        if depth and isinstance(key, str):
            yield from _states(value, f"{place}/{key}" if place else key, depth - 1)


def _readings(place: str, state: Mapping[Any, Any], own: set[str]) -> Iterator[_Reading]:
    """The ways to read a dictionary, the one that removes nothing first."""
    for bare in (False, True):
        counts = Counter({"": 0})
        for key in _keys(state):
            parts = (_bare(key) if bare else key).split(".")
            counts.update(".".join((*parts[:at], "")) for at in range(len(parts)) if ".".join(parts[at:]) in own)
        yield from (_Reading(place, state, bare, prefix, count) for prefix, count in counts.items())


def _keys(state: Mapping[Any, Any]) -> Iterator[str]:
    return (k for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor))


def _bare(key: str) -> str:
    """A key without the names of wrappers, and as torchvision has it today."""
    return _DOTTED.sub(r"\1\2", ".".join(part for part in key.split(".") if part not in _WRAPPERS))


def differences(network: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """In what a state dict differs from a network's own: tensors that are missing, not its own, or of another shape."""
    own = network.state_dict()
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]  # a counter, which may lack
    extra = [k for k in state if k not in own]
    shapes = [k for k in own if k in state and own[k].shape != state[k].shape]
    said = [f"{len(missing)} of its {len(own)} tensors are missing (first: {missing[0]})"] if missing else []
    said += [f"{len(extra)} are not its own (first: {extra[0]})"] if extra else []
    if shapes:
        k = shapes[0]
        said.append(f"{len(shapes)} have another shape ({k}: {tuple(state[k].shape)}, needed {tuple(own[k].shape)})")
    return said
