"""Lets ``import torchvision`` work where its compiled extension cannot load.

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its extension does not load, the operators ``nms`` and
``qnms`` are never declared, and the import ends with ``RuntimeError: operator torchvision::nms does not exist`` because
torchvision registers shape functions for them. Declaring the two schemas first is enough: the classifiers and image
transforms use neither operator. Detection models do, and fail when they call it, as they should.

:func:`install` runs at the moment when torchvision is first imported, by this project or by another package
(pytorch-grad-cam): :mod:`suny` asks for it when it is imported itself, which costs neither torch nor the extension.
Where the extension loads, nothing is declared. Programs that import torchvision before suny are helped by
:mod:`suny.torchvision_first`.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The declarations live as long as the library object does.
_library: torch.library.Library | None = None


def extension_loads() -> bool:
    """Whether torchvision's compiled extension can be loaded beside this torch (without importing torchvision)."""
    import torch

    spec = importlib.util.find_spec("torchvision")
    folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    files = [f for folder in folders for pattern in ("_C*.so", "_C*.pyd", "_C*.dylib") for f in folder.glob(pattern)]
    for file in files:
        try:
            torch.ops.load_library(str(file))
        except OSError:
            continue
        return True
    return False


def install() -> bool:
    """Declares torchvision's missing operators once; returns whether they had to be declared."""
    global _library
    if _library is None and "torchvision" not in sys.modules and not extension_loads():
        import torch

        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    return _library is not None


def install_on_import() -> None:
    """Has :func:`install` run when torchvision is first imported."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def find(fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
    """Finds torchvision where Python would; whoever only asks where it lies imports nothing. Of other modules None."""
    spec = PathFinder.find_spec(fullname, path, target) if fullname == "torchvision" else None
    if spec is None or not isinstance(spec.loader, SourceFileLoader):
        return None
    spec.loader = _Loader(spec.loader.name, spec.loader.path)
    return spec


class _Finder(MetaPathFinder):
    find_spec = staticmethod(find)


class _Loader(SourceFileLoader):
    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Python's own module, made after the operators are declared: once torchvision runs it is too late."""
        install()
        return super().create_module(spec)
