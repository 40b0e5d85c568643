"""Lets ``import torchvision`` work where its compiled extension cannot load.

PyPI's torchvision is built for CUDA. Beside a CPU-only torch its extension does not load, the operators ``nms`` and
``qnms`` are never declared, and the import ends with ``RuntimeError: operator torchvision::nms does not exist`` because
torchvision registers shape functions for them. Declaring the two schemas first is enough: the classifiers and image
transforms use neither operator. Detection models do, and fail when they call it, as they should.

:func:`install` runs when :mod:`suny` is imported, before anything imports torchvision (pytorch-grad-cam does).
Where the extension loads, nothing is declared.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
# The declarations live as long as the library object does.
_library: torch.library.Library | None = None


def extension_loads() -> bool:
    """Whether torchvision's compiled extension can be loaded beside this torch (without importing torchvision)."""
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
        _library = torch.library.Library("torchvision", "DEF")
        for schema in _SCHEMAS:
            _library.define(schema)
    return _library is not None
