"""Rebuilds all tables from cards and records: ``python -m experiments.tables [key=value ...] [--check]``.

results_dir=DIR   every cell below it, at any depth; default: results/runs
out=DIR           where the tables go; default: the folder tables in results_dir
reference=A       statistics compare every other method with A; default: with the best baseline of each column
--check           writes nothing; exit code 1 where a table differs from what the records give
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command import data_folders
from experiments.command.options import OptionalPlace, Place, parse, wants_help
from experiments.command.program import EXIT_DEFECT, EXIT_OK, guarded
from experiments.store.reading import read_results
from experiments.store.records import write_atomically, writing
from experiments.studies import architectures, search
from experiments.tables import build
from suny.configured import configured

_FILES = (*build.FILES, *search.FILES, *architectures.FILES)


@configured
class Options:
    """The keys of this command."""

    results_dir: Place = Path("results/runs")
    out: OptionalPlace = None
    reference: str = ""


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    options = parse(Options, [a for a in arguments if a != "--check"])
    out = options.out or options.results_dir / "tables"
    results = read_results(options.results_dir)
    data_folders.refuse(out, "out")
    files = build.build(results, out, options.reference) | search.build(results) | architectures.build(results)
    if "--check" in arguments:
        outdated = build.find_outdated(files, out, _FILES)
        for line in outdated:
            print(f"error: {line}", file=sys.stderr)
        if not outdated:
            print(f"{len(files)} tables in {out} are as the records give them")
        return EXIT_DEFECT if outdated else EXIT_OK
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            write_atomically(out / name, text.encode())
        for name in set(build.files_in(out, _FILES)) - set(files):
            (out / name).unlink(missing_ok=True)
    print("\n".join(str(out / name) for name in files))
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
