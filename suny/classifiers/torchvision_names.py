"""The names of torchvision's classifiers, without importing it: they are asked for where a name may be a mistake."""

from __future__ import annotations

import functools
import importlib.util
import re
from pathlib import Path

# torchvision.models.list_models lists these: the functions of the modules below torchvision.models that are registered so
_REGISTERED = re.compile(r"^@register_model\(\)$.*?^def (\w+)", re.MULTILINE | re.DOTALL)


@functools.cache
def names() -> tuple[str, ...]:
    """All classifiers that the installed torchvision has."""
    spec = importlib.util.find_spec("torchvision")
    folders = [Path(p) / "models" for p in (spec.submodule_search_locations or [])] if spec else []
    files = [file for folder in folders for file in sorted(folder.glob("*.py"))]
    return tuple(sorted(name for file in files for name in _REGISTERED.findall(file.read_text(encoding="utf-8"))))
