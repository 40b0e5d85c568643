"""Libraries that take long to import, for modules that are imported before anybody knows whether anything will be computed.

    if TYPE_CHECKING:
        from scipy import stats
    else:
        stats = Later("scipy.stats")

Help is shown and a mistake is told without them. :func:`import_all` imports all that the modules of a run have named, before
its first image, so that no image's seconds contain an import. Libraries that only some runs of a module need are imported in
the function that needs them.
"""

from __future__ import annotations

import importlib
from typing import Any

_named: set[str] = set()


class Later:
    """Stands for a module and imports it when an attribute is asked for; modules that name it do so at their top."""

    def __init__(self, module: str) -> None:
        self._module = module
        _named.add(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._module), name)


def import_all() -> None:
    """Imports every module that is named so far."""
    for module in sorted(_named):
        importlib.import_module(module)
