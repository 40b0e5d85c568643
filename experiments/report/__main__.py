"""Writes a page to look at: ``python -m experiments.report [key=value ...]``.

    results_dir=DIR    every cell below it, at any depth; default: results/runs
    out=FILE           default: report.html
    images=N           images shown of each data set and network; default: 1000 (the tables are of all)
    dataset.root=DIR   where the images are now, if they have moved

One self-contained file that needs no network: tables that sort, and every image with all methods side by side: maps where they
were stored (maps=true), and what is removed and kept at each salient area with its probability where curves were
(curves=true). Texts of the data set are data, never markup.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command.program import EXIT_OK, guarded, pairs
from experiments.report.page import page
from experiments.store.reading import read_results
from experiments.store.records import write_atomically, writing
from suny.errors import UserError


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    keys = pairs(arguments, {"results_dir": "results/runs", "out": "report.html", "images": "1000", "dataset.root": ""})
    if not keys["images"].isdecimal():
        raise UserError(f"images={keys['images']}: give a number of images.")
    out = Path(keys["out"]).expanduser()
    text = page(read_results(Path(keys["results_dir"]).expanduser()), int(keys["images"]), keys["dataset.root"] or None)
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, text.encode())
    print(f"report: {out} ({len(text) / 1e6:.1f} MB)")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
