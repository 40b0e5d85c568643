"""Mistakes of the input, told in one line.

Everything that a user can get wrong (a name, a path, a file, a setting) raises :class:`UserError`; the command line
prints its text as one line and ends with exit code 2. Any other exception is a defect of this project.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake of the input; the text says what is wrong, where, and what to do, in one line."""

    def __init__(self, text: str) -> None:
        super().__init__(" ".join(text.split()))


def nearest(name: str, valid: Iterable[str], cutoff: float = 0.5) -> str:
    """``Did you mean 'x'? `` for the nearest of the valid names, or nothing where none is near."""
    close = difflib.get_close_matches(name, list(valid), n=1, cutoff=cutoff)
    return f"Did you mean '{close[0]}'? " if close else ""
