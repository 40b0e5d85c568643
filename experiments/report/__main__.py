"""Writes a page to look at: ``python -m experiments.report [key=value ...]``.

    results_dir=DIR    every cell below it, at any depth; default: results/runs
    out=FILE           default: report.html in results_dir
    images=N           images shown of each data set and network; default: 1000 (the tables are of all)
    colours=published  necessity in blue instead of cyan, as in earlier pictures; default: even
    dataset.root=DIR   where the images are now, if they have moved

One self-contained file that needs no network: what was compared and what was found, tables that sort, and every image with all
methods side by side: maps where they were stored (maps=true), and what is removed and kept at each salient area with its
probability where curves were (curves=true). Texts of the data set are data, never markup.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field

from experiments.command import data_folders
from experiments.command.options import Count, OptionalPlace, Place, parse, wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.report.page import page, page_command
from experiments.store.reading import read_results
from experiments.store.records import write_atomically, writing
from suny.bivariate import Colours
from suny.configured import configured


@configured
class Options:
    """The keys of this command."""

    results_dir: Place = Path("results/runs")
    out: OptionalPlace = None
    images: Count = 1000
    colours: Colours = "even"
    root: Annotated[str, Field(alias="dataset.root")] = ""


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    options = parse(Options, arguments)
    out = options.out or options.results_dir / "report.html"
    results = read_results(options.results_dir)
    data_folders.refuse(out, "out")
    text = page(results, options.images, options.root or None, options.colours, page_command(arguments))
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    print(f"report: {out} ({len(text) / 1e6:.1f} MB)")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
