"""Why a network takes one species for another: ``python -m experiments.failures dataset=cub [key=value ...]``.

Finds the misclassified images and lays out for each: the image, what suffices for the family of both species, what is
necessary for the predicted and for the true species, and which annotated parts each of these maps hits. In the paper's case a
belted kingfisher is taken for a ringed one: the sufficient region is shared by the family, the necessary one is the belly
that tells the species apart (Xuan et al., arXiv 2303.00244). Writes one picture per case, and one table of part hits. Own keys:

    cases=10         how many misclassified images, drawn by seed; all: every one
    out=DIR          where results go; default: results/failures
    workers=N        processes that decode images while they are classified; default: half of the CPU's cores, at most 8
    caches=DIR       where the network's outputs and what is derived from the images' files are stored; default: results/caches

All others are those of run.py: dataset.root=, dataset.limit=, model=, model.checkpoint=, method=, device=, seed=, ... The
method must have a map for each side: suny, suny_filter, suny_region, ... The same command continues where it was stopped.

A family is the classes that share the last word of their name: all albatrosses. Where the two species are of two families, it
is both of these; where that is every class that the network knows, it is the predicted species alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from experiments.command import configuration as config
from experiments.command import data_folders
from experiments.command.options import Place, parse, split, wants_help
from experiments.command.program import EXIT_OK, composed, guarded
from experiments.command.progress import tell
from experiments.failures.cases import FailureStudy
from experiments.failures.parts import part_table, part_text
from experiments.store.records import write_atomically, writing
from experiments.training.data import usual_workers
from suny.configured import configured


@configured
class Options:
    """The keys of this command beside those of run.py."""

    cases: Annotated[int, Field(ge=1)] | Literal["all"] = 10
    out: Place = Path("results/failures")
    workers: Annotated[int, Field(ge=0)] = usual_workers()
    caches: Place = Path("results/caches")


def main(arguments: Sequence[str]) -> int:
    if not arguments or wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    own, overrides = split(Options, arguments)
    options = parse(Options, own)
    run = config.read(composed(overrides))
    data_folders.refuse(options.out, "out")
    study = FailureStudy.of(run, options.caches)
    data_folders.refuse(options.out, "out")
    wrong, count = study.find_misclassified(options.workers)
    print(f"{len(wrong)} of {count} images are misclassified", flush=True)
    if not wrong:
        return EXIT_OK
    folder, records = study.explain_cases(wrong, None if options.cases == "all" else options.cases, options.out)
    if any(r["visible"] for r in records):
        table = part_table(records)
        with writing(folder):
            write_atomically(folder / "part_hits.csv", table.to_csv(index=False).encode())
        print(f"\n{part_text(table, records)}\n\ntable: {folder / 'part_hits.csv'}")
    else:
        tell(f"note: dataset '{study.run.dataset.name}' has no parts: there is no table of part hits")
    print(f"pictures: {folder / 'cases'}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
