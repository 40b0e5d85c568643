"""Explains one image file: ``python -m experiments.explain IMAGE [key=value ...]``.

Prints the network's top-5 classes and writes one picture: input, necessity, sufficiency, the two-dimensional map with its
colour square, and the overlay. Keys of its own:

    target=CLASS   the class to explain: an index, a WordNet id or a name; default: the network's top-1
    out=FILE       the picture; default: <image>-<method>.png in the current folder
    arrays=FILE    also writes the maps as NumPy arrays (.npz: saliency, necessity, sufficiency, image)

All others are those of run.py: method=, model=, model.checkpoint=, device=, seed=, ...
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from experiments import config
from experiments.cli import EXIT_OK, composed, guarded
from experiments.picture import save_picture
from experiments.records import writing
from experiments.runner import image_seed
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, pick_device
from suny.errors import UserError, nearest
from suny.images.dataset import imagenet_classes
from suny.images.decode import UnreadableImage, decode

_OWN = ("target", "out", "arrays")


def main(arguments: Sequence[str]) -> int:
    if not arguments or any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    image, own, overrides = _parsed(arguments)
    run = config.read(composed(overrides))
    path = Path(image).expanduser()
    if not path.is_file():
        raise UserError(f"{image} is not a file: give the image to explain first, then key=value.")
    try:
        decoded = decode(path)
    except UnreadableImage as error:
        raise UserError(f"cannot read the image {error}.") from error
    device = pick_device(run.settings.device)
    classifier = run.model.build()
    engine = Engine.of(classifier, device, run.settings.precision, run.settings.batch_size)
    x = classifier.view(decoded.image).to(device)
    probabilities = engine.probabilities(x[None])[0]
    target = int(probabilities.argmax()) if "target" not in own else class_index(own["target"], classifier)

    print(f"{path.name}: top-5 of {classifier.name}")
    best = probabilities.topk(min(5, len(probabilities)))
    for p, index in zip(best.values.tolist(), best.indices.tolist(), strict=True):
        print(f"  {p:.4f}  {index:4d}  {classifier.class_name(index)}")

    explanation = run.explainer.explain(engine, x[None], torch.tensor([target]), [image_seed(run.settings.seed, path.stem)])
    out = Path(own.get("out", f"{path.stem}-{run.explainer.name}.png")).expanduser()
    visible = classifier.view.visible(decoded.image)
    caption = f"{path.name}: {classifier.class_name(target)}, p = {float(probabilities[target]):.3f}"
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            save_picture(out, visible, explanation, caption)
        except ValueError as error:
            raise UserError(f"out={out}: {error}.") from error
    print(f"picture: {out}")
    if "arrays" in own:
        arrays = Path(own["arrays"]).expanduser().with_suffix(".npz")
        maps = {
            "saliency": explanation.saliency,
            "necessity": explanation.necessity,
            "sufficiency": explanation.sufficiency,
        }
        with writing(arrays.parent):
            arrays.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(
                arrays,
                image=np.asarray(visible),
                **{name: value[0].cpu().numpy() for name, value in maps.items() if value is not None},  # type: ignore[arg-type]
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


def class_index(wanted: str, classifier: Classifier) -> int:
    """A class by index, WordNet id or name (as a whole, or one of its comma-separated synonyms).

    Raises:
        UserError: out of range, or no such class.
    """
    if wanted.isdecimal():
        if int(wanted) >= classifier.num_classes:
            raise UserError(f"target={wanted}: {classifier.name} has the classes 0..{classifier.num_classes - 1}.")
        return int(wanted)
    names: dict[str, int] = {}
    for index, name in classifier.class_names.items():
        for synonym in (name, *name.split(",")):
            names.setdefault(synonym.strip().lower(), index)
    if classifier.label_space == "imagenet":
        names |= {wnid: index for wnid, (index, _) in imagenet_classes().items()}
    if wanted.lower() not in names:
        raise UserError(f"target={wanted} is no class of {classifier.name}. {nearest(wanted.lower(), names)}")
    return names[wanted.lower()]


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
