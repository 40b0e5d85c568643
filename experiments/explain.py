"""Explains one image file: ``python -m experiments.explain IMAGE [key=value ...]``.

Prints the network's top-5 classes and writes one picture: input, necessity, sufficiency, the two-dimensional map with its
colour square, and the overlay; of several methods (``method=suny,gradcam``, or ``method=all``) one overlay each. Own keys:

    target=CLASS   the class to explain: an index, a WordNet id or a name; default: predicted, the network's top-1
    out=FILE       the picture; default: <results_dir>/explained/<image>-<method>.png
    arrays=FILE    also writes the maps as NumPy arrays (.npz: saliency, necessity, sufficiency, n_error, s_error,
                   image, as far as the method has them; of several methods saliency-<method>)
    colours=published  necessity in blue instead of cyan, as in earlier pictures; default: even

All others are those of run.py: method=, model=, model.checkpoint=, device=, seed=, ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from experiments.cell.single import classify_file
from experiments.command import configuration as config
from experiments.command import data_folders
from experiments.command.options import Names, OptionalPlace, parse, refuse_flags, split, wants_help
from experiments.command.program import EXIT_OK, composed, guarded
from experiments.store.records import writing
from suny.bivariate import Colours
from suny.configured import configured
from suny.errors import UserError


@configured
class Options:
    """The keys of this command beside those of run.py, and ``method``, of which it takes several."""

    target: str = "predicted"
    out: OptionalPlace = None
    arrays: OptionalPlace = None
    method: Names = ()
    colours: Colours = "even"


def main(arguments: Sequence[str]) -> int:
    if not arguments or wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    refuse_flags(arguments)
    images = [a for a in arguments if "=" not in a or Path(a).is_file()]
    if len(images) != 1:
        raise UserError(f"give one image to explain, not {len(images)}: python -m experiments.explain IMAGE [key=value ...]")
    own, overrides = split(Options, [a for a in arguments if a != images[0]])
    options = parse(Options, own)
    methods = config.choices("method") if options.method == ("all",) else options.method
    runs = [config.read(composed([*overrides, *chosen])) for chosen in [[f"method={m}"] for m in methods] or [[]]]
    for key, file in (("out", options.out), ("arrays", options.arrays)):
        if file:
            data_folders.refuse(file, key)
    image = classify_file(Path(images[0]).expanduser(), runs[0], options.target)
    print(image.top_classes)
    explanations = image.explain(runs)

    name = runs[0].explainer.name if len(runs) == 1 else "methods"
    out = options.out or Path(runs[0].settings.results_dir).expanduser() / "explained" / f"{image.path.stem}-{name}.png"
    from experiments.figures.explanation import save_grid, save_picture  # not above: mistakes are told without it

    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if len(runs) == 1:
                save_picture(out, image.visible, explanations[name], image.caption, colours=options.colours)
            else:
                save_grid(out, image.visible, explanations, image.caption, options.colours)
        except ValueError as error:
            raise UserError(f"out={out}: {error}.") from error
    print(f"picture: {out}")
    if options.arrays:
        arrays = options.arrays.with_suffix(".npz")
        with writing(arrays.parent):
            arrays.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(arrays, **image.arrays(explanations))
        print(f"arrays: {arrays}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
