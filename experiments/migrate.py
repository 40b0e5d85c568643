"""Brings cells of an earlier version of the project to this one: ``python -m experiments.migrate FOLDER [FOLDER ...]``.

A cell was named by its data, network, method and seed *and* by its metrics; now metrics are columns of it. Every cell below the
folders gets a new card and a new name; cells that differ in their metrics alone become one. No number changes: values, curves
and the order of the images stay as they are, and the new card says under which hashes the old ones were known.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command.options import wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.store.migration import migrate_below
from suny.errors import UserError


def main(arguments: Sequence[str]) -> int:
    if not arguments or wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    count = 0
    for argument in arguments:
        root = Path(argument).expanduser()
        if not root.is_dir():
            raise UserError(f"{argument} is no folder: give the folder of a cell, or one above several cells.")
        for old, new in migrate_below(root):
            print(f"{old} -> {new}")
            count += 1
    print(f"{count} cells of an earlier version were brought over")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
