"""Compares any two methods image by image: ``python -m experiments.compare A B [key=value ...]``, or ``reference=A`` for A
against every other method.

    A, B               methods, or cells by their hashes as ``python -m experiments.list`` shows them
    reference=A        every other method minus A, on the same data, network and protocol
    results_dir=DIR    every cell below it, at any depth; default: results/runs
    dataset=D          only cells of this data set
    model=N            only cells of this network
    out=DIR            where the files go; default: the folder comparisons in results_dir

Printed, and written as Markdown and CSV, are the mean difference of every metric on the images that both have, its 95%
interval, Wilcoxon's p (with Holm's adjustment), the size of the effect and n; a forest plot shows them as PNG and SVG.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.command.options import OptionalPlace, Place, parse, wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.store.reading import read_results
from experiments.store.records import write_atomically, writing
from experiments.tables import pairs
from suny.configured import configured
from suny.errors import UserError


@configured
class Options:
    """The keys of this command."""

    reference: str = ""
    results_dir: Place = Path("results/runs")
    dataset: str = ""
    model: str = ""
    out: OptionalPlace = None


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    names = [a for a in arguments if "=" not in a and not a.startswith("-")]
    options = parse(Options, [a for a in arguments if a not in names])
    if len(names) != (0 if options.reference else 2):
        raise UserError("give two methods or hashes to compare (suny gradcam), or reference=A alone.")
    results = read_results(options.results_dir)
    if options.reference:
        sections = pairs.compare_all(results, options.reference, options.dataset, options.model)
    else:
        a, b = names
        sections = pairs.compare_two(results, a, b, options.dataset, options.model)
    print(pairs.console(sections))
    out = options.out or options.results_dir / "comparisons"
    stem = f"reference={options.reference}" if options.reference else "-".join(names)
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in ((".md", pairs.markdown(sections)), (".csv", pairs.tidy(sections))):
            write_atomically(pairs.place_of(out, stem + suffix), text.encode())
    # not above: matplotlib takes long to import, and a mistake is told without it
    from experiments.figures.drawing import save, styled
    from experiments.figures.forest import forest

    with styled():
        for at, section in enumerate(sections, 1):
            number = f"-{at}" if len(sections) > 1 else ""
            figure = forest(section.lines, section.title, section.label)
            save(figure, pairs.place_of(out, f"{stem}{number}"), ("png", "svg"))
    print(f"\nwritten: {pairs.place_of(out, stem)}*.md, .csv, .png, .svg")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
