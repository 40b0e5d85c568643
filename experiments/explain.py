"""Explains one image file: ``python -m experiments.explain IMAGE [key=value ...]``.

Prints the network's top-5 classes and writes one picture: input, necessity, sufficiency, the two-dimensional map with its
colour square, and the overlay; of several methods (``method=suny,gradcam``, or ``method=all``) one overlay each. Own keys:

    target=CLASS   the class to explain: an index, a WordNet id or a name; default: predicted, the network's top-1
    out=FILE       the picture; default: <image>-<method>.png in the current folder
    arrays=FILE    also writes the maps as NumPy arrays (.npz: saliency, necessity, sufficiency, image; of several
                   methods saliency-<method>)

All others are those of run.py: method=, model=, model.checkpoint=, device=, seed=, ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from experiments.command import configuration as config
from experiments.command.program import EXIT_OK, composed, guarded
from experiments.command.progress import tell
from experiments.store.records import writing
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, pick_device
from suny.errors import UserError, nearest
from suny.images.dataset import imagenet_classes
from suny.images.decode import UnreadableImage, decode
from suny.seeds import image_seed

_OWN = ("target", "out", "arrays")


def main(arguments: Sequence[str]) -> int:
    if not arguments or any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    image, own, overrides = _parsed(arguments)
    methods, overrides = _methods(overrides)
    runs = [config.read(composed([*overrides, *m])) for m in methods]
    run = runs[0]
    path = Path(image).expanduser()
    if not path.is_file():
        raise UserError(f"{image} is not a file: give the image to explain first, then key=value.")
    try:
        decoded = decode(path)
    except UnreadableImage as error:
        raise UserError(f"cannot read the image {error}.") from error
    device = pick_device(run.settings.device)
    classifier = run.model.build()
    for note in classifier.notes:
        tell(f"note: {note}")
    engine = Engine.of(classifier, device, run.settings.precision, run.settings.batch_size, run.settings.compile)
    x = classifier.view(decoded.image).to(device)
    probabilities = engine.probabilities(x[None])[0]
    if not bool(probabilities.isfinite().all()):
        raise UserError(f"{classifier.name} returns NaN or infinite outputs for {path}: its weights are damaged.")
    wanted = own.get("target", "predicted")
    target = int(probabilities.argmax()) if wanted == "predicted" else class_index(wanted, classifier)

    print(f"{path.name}: top-5 of {classifier.name}")
    best = probabilities.topk(min(5, len(probabilities)))
    for p, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {p:.4f}  {classifier.label(index):4d}  {classifier.class_name(index)}")

    seed = image_seed(run.settings.seed, path.stem)
    found = {}
    for one in tqdm(runs, unit="method", disable=len(runs) == 1):
        found[one.explainer.name] = one.explainer.explain(engine, x[None], torch.tensor([target]), [seed])
    out = Path(own.get("out", f"{path.stem}-{run.explainer.name if len(runs) == 1 else 'methods'}.png")).expanduser()
    visible = classifier.view.visible(decoded.image)
    from experiments.figures.explanation import save_grid, save_picture  # not above: mistakes are told without it

    caption = f"{path.name}: {classifier.class_name(target)}, p = {float(probabilities[target]):.3f}"
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            if len(runs) == 1:
                save_picture(out, visible, found[run.explainer.name], caption)
            else:
                save_grid(out, visible, found, caption)
        except ValueError as error:
            raise UserError(f"out={out}: {error}.") from error
    print(f"picture: {out}")
    if own.get("arrays"):
        arrays = Path(own["arrays"]).expanduser().with_suffix(".npz")
        maps = {f"saliency-{name}": one.saliency for name, one in found.items()}
        if len(runs) == 1:
            (one,) = found.values()
            maps = {"saliency": one.saliency, "necessity": one.necessity, "sufficiency": one.sufficiency}
        with writing(arrays.parent):
            arrays.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(
                arrays,
                image=np.asarray(visible),
                **{name: value[0].cpu().numpy() for name, value in maps.items() if value is not None},
            )
        print(f"arrays: {arrays}")
    return EXIT_OK


def _parsed(arguments: Sequence[str]) -> tuple[str, dict[str, str], list[str]]:
    """The image, this program's own keys, and the overrides for the configuration."""
    images = [a for a in arguments if "=" not in a or Path(a).is_file()]
    if len(images) != 1:
        raise UserError(f"give one image to explain, not {len(images)}: python -m experiments.explain IMAGE [key=value ...]")
    pairs = [a for a in arguments if a != images[0]]
    own = {key: value for key, _, value in (a.partition("=") for a in pairs) if key in _OWN}
    overrides = [a for a in pairs if a.partition("=")[0] not in _OWN]
    return images[0], own, overrides


def _methods(overrides: Sequence[str]) -> tuple[list[list[str]], list[str]]:
    """The overrides that choose each method, and the others; ``method=all`` is every conf file."""
    chosen = [a for a in overrides if a.startswith("method=")]
    names = chosen[-1].removeprefix("method=").split(",") if chosen else []
    if names == ["all"]:
        names = sorted(p.stem for p in (config.CONF / "method").glob("*.yaml"))
    others = [a for a in overrides if not a.startswith("method=")]
    return [[f"method={name}"] for name in names] or [[]], others


def class_index(wanted: str, classifier: Classifier) -> int:
    """The output for a class by index, WordNet id or name (as a whole, or one of its comma-separated synonyms).

    Raises:
        UserError: out of range, or no such class.
    """
    if wanted.isdecimal():
        output = classifier.output(int(wanted))
        if output is None:
            known = sorted(classifier.label(k) for k in range(classifier.num_classes))
            valid = f"{known[0]}..{known[-1]}" if known[-1] - known[0] + 1 == len(known) else ", ".join(map(str, known))
            raise UserError(f"target={wanted}: {classifier.name} has the classes {valid}.")
        return output
    names: dict[str, int] = {}
    for index, name in classifier.class_names.items():
        for synonym in (name, *name.split(",")):
            names.setdefault(synonym.strip().lower(), index)
    if classifier.label_space == "imagenet":
        found = {wnid: classifier.output(index) for wnid, (index, _) in imagenet_classes().items()}
        names |= {wnid: output for wnid, output in found.items() if output is not None}
    if wanted.lower() not in names:
        raise UserError(f"target={wanted} is no class of {classifier.name}. {nearest(wanted.lower(), names)}")
    return names[wanted.lower()]


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
