"""Every configurable thing (method, data set, model, metric) is a dataclass whose fields *are* its configuration keys.

Types are checked strictly when the object is made, from a conf file or from Python alike: an unknown key or a wrong
type raises at once.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Collection, Mapping
from traceback import walk_tb
from types import ModuleType
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic

from suny.errors import UserError, nearest

T = TypeVar("T")

# The packages of this project: their classes are known by their names alone, and a class that lies elsewhere is the user's own.
_PACKAGES = ("suny", "baselines", "metrics", "experiments")

# The classes and functions that a configuration has named, whoever wrote them: a user's may lie in this project's folders too.
_named: dict[Any, None] = {}

# A seed of random numbers is one that both numpy and torch take.
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configured(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass whose fields are validated strictly."""
    config = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    return pydantic.dataclasses.dataclass(cls, config=config, frozen=True, kw_only=True)  # type: ignore[return-value]


def registered(cls: type) -> str:
    """The name under which results know a class, so that they stay what they are when its code moves.

    A class of this project is known by its own name, any other one by its import path; an attribute ``registered`` of the
    class says otherwise.
    """
    own = cls.__name__ if _is_ours(cls.__module__) else f"{cls.__module__}.{cls.__qualname__}"
    return getattr(cls, "registered", own)


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] in _PACKAGES


def target_class(node: Any, where: str) -> type:
    """The class that a configuration node names in ``_target_``."""
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where}: the configuration has no _target_ (the class it configures).")
    target = str(node["_target_"])
    module, _, name = target.rpartition(".")
    try:
        cls = getattr(imported(module, f"{where}._target_={target}"), name)
    except AttributeError as error:
        raise UserError(f"{where}._target_={target} cannot be imported: {error}.") from error
    if not (isinstance(cls, type) and pydantic.dataclasses.is_pydantic_dataclass(cls)):  # nothing else is ever called
        raise UserError(f"{where}._target_={target} is no configured class (suny.configured).")
    remember(cls)
    return cls


def remember(made: Any) -> None:
    """Notes a class or function that a configuration has named, so that an error in its file is told with its name."""
    _named[made] = None


def named() -> Collection[Any]:
    """The classes and functions that a configuration has named."""
    return _named.keys()


def place_of(cls: type) -> str:
    """A class and the file that defines it, as messages name them."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    return f"class {cls.__qualname__} ({file or cls.__module__})"


def imported(module: str, what: str) -> ModuleType:
    """A module, which may be the user's own.

    Args:
        module: its name.
        what: the beginning of the message.

    Raises:
        UserError: it can't be imported; the line says where it failed.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, ValueError) as error:
        raise UserError(f"{what} cannot be imported: {error}.") from error
    except Exception as error:
        frame, line = list(walk_tb(error.__traceback__))[-1]
        place = "" if isinstance(error, SyntaxError) else f" ({frame.f_code.co_filename}, line {line})"
        raise UserError(f"{what} cannot be imported: {type(error).__name__}: {error}{place}.") from error


def make_target(node: Any, where: str, kind: Any) -> Any:
    """The object that a configuration node with ``_target_`` describes; it must be of a kind."""
    cls = target_class(node, where)
    made = make(cls, {k: v for k, v in node.items() if k != "_target_"}, where)
    if lacking := _lacking(made, kind):
        raise UserError(f"{where}._target_={node['_target_']} is no {kind.__name__}: {place_of(cls)} {lacking}.")
    return made


def _lacking(made: Any, kind: Any) -> str:
    """What an object lacks to be of a kind, a base class or a protocol; nothing where it is of it."""
    if not getattr(kind, "_is_protocol", False):
        return "" if isinstance(made, kind) else f"has to be derived from {kind.__module__}.{kind.__qualname__}"
    members = [m for m in (*vars(kind), *kind.__annotations__) if not m.startswith("_")]
    missing = []
    for member in dict.fromkeys(members):
        try:
            getattr(made, member)
        except (AttributeError, NotImplementedError):
            missing.append(member)
    return f"lacks {', '.join(missing)}" if missing else ""


def make(cls: Any, keys: Mapping[str, Any], where: str) -> Any:
    """An object of a configured class, its mistakes as one line."""
    try:
        return cls(**keys)
    except pydantic.ValidationError as error:
        raise UserError(_one_line(error, cls, where)) from error


def _one_line(error: pydantic.ValidationError, cls: Any, where: str) -> str:
    first = error.errors()[0]
    at = [str(part) for part in first["loc"] if re.fullmatch(r"\w[\w./-]*", str(part))]
    key = ".".join([*([where] if where else []), *at[:1]])
    if first["type"] == "value_error":  # settings that do not go together
        return f"{where or 'configuration'}: {first['ctx']['error']}."
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        valid = sorted(f.name for f in dataclasses.fields(cls))
        return f"unknown key {key}. {nearest(at[0], valid)}Valid: {', '.join(valid)}."
    if first["type"] in ("missing", "missing_keyword_only_argument", "missing_argument"):
        return f"{key} is missing: give {key}=VALUE."
    said = "; or ".join(
        dict.fromkeys(e["msg"].removeprefix("Input ") for e in error.errors() if e["loc"][:1] == first["loc"][:1])
    )
    given = first["input"]
    hint = ""
    literal = [e["ctx"]["expected"] for e in error.errors() if e["type"] == "literal_error"]
    if isinstance(given, str) and literal:
        choices = re.findall(r"'([^']*)'", literal[0])
        hint = f" {nearest(given, choices)}"
    return f"{key}={given} {said}.{hint}"
