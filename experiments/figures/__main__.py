"""Draws the figures of a paper from records and stored maps: ``python -m experiments.figures [key=value ...]``.

    results_dir=DIR    every cell below it, at any depth; default: results/runs
    out=DIR            where the figures go, each as vector PDF and as PNG; default: the folder figures in results_dir
    images=N           rows of the method grid; default: 6 (needs maps=true)
    strips=N           sanity-check strips of the first N images: explains again, as the cell's card says; default: 0
    colours=published  necessity in blue instead of cyan, as in earlier pictures; default: even
    dataset.root=DIR   where the images are now, if they have moved

Drawn is what the results hold: the method grid and the colour square (cells with maps), curves of deletion, insertion,
necessity and sufficiency with 95% bands (cells with curves=true), the N-S plane, sanity checks, critical differences,
ablations.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from tqdm import tqdm

from experiments.command import data_folders
from experiments.command.options import Count, OptionalPlace, Place, parse, wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.figures.drawing import figures, save, styled
from experiments.store.reading import read_results
from suny.bivariate import Colours
from suny.configured import configured


@configured
class Options:
    """The keys of this command."""

    results_dir: Place = Path("results/runs")
    out: OptionalPlace = None
    images: Count = 6
    strips: Count = 0
    colours: Colours = "even"
    root: Annotated[str, Field(alias="dataset.root")] = ""


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    options = parse(Options, arguments)
    out = options.out or options.results_dir / "figures"
    results = read_results(options.results_dir)
    data_folders.refuse(out, "out")
    drawn = figures(results, options.root or None, options.images, options.strips, options.colours)
    with styled():
        for name, draw in tqdm(drawn.items(), unit="figure"):
            save(draw(), out / name)
            tqdm.write(str(out / f"{name}.pdf"))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
