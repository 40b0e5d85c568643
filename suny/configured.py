"""Every configurable thing (method, data set, model, metric) is a dataclass whose fields *are* its configuration keys.

Types are checked strictly when the object is made, from a conf file or from Python alike: an unknown key or a wrong
type raises at once.
"""

from __future__ import annotations

from typing import Annotated, TypeVar, dataclass_transform

import pydantic

T = TypeVar("T")

# The packages whose classes are known by their names alone.
_PACKAGES = ("suny", "baselines", "metrics", "experiments")

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
    own = cls.__name__ if cls.__module__.partition(".")[0] in _PACKAGES else f"{cls.__module__}.{cls.__qualname__}"
    return getattr(cls, "registered", own)
