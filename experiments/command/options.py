"""The keys of the commands beside run.py: ``key=value`` arguments become an object of a configured class.

    @configured
    class Options:
        out: Place = Path("results/benchmark/gpu")
        seconds: Positive = 2.0
        root: Annotated[OptionalPlace, Field(alias="dataset.root")] = None

    options = parse(Options, ["seconds=3"])

The class is all that there is to declare: its fields are the keys, their types say which values are valid, and the message for
a mistake follows from the type (``seconds=0: give a number above 0.``), or from the field's ``description``.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pydantic
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.fields import FieldInfo

from experiments.command import data_folders
from suny.errors import UserError, nearest

T = TypeVar("T")

# The values that several commands take: a file or folder, a number of images, a finite
# number above 0, and names with commas between them.
Place = Annotated[Path, AfterValidator(Path.expanduser)]
OptionalPlace = Annotated[Place | None, BeforeValidator(lambda text: text or None)]
Count = Annotated[int, Field(ge=0, description="a number of images")]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Names = Annotated[tuple[str, ...], BeforeValidator(lambda text: tuple(filter(None, text.split(","))))]


def parse(cls: type[T], arguments: Sequence[str]) -> T:
    """The options that ``key=value`` arguments give; of a key that is given twice the last value counts.

    Raises:
        UserError: an unknown key, no value, or a value of the wrong type or outside its bounds.
    """
    fields = _fields(cls)
    given: dict[str, str] = {}
    refuse_flags(arguments)
    for argument in arguments:
        key, sign, value = argument.partition("=")
        if key not in fields:
            raise UserError(f"unknown key {key}. {nearest(key, fields)}Valid: {', '.join(fields)}.")
        if not sign:
            raise UserError(f"{key} has no value: give {key}=VALUE.")
        given[key] = value
    data_folders.declare_configured({"root": given.get("dataset.root")})
    try:
        return pydantic.TypeAdapter(cls).validate_strings(given)
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        key = str(first["loc"][0])
        wanted = first["ctx"]["error"] if first["type"] == "value_error" else f"give {_wanted(fields[key])}"
        raise UserError(f"{key}={given[key]}: {wanted}.") from error


def split(cls: type, arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments whose keys an options class has, and the others, which are for someone else (Hydra, say)."""
    keys = _fields(cls)
    own = [a for a in arguments if a.partition("=")[0] in keys]
    return own, [a for a in arguments if a not in own]


def refuse_flags(arguments: Sequence[str]) -> None:
    """Raises UserError for the first argument with dashes, of a command that has no flags."""
    for at, argument in enumerate(arguments):
        if argument.startswith("-"):
            raise dashed(argument, arguments[at + 1 :])


def dashed(argument: str, following: Sequence[str], flags: Iterable[str] = ()) -> UserError:
    """The error for a key with dashes (``--method gradcam``): how it is written here.

    Args:
        argument: the key.
        following: the arguments after it.
        flags: those that there are.
    """
    name, _, value = argument.partition("=")
    key = name.lstrip("-").replace("-", "_")
    if not value:
        value = following[0] if following and "=" not in following[0] and following[0][:1] != "-" else "VALUE"
    close = nearest(name, flags, cutoff=0.8) if name.startswith("--") else ""
    return UserError(f"{name} is no flag. {close}Keys have no dashes: write {key or 'KEY'}={value}.")


def wants_help(arguments: Sequence[str]) -> bool:
    return any(a in ("-h", "--help") for a in arguments)


def _fields(cls: Any) -> dict[str, FieldInfo]:
    """The fields of a configured class by their keys."""
    return {field.alias or name: field for name, field in cls.__pydantic_fields__.items()}


def _wanted(field: FieldInfo) -> str:
    """A valid value in words."""
    if field.description:
        return field.description
    choices = get_args(field.annotation) if get_origin(field.annotation) in (Union, types.UnionType) else (field.annotation,)
    words = [_kind(choice, field.metadata) for choice in choices if choice is not type(None)]
    return ", or ".join(words)


def _kind(annotation: Any, metadata: Sequence[Any]) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(map(str, get_args(annotation)))
    if hasattr(annotation, "__metadata__"):  # Annotated, in a union
        annotation, *metadata = get_args(annotation)
        metadata = [m for info in metadata for m in (info.metadata if isinstance(info, FieldInfo) else [info])]
    if annotation is bool:
        return "true or false"
    bounds = [f" above {m.gt}" for m in metadata if hasattr(m, "gt")] + [
        f" from {m.ge} up" for m in metadata if hasattr(m, "ge")
    ]
    whole = "whole " if annotation is int and not bounds else ""
    return f"a {whole}number{''.join(bounds)}" if annotation in (int, float) else "a text"
