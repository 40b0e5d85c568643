"""One image file, explained by one or several methods outside any cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from experiments.command.configuration import Run
from experiments.command.progress import tell
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, pick_device
from suny.errors import UserError, nearest
from suny.explanation import ERRORS, SIDES, Explanation, explained, with_empty_flag
from suny.images.dataset import imagenet_classes
from suny.images.decode import UnreadableImage, decode
from suny.seeds import image_seed


@dataclass(frozen=True)
class ClassifiedFile:
    """An image file, what the network makes of it, and the class that is to be explained.

    Args:
        path: the file.
        engine: runs the network.
        classifier: the network.
        visible: what the network sees of the image.
        pixels: the same, (3, H, W), on the engine's device.
        probabilities: those of all classes, (K,).
        target: the output to explain.
    """

    path: Path
    engine: Engine
    classifier: Classifier
    visible: Image.Image
    pixels: Tensor
    probabilities: Tensor
    target: int

    @property
    def caption(self) -> str:
        p = float(self.probabilities[self.target])
        return f"{self.path.name}: {self.classifier.class_name(self.target)}, p = {p:.3f}"

    @property
    def top_classes(self) -> str:
        """The five most probable classes, a line each: probability, index, name."""
        best = self.probabilities.topk(min(5, len(self.probabilities)))
        lines = [
            f"  {p:.4f}  {self.classifier.label(index):4d}  {self.classifier.class_name(index)}"
            for p, index in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        return "\n".join([f"{self.path.name}: top-5 of {self.classifier.name}", *lines])

    def explain(self, runs: Sequence[Run]) -> dict[str, Explanation]:
        """Explanations by method, each a batch of one."""
        seed = image_seed(runs[0].settings.seed, self.path.stem)
        return {
            one.explainer.name: with_empty_flag(
                explained(one.explainer, self.engine, self.pixels[None], torch.tensor([self.target]), [seed])
            )
            for one in (tqdm(runs, unit="method") if len(runs) > 1 else runs)
        }

    def arrays(self, explanations: Mapping[str, Explanation]) -> dict[str, Any]:
        """The image as the network sees it, and the maps: of one method all that it has, of several their saliency."""
        maps: dict[str, Tensor | None] = {f"saliency-{name}": e.saliency for name, e in explanations.items()}
        if len(explanations) == 1:
            (one,) = explanations.values()
            maps = {name: getattr(one, name) for name in (*SIDES, *ERRORS)}
        arrays = {name: value[0].cpu().numpy() for name, value in maps.items() if value is not None}
        return {"image": np.asarray(self.visible), **arrays}


def classify_file(path: Path, run: Run, wanted: str) -> ClassifiedFile:
    """Decodes and classifies one image file.

    Args:
        path: the file.
        run: network, device and precision.
        wanted: the class to explain (:func:`class_index`); ``predicted``: the network's top-1.

    Raises:
        UserError: the file can't be read, the network has no such class, or returns NaN.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the image to explain first, then key=value.")
    try:
        decoded = decode(path)
    except UnreadableImage as error:
        raise UserError(f"cannot read the image {error}.") from error
    device = pick_device(run.settings.device)
    classifier = run.model.build()
    for note in classifier.notes:
        tell(f"note: {note}")
    engine = Engine.of(classifier, device, run.settings.precision, run.settings.batch_size, run.settings.compile)
    pixels = classifier.view(decoded.image).to(device)
    probabilities = engine.probabilities(pixels[None])[0]
    if not bool(probabilities.isfinite().all()):
        raise UserError(f"{classifier.name} returns NaN or infinite outputs for {path}: its weights are damaged.")
    target = int(probabilities.argmax()) if wanted == "predicted" else class_index(wanted, classifier)
    return ClassifiedFile(path, engine, classifier, classifier.view.visible(decoded.image), pixels, probabilities, target)


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
        outputs = {wnid: classifier.output(index) for wnid, (index, _) in imagenet_classes().items()}
        names |= {wnid: output for wnid, output in outputs.items() if output is not None}
    if wanted.lower() not in names:
        raise UserError(f"target={wanted} is no class of {classifier.name}. {nearest(wanted.lower(), names)}")
    return names[wanted.lower()]
