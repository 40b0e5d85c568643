"""Draws the figures of a paper from records and stored maps: ``python -m experiments.figures [key=value ...]``.

    results_dir=DIR    every cell below it, at any depth; default: results/runs
    out=DIR            where the figures go, each as vector PDF and as PNG; default: the folder figures in results_dir
    images=N           rows of the method grid; default: 6 (needs maps=true)
    strips=N           sanity-check strips of the first N images: explains again, as the cell's card says; default: 0
    dataset.root=DIR   where the images are now, if they have moved

Drawn is what the results hold: the method grid and the colour square (cells with maps), curves of deletion, insertion,
necessity and sufficiency with 95% bands (cells with curves=true), the N-S plane, sanity checks, critical differences,
ablations.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from experiments.command.program import EXIT_OK, guarded, pairs
from experiments.figures.drawing import figures, save, styled
from experiments.store.reading import read_results
from suny.errors import UserError


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    defaults = {"results_dir": "results/runs", "out": "", "images": "6", "strips": "0", "dataset.root": ""}
    keys = pairs(arguments, defaults)
    counts = {}
    for key in ("images", "strips"):
        if not keys[key].isdecimal():
            raise UserError(f"{key}={keys[key]}: give a number of images.")
        counts[key] = int(keys[key])
    source = Path(keys["results_dir"]).expanduser()
    out = Path(keys["out"]).expanduser() if keys["out"] else source / "figures"
    results = read_results(source)
    with styled():
        for name, draw in tqdm(
            figures(results, keys["dataset.root"] or None, counts["images"], counts["strips"]).items(), unit="figure"
        ):
            save(draw(), out / name)
            tqdm.write(str(out / f"{name}.pdf"))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
