"""Every configurable thing (method, data set, model, metric) is a dataclass whose fields *are* its configuration keys.

Types are checked strictly when the object is made, from a conf file or from Python alike: an unknown key or a wrong
type raises at once.
"""

from __future__ import annotations

from typing import Annotated, TypeVar, dataclass_transform

import pydantic

T = TypeVar("T")

# of random numbers: what both numpy and torch take
Seed = Annotated[int, pydantic.Field(ge=0, lt=2**32)]


@dataclass_transform(frozen_default=True, kw_only_default=True)
def configured(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass whose fields are validated strictly."""
    config = pydantic.ConfigDict(strict=True, extra="forbid", arbitrary_types_allowed=True)
    return pydantic.dataclasses.dataclass(cls, config=config, frozen=True, kw_only=True)  # type: ignore[return-value]
