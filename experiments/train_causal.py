"""Trains the network of a world of causal shapes: ``python -m experiments.train_causal [key=value ...]``.

    world=main       main | dev (suny/images/scenes.py)
    out=FILE         where the weights go; empty: suny/classifiers/causal_cnn_<world>.safetensors
    scenes=14000     training scenes; 2000 others are for the check
    epochs=24        about four minutes on two CPU cores
    seed=0

So that the network follows the rules and nothing that goes with them, it also learns from interventions: shapes erased, or
everything else; and from images of which parts are covered by plain colour, hard or soft, where a shape counts as there
with three fifths of it in sight, and as gone with less than one fifth (in between, where the class depends on it, the
image is left whole). What methods do to an image is so no surprise to it.

At the end it says how many images of new scenes it gets right: as they are, and under every single intervention.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field
from safetensors.torch import save

from experiments.command.options import OptionalPlace, parse, wants_help
from experiments.command.program import EXIT_OK, guarded
from experiments.store.records import write_atomically, writing
from experiments.training import causal
from suny.configured import Seed, configured
from suny.errors import UserError
from suny.images.scenes import WORLDS


@configured
class Options:
    """The keys of this command."""

    world: str = "main"
    out: OptionalPlace = None
    scenes: Annotated[int, Field(ge=causal.BATCH)] = 14000
    epochs: Annotated[int, Field(ge=1)] = 24
    seed: Seed = 0


def main(arguments: Sequence[str]) -> int:
    if wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    options = parse(Options, arguments)
    if options.world not in WORLDS:
        raise UserError(f"world={options.world} is unknown: choose {' or '.join(WORLDS)}.")
    world, seed = WORLDS[options.world], options.seed
    default = Path(__file__).resolve().parent.parent / "suny" / "classifiers" / f"causal_cnn_{options.world}.safetensors"
    out = options.out or default
    network = causal.train(world, causal.drawn(world, options.scenes, seed, "training scenes"), options.epochs, seed)
    state = {k: v.contiguous() for k, v in network.state_dict().items()}
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(out, save(state))
    for name, (right, n) in causal.accuracy(network, causal.drawn(world, causal.CHECKED, seed + 1, "new scenes")).items():
        print(f"{name}: {right} of {n} images right ({right / n:.2%})")
    print(f"weights: {out}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
