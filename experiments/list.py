"""Lists cells, so that folders can be told apart by eye: ``python -m experiments.list [results_dir=DIR]``.

For each cell: its folder, how many of its images are recorded, the settings in which it differs from the other cells of this
method on data and network of the same names, and its columns. A cell of an earlier version of the project is listed with
the command that brings it over.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command.options import Place, parse, wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.store.reading import Result, cell_folders, read_cell
from experiments.tables.listing import describe
from suny.configured import configured
from suny.errors import UserError


@configured
class Options:
    """The keys of this command."""

    results_dir: Place = Path("results/runs")


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    root = parse(Options, arguments).results_dir
    if not root.is_dir():
        raise UserError(f"results_dir={root} is no folder: compute something first (python run.py), or give another one.")
    cells: list[list[Result]] = []
    unread: list[str] = []
    for folder in cell_folders(root):
        try:
            cells.append(read_cell(folder))
        except UserError as error:
            unread.append(str(error))
    print("\n".join(describe(results, cells, root) for results in cells) if cells else f"{root} has no cell.")
    for line in unread:
        print(line)
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
