"""Measures how often networks are right: ``python -m experiments.accuracy [model=A,B] [key=value ...]``.

    python -m experiments.accuracy model=efficientnet_lite0,squeezenet1_1_pypi dataset=imagefolder dataset.root=PATH

A line a network: its preprocessing, and the share of labelled images whose class it puts first, and among its first five, with
95% bootstrap intervals. Other keys are run.py's: dataset=, dataset.root=, dataset.limit=, device=, workers=, model.checkpoint=.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from experiments.command.configuration import Run, read
from experiments.command.options import Names, parse, split, wants_help
from experiments.command.program import EXIT_OK, composed, guarded
from experiments.command.progress import tell
from experiments.tables.text import interval, table
from metrics.statistics import mean_interval
from suny.configured import configured
from suny.errors import UserError

if TYPE_CHECKING:
    from suny.classifiers.classifier import Classifier

HEAD = ("network", "view", "images", "top-1", "top-5")

_FIRST = 5


@configured
class Options:
    """The keys of this command's own."""

    model: Annotated[Names, Field(min_length=1)] = ("efficientnet_lite0",)


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    own, others = split(Options, arguments)
    print(table(HEAD, [_line(name, read(composed([f"model={name}", *others]))) for name in parse(Options, own).model]))
    return EXIT_OK


def _line(name: str, run: Run) -> list[Any]:
    classifier = run.model.build()
    ranks = ranks_of_labels(run, classifier)
    view = classifier.view
    shares = [interval(mean_interval([float(r < k) for r in ranks])) for k in (1, _FIRST)]
    return [name, f"{view.resize} {view.interpolation}, {view.crop}", len(ranks), *shares]


def ranks_of_labels(run: Run, classifier: Classifier) -> list[int]:
    """How many classes the network finds more probable than the right one, for each labelled image.

    Raises:
        UserError: the data set has no labels that the network's outputs can be compared with.
    """
    from experiments.cell.labels import with_comparable_labels  # not above: these need torch
    from experiments.cell.prefetch import prefetch
    from suny.classifiers.engine import Engine, pick_device

    samples, notes = with_comparable_labels(run, run.dataset.load(), classifier)
    for note in notes:
        tell(f"note: {note}")
    if not any(s.label is not None for s in samples):
        raise UserError(f"dataset={run.dataset.name} has no labels of the classes of {run.model.name}.")
    settings = run.settings
    engine = Engine.of(classifier, pick_device(settings.device), settings.precision, settings.batch_size, settings.compile)
    ranks = []
    for sample, loaded in prefetch(samples, classifier.view, settings.workers):
        output = None if sample.label is None else classifier.output(sample.label)
        if output is not None:
            logits = engine.logits(loaded().pixels[None])[0]
            ranks.append(int((logits > logits[output]).sum()))
    return ranks


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
