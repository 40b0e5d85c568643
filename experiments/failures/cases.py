"""Finds and explains misclassified images: what suffices for the family, and what is necessary for either species."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pydantic
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.cell.cell import parts_in_view
from experiments.cell.labels import with_class_ids, with_comparable_labels
from experiments.command import configuration as config
from experiments.command import data_folders
from experiments.command.configuration import Run
from experiments.command.progress import tell
from experiments.failures.drawing import CaseMap, save_case
from experiments.store.card import carry_card, make_card
from experiments.store.records import AnyRecord, CellFolder, Contract, Record, writing
from experiments.training.data import outputs, readable
from metrics.base import Case, Part, Side
from metrics.localization import PartHits
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, pick_device
from suny.classifiers.merged_classes import together
from suny.errors import UserError
from suny.explanation import StoredMaps, explained, refuse_without_layer, with_empty_flag
from suny.images.dataset import ImageList, Sample, draw
from suny.images.decode import decode
from suny.seeds import image_seed

# The maps of a case, as records and tables name them.
MAPS = {
    "family": "sufficiency of the family",
    "predicted": "necessity of the predicted",
    "true": "necessity of the true",
}


class _HitParts(pydantic.BaseModel):
    hit: list[str]


class _CaseRecord(AnyRecord):
    visible: list[str]
    maps: dict[Literal["family", "predicted", "true"], _HitParts]


_CASE: Contract = pydantic.TypeAdapter(_CaseRecord)


@dataclass(frozen=True)
class FailureStudy:
    """The misclassified images of one data set and network, and the method that explains them.

    Args:
        run: the configuration, as objects.
        images: those of the data set that can be read.
        samples: the same, with labels that can be compared with predictions.
        classifier: the network.
        engine: runs it.
        caches: the folder where its outputs are stored.
    """

    run: Run
    images: ImageList
    samples: Sequence[Sample]
    classifier: Classifier
    engine: Engine
    caches: Path

    @classmethod
    def of(cls, run: Run, caches: Path) -> FailureStudy:
        """The study of a configuration.

        Raises:
            UserError: a method without a map for each side, labels that are not the network's classes, or any other mistake.
        """
        if isinstance(run.explainer, StoredMaps) or not getattr(run.explainer, "two_sided", False):
            raise UserError(
                f"method={run.explainer.name} has no map for each side: give method=suny, suny_filter or suny_region."
            )
        device = pick_device(run.settings.device)
        images = readable(data_folders.load(run.dataset, config.file_cache(run.dataset, str(caches))), run.dataset.strict)
        classifier = with_class_ids(run, images, run.model.build())
        refuse_without_layer(run.explainer, classifier)
        samples, notes = with_comparable_labels(run, images, classifier)
        for note in (*images.notes, *classifier.notes, *notes):
            tell(f"note: {note}")
        other = (images.label_space == "imagenet") != (classifier.label_space == "imagenet")
        if other or any(s.label is None for s in samples):
            raise UserError(
                f"dataset={run.dataset.name} has no labels that {run.model.name} knows, so that no image is misclassified: "
                "give model.checkpoint=FILE, trained on this data set (python -m experiments.train)."
            )
        engine = Engine.of(classifier, device, run.settings.precision, run.settings.batch_size, run.settings.compile)
        return cls(run, images, samples, classifier, engine, caches)

    def find_misclassified(self, workers: int) -> tuple[dict[Sample, int], int]:
        """The misclassified images with the outputs that they are taken for, and how many images were classified.

        Args:
            workers: processes that decode.
        """
        view, strict = self.classifier.view, self.run.dataset.strict
        logits, places = outputs(self.engine, view, self.images, workers, strict, self.caches, "classifying")
        guesses = zip(places, logits.argmax(1).tolist(), strict=True)
        classified = [(self.samples[at], guess) for at, guess in guesses]
        return {s: guess for s, guess in classified if self.classifier.label(guess) != s.label}, len(places)

    def explain_cases(self, wrong: Mapping[Sample, int], count: int | None, out: Path) -> tuple[Path, list[Record]]:
        """Explains some of the misclassified images, those that are not recorded yet.

        Args:
            wrong: the misclassified images and what they are taken for.
            count: how many are drawn; None: all.
            out: the folder of results.

        Returns: the folder of this study, and the records of the images that were drawn.
        """
        chosen = draw(list(wrong), count, self.run.settings.seed)
        card = make_card(self.run, self.images, self.classifier, self.engine.device)
        folder = out / self.run.dataset.name / self.run.model.name / f"{self.run.explainer.name}-{card['hash'][:8]}"
        with CellFolder.open(folder, _CASE) as cell:
            for repair in cell.repairs:
                tell(f"note: {repair}")
            old = cell.read_card()
            left = [s for s in chosen if s.image not in cell.records or not _picture(folder, s).exists()]
            carry_card(cell, old, card, unfinished=bool(left))
            done = len(chosen) - len(left)
            for sample in tqdm(left, initial=done, total=len(chosen), desc="cases", unit="case", smoothing=0):
                record = self.explain_case(sample, wrong[sample], folder)
                if sample.image not in cell.records:
                    cell.append(record)
            return folder, [cell.records[s.image] for s in chosen]

    def explain_case(self, sample: Sample, guess: int, folder: Path) -> Record:
        """Explains a misclassified image, draws its picture and returns its record."""
        classifier, engine = self.classifier, self.engine
        true = classifier.output(int(sample.label or 0))
        assert true is not None  # labels were checked before
        decoded = decode(sample.path)
        pixels = classifier.view(decoded.image).to(engine.device)
        parts = parts_in_view(classifier.view, sample, decoded.image.size)
        name, members = family_of_outputs(classifier, guess, true)
        merged = Engine.of(together(classifier, members, name), engine.device, engine.precision, engine.batch_size)
        seed = image_seed(self.run.settings.seed, sample.image)

        def make_map(engine: Engine, target: int, side: Side, title: str) -> CaseMap:
            explanation = with_empty_flag(explained(self.run.explainer, engine, pixels[None], torch.tensor([target]), [seed]))
            values = torch.nan_to_num(getattr(explanation, side)[0], nan=0.0, posinf=0.0, neginf=0.0)
            p, hit = _probability_and_hits(engine, pixels, target, values, parts)
            diagnostics = explanation.diagnostics[0] if explanation.diagnostics else {}
            return CaseMap(f"{side} of {title}", side, values, p, hit, diagnostics)

        taken_for, species = caption_name(classifier, guess), caption_name(classifier, true)
        maps = {
            "family": make_map(merged, 0, "sufficiency", name),
            "predicted": make_map(engine, guess, "necessity", taken_for),
            "true": make_map(engine, true, "necessity", species),
        }
        picture = _picture(folder, sample)
        with writing(picture.parent):
            picture.parent.mkdir(parents=True, exist_ok=True)
            caption = f"{sample.image}: taken for {taken_for}, is {species}"
            save_case(picture, classifier.view.visible(decoded.image), maps, parts, caption)
        return {
            "image": sample.image,
            "status": "ok",
            "label": sample.label,
            "predicted": classifier.label(guess),
            "family": sorted(classifier.label(k) for k in members),
            "visible": [part for part, _, _ in parts],
            "maps": {key: {"p": m.p, "hit": m.hit, "diagnostics": m.diagnostics} for key, m in maps.items()},
        }


def _probability_and_hits(
    engine: Engine, pixels: Tensor, target: int, values: Tensor, parts: Sequence[Part]
) -> tuple[float, list[str]]:
    """The probability of the explained output, and the visible parts that the map hits."""
    case = Case(engine, pixels, target, values, parts=parts)
    PartHits(name="hit").measure(case)
    # a map that is 0 everywhere has no most salient pixels
    return case.p, case.notes.get("hit", []) if bool(values.max() > 0) else []


def family_of_outputs(classifier: Classifier, predicted: int, true: int) -> tuple[str, set[int]]:
    """The family of two outputs, its name and its members: all outputs whose last words are those of the two.

    Where these are all outputs that there are, the family is the predicted one alone.
    """
    words = {k: _last_word(classifier.class_name(k)) for k in range(classifier.num_classes)}
    names = list(dict.fromkeys((words[predicted], words[true])))
    members = {k for k, word in words.items() if word in names}
    if len(members) == classifier.num_classes:
        return caption_name(classifier, predicted), {predicted}
    return " or ".join(names), members


def _last_word(name: str) -> str:
    """The last word of a class's first name: ``001.Black_footed_Albatross`` is an Albatross."""
    return (re.findall(r"[^\W_]+", name.split(",")[0]) or [name])[-1]


def caption_name(classifier: Classifier, output: int) -> str:
    """A class's name for a caption: without CUB's number and underscores."""
    return re.sub(r"^\d+\.", "", classifier.class_name(output)).replace("_", " ")


def _picture(folder: Path, sample: Sample) -> Path:
    return folder / "cases" / f"{sample.image}.png"
