"""One cell: data, network, method and seed, with the metrics that are asked for.

    prepare     checks everything that can be checked before anything is computed, and writes the card
    load        decodes an image, ahead of its turn
    explain     p of all classes, the explained class, the maps
    check       that the maps keep the contract of explainers
    measure     every metric
    record      one line, written and synced at once

A recorded image is not done again. Metrics that it lacks are measured on its stored maps; where there are none, it is explained
again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.cell.ending import CellProgress, FinishedCell
from experiments.cell.labels import with_class_ids, with_comparable_labels
from experiments.cell.prefetch import LoadedImage, prefetch
from experiments.command import data_folders
from experiments.command.configuration import Run
from experiments.command.progress import ProgressBar, note, tell
from experiments.store.card import carry_card, make_card, superseded, with_columns
from experiments.store.files import ImageFiles
from experiments.store.reading import summary_of, was_explained
from experiments.store.records import CellFolder, Record, digest_of
from experiments.store.shards import entered, merge, recorded
from metrics.base import Case, Frame, Metric, Need, Part, measure
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Cost, Engine, pick_device
from suny.errors import UserError
from suny.explanation import (
    Explanation,
    MissingMap,
    StoredMaps,
    explained,
    is_degenerate,
    refuse_without_layer,
    with_empty_flag,
)
from suny.images.dataset import ImageList, Sample, object_in_view, upright_annotated_mask, upright_annotation
from suny.images.decode import Decoded, UnreadableImage
from suny.images.geometry import Box
from suny.images.masks import Mask
from suny.images.view import View
from suny.interventions.pixels import tied_fraction
from suny.later import import_all
from suny.seeds import image_seed


@dataclass(frozen=True)
class ExplainedImage:
    """One explained image.

    Args:
        decoded: the image.
        pixels: the image as the network sees it, (3, H, W), on the engine's device.
        p: probability of the explained class.
        target: the explained output.
        predicted: the output with the largest probability.
        explanation: a batch of one.
        cost, seconds: the passes and the time that explaining took.
    """

    decoded: Decoded
    pixels: Tensor
    p: float
    target: int
    predicted: int
    explanation: Explanation
    cost: Cost
    seconds: float


class Cell:
    """One cell, from its configuration to its summary.

    Attributes:
        run: its configuration, as objects.
        device: where the network runs.
        classifier: the network.
        samples: all images of the cell, with labels that can be compared with predictions.
        metrics: those that can be measured, by name.
        notes: what the user should know, one line each.
        label_notes: those of them that say what labels can be compared with.
        card: the card of the cell, with these metrics as its columns.
        keys: the keys of the metrics' columns in records.
        folder: the cell's folder.
    """

    def __init__(self, run: Run, device: torch.device, images: ImageList, classifier: Classifier) -> None:
        """Checks what can be checked before anything is computed; writes nothing.

        Args:
            run: the cell's configuration.
            device: where the network will run.
            images: the list of its data set.
            classifier: its network.

        Raises:
            UserError: any mistake of the input.
        """
        if not classifier.class_names and len(images.class_names) == classifier.num_classes:
            classifier = replace(classifier, class_names=images.class_names)
        classifier = with_class_ids(run, images, classifier)
        refuse_without_layer(run.explainer, classifier)
        self.run, self.device, self.classifier = run, device, classifier
        self.samples, self.label_notes = with_comparable_labels(run, images, classifier)
        self.metrics, skipped = _measurable(run, images)
        skips = [f"{name} is skipped: {why}" for name, why in skipped.items()]
        self.notes = (*images.notes, *classifier.notes, *self.label_notes, *skips)
        self.card, self.keys = with_columns(make_card(run, images, classifier, device), self.metrics)
        place = Path(run.settings.results_dir).expanduser() / run.dataset.name / run.model.name
        self.folder = place / f"{run.explainer.name}-{self.card['hash'][:8]}"
        data_folders.refuse(run.settings.results_dir, "results_dir")

    @property
    def title(self) -> str:
        part = "" if self.run.shard.whole else f" {self.run.shard.name}"
        return f"{self.run.dataset.name}/{self.run.model.name}/{self.run.explainer.name}{part}"

    @cached_property
    def files(self) -> dict[str, ImageFiles]:
        """The files of each image."""
        settings = self.run.settings
        return {
            s.image: ImageFiles.of(self.folder, s.image, at < settings.pictures, settings.maps)
            for at, s in enumerate(self.samples)
        }

    def engine(self, batch_size: Any) -> Engine:
        settings = self.run.settings
        return Engine.of(self.classifier, self.device, settings.precision, batch_size, settings.compile)

    # The whole cell, down to its summary.

    def join(self, card: Mapping[str, Any]) -> None:
        """Adds the metrics to the columns of the card that lies in the folder already."""
        self.card, self.keys = with_columns({**self.card, "columns": card["columns"]}, self.metrics)

    def compute(self) -> FinishedCell | CellProgress:
        """Computes what the cell, or a shard of it, lacks, and summarises the cell once it lacks nothing.

        Raises:
            UserError: any mistake of the input; records that were written before stay.
            KeyboardInterrupt: stopped by the user; the same run continues.
        """
        superseding = [] if self.folder.exists() else superseded(self.folder, self.card)
        for text in dict.fromkeys([*self.notes, *superseding]):
            note(text)
        order = [s.image for s in self.samples]
        shard = self.run.shard
        with entered(self.folder, shard) as (own, whole):
            for repair in own.repairs:
                tell(f"note: {repair}")
            with whole() as folder:
                if shard.whole:
                    merge(folder, order)
                old = folder.read_card()
                if old is not None:
                    self.join(old)
                known = recorded(folder)
                mine = [s for at, s in enumerate(self.samples) if shard.has(at)]
                left = [s for s in mine if s.image not in known]
                lacking = [s for s in mine if s.image in known and self.lacks(known[s.image])]
                batch_size = old["batch_size"] if old else self.card["batch_size"]
                engine = None
                if (left or lacking) and batch_size == "auto":
                    # calibrated once, so that a continued cell repeats its numbers, and shards agree
                    engine = self.engine(batch_size)
                    self.card["batch_size"] = engine.batch_size
                carry_card(folder, old, self.card, unfinished=bool(left or lacking))
            if left or lacking:
                import_all()
                engine = engine or self.engine(batch_size)
                self._record_all(engine, own, left, len(mine))
                self._complete_all(engine, own, lacking, known)
            with whole() as folder:
                records = recorded(folder)
                done = sum(i in records and not self._columns_missing(records[i]) for i in order)
                if done < len(order):
                    return CellProgress(self.folder, done, len(order))
                merge(folder, order, own)
                complete = [folder.records[image] for image in order]
                if folder.read_summary(digest_of(complete)) is None:
                    folder.write_summary(summary_of(self.card, complete))
        return FinishedCell(self.folder, self.keys, self.label_notes)

    def _record_all(self, engine: Engine, folder: CellFolder, samples: Sequence[Sample], count: int) -> None:
        """Records the images that are not recorded yet.

        Args:
            engine: runs the network.
            folder: the records go there.
            samples: the images.
            count: all images of the cell or shard, for the progress bar.
        """
        done = count - len(samples)
        ahead = prefetch(samples, self.classifier.view, self.run.settings.workers)
        with closing(ProgressBar(self.title, done, count)) as bar, closing(ahead) as coming:
            for at, (sample, loaded) in enumerate(coming, done):
                write = partial(self.write, self.files[sample.image], sample, again=True)
                try:
                    # the engine's own passes halve their batches by themselves; this does it for memory beside them
                    folder.append(engine.fitting(partial(self.record, engine, sample, loaded, write)))
                except KeyboardInterrupt:
                    bar.close()
                    tell(f"stopped: {at} of {count} images done; the same command continues.")
                    raise
                bar.update()

    def _complete_all(self, engine: Engine, folder: CellFolder, samples: Sequence[Sample], known: Mapping[str, Record]) -> None:
        """Adds to recorded images what they lack: columns, curves, pictures, maps."""
        if not samples:
            return
        self._tell_of_completion(samples, known)
        ahead = prefetch(samples, self.classifier.view, self.run.settings.workers)
        with closing(ProgressBar(self.title, 0, len(samples))) as bar, closing(ahead) as coming:
            for at, (sample, loaded) in enumerate(coming):
                record = known[sample.image]
                write = partial(self.write, self.files[sample.image], sample, again=False)
                try:
                    completed = engine.fitting(partial(self.complete, engine, sample, record, loaded, write))
                    if completed is not record:
                        folder.append(completed)
                except KeyboardInterrupt:
                    bar.close()
                    tell(f"stopped: {at} of {len(samples)} images completed; the same command continues.")
                    raise
                except UnreadableImage as error:
                    raise UserError(f"image {sample.image} was read before and can't be read now: {error}.") from error
                bar.update()

    def _tell_of_completion(self, samples: Sequence[Sample], known: Mapping[str, Record]) -> None:
        """Says what is added to images that are recorded already, and what it costs."""
        read = [s for s in samples if was_explained(known[s.image])]
        missing = {name: None for s in read for name in self._missing(known[s.image])}
        again = [s for s in read if not self._maps_suffice(s, list(self._missing(known[s.image])))]
        if not read or not missing:
            return
        names = ", ".join(missing)
        if not again:
            tell(f"note: {names}: measured on the stored maps of {len(read)} images; nothing is explained again")
            return
        forwards = np.mean([known[s.image]["explain_forwards"] for s in again])
        seconds = np.mean([known[s.image]["explain_seconds"] for s in again])
        tell(
            f"note: {names}: {len(again)} images are explained again, {forwards:.0f} forwards and {seconds:.2f} s each, since "
            "their maps are not stored (maps=true stores them)"
        )

    # The columns and files that a record lacks.

    def lacks(self, record: Record) -> bool:
        """Whether a recorded image has something left to do: a column, a curve, a picture or its maps."""
        return self._columns_missing(record) or (was_explained(record) and self.files[record["image"]].missing)

    def _columns_missing(self, record: Record) -> bool:
        return bool(self._missing(record))

    def _missing(self, record: Record) -> dict[str, Metric]:
        """The metrics that are to be measured on a recorded image, by name."""
        curves = record.get("curves") or {}

        def lacks_curve(name: str, metric: Metric) -> bool:
            wanted = self.run.settings.curves and was_explained(record) and getattr(metric, "has_curve", False)
            # a metric that is not defined for an image has no curve of it
            return wanted and record.get(self.keys[name]) is not None and self.keys[name] not in curves

        return {n: m for n, m in self.metrics.items() if self.keys[n] not in record or lacks_curve(n, m)}

    def _maps_suffice(self, sample: Sample, names: Sequence[str]) -> bool:
        """Whether stored maps are all that some metrics, and the files that are wanted, need of an explanation."""
        files = self.files[sample.image]
        if not files.stored_maps.is_file():
            return False
        return not any("channels" in self.metrics[name].needs for name in names) or files.has_channels

    # One image.

    def record(
        self,
        engine: Engine,
        sample: Sample,
        loaded: Callable[[], LoadedImage],
        write: Callable[[ExplainedImage], None],
    ) -> Record:
        """Explains and measures one image.

        Args:
            engine: runs the network.
            sample: the image.
            loaded: decodes it, or has it decoded.
            write: writes the files that are wanted for it.
        """
        began, before = time.perf_counter(), engine.cost
        try:
            if sample.problem and not sample.path.is_file():  # known before the run, and dataset.strict=false
                return self._failure(sample, "missing", 0.0)
            image = self.explain(engine, sample, loaded())
        except UnreadableImage as error:
            tell(f"unreadable, counted as a failure: {error}")
            return self._failure(sample, "unreadable", time.perf_counter() - began)
        except MissingMap as error:
            tell(f"no map, counted as a failure: {error}")
            return self._failure(sample, "no_map", 0.0)
        explanation = image.explanation
        case, lost = self.case(engine, sample, image)
        values = self.measure(self.metrics, case, sample.image)
        write(image)
        return {
            "image": sample.image,
            "target": self.classifier.label(image.target),
            "prob": image.p,
            **values.columns,
            "forwards": (engine.cost - before).forwards,
            "seconds": round(time.perf_counter() - began, 3),
            "status": "degenerate" if is_degenerate(explanation.saliency[0]) else "ok",
            "label": sample.label,
            "predicted": self.classifier.label(image.predicted),
            "boxes": len(case.boxes),
            "boxes_lost": lost,
            "explain_forwards": image.cost.forwards,
            "explain_tail_forwards": image.cost.tail_forwards,
            "explain_backwards": image.cost.backwards,
            "explain_seconds": round(image.seconds, 3),
            "ties": tied_fraction(case.saliency),
            "nonfinite": float((~torch.isfinite(explanation.saliency[0])).float().mean()),
            "batch_size": engine.batch_size,
            **({"not_finite": values.spoilt} if values.spoilt else {}),
            **({"curves": values.curves} if self.run.settings.curves else {}),
            "diagnostics": finite({**case.notes, **(explanation.diagnostics[0] if explanation.diagnostics else {})}),
        }

    def complete(
        self,
        engine: Engine,
        sample: Sample,
        record: Record,
        loaded: Callable[[], LoadedImage],
        write: Callable[[ExplainedImage], None],
    ) -> Record:
        """Measures and writes what a recorded image lacks.

        Args:
            engine: runs the network.
            sample: the image.
            record: its record.
            loaded: decodes it, or has it decoded.
            write: writes the files that are wanted for it.

        Returns: the record with the new columns; the same one where only files were missing.
        """
        missing = self._missing(record)
        if not was_explained(record):  # it has no value of any metric
            return {**record, **{self.keys[name]: None for name in missing}} if missing else record
        began, before = time.perf_counter(), engine.cost
        image = self._explained_before(engine, sample, record, loaded(), list(missing))
        completed = record
        if missing:
            case, _ = self.case(engine, sample, image)
            values = self.measure(missing, case, sample.image)
            spoilt = [*record.get("not_finite", []), *values.spoilt]
            completed = {
                **record,
                **{key: value for key, value in values.columns.items() if key not in record},
                "forwards": record["forwards"] + (engine.cost - before - image.cost).forwards,
                "seconds": round(record["seconds"] + time.perf_counter() - began - image.seconds, 3),
                **({"not_finite": list(dict.fromkeys(spoilt))} if spoilt else {}),
                **({"curves": {**(record.get("curves") or {}), **values.curves}} if self.run.settings.curves else {}),
                "diagnostics": {**record["diagnostics"], **finite(case.notes)},
            }
        write(image)
        return completed

    def explain(self, engine: Engine, sample: Sample, loaded: LoadedImage) -> ExplainedImage:
        """Explains one image.

        Raises:
            UserError: the network's outputs are not finite, or the maps break the contract of explainers.
            MissingMap: maps are files, and there is none for this image.
        """
        pixels = loaded.pixels.to(engine.device)
        probabilities = engine.probabilities(pixels[None])[0]
        if not bool(probabilities.isfinite().all()):
            raise UserError(
                f"{self.classifier.name} returns NaN or infinite outputs for image {sample.image}: its weights are damaged, or "
                f"precision={engine.precision} is too coarse for it."
            )
        predicted = int(probabilities.argmax())
        by_label = self.run.settings.target == "label" and sample.label is not None
        label = self.classifier.output(int(sample.label or 0)) if by_label else None
        target = predicted if label is None else label
        explainer = self.run.explainer
        began, before = time.perf_counter(), engine.cost
        if isinstance(explainer, StoredMaps):
            explanation = explainer.load(sample.image, pixels)
        else:
            explanation = explained(explainer, engine, pixels[None], torch.tensor([target]), [self.seed_of(sample)])
        cost, seconds = engine.cost - before, time.perf_counter() - began
        explanation = with_empty_flag(explanation)
        return ExplainedImage(
            loaded.decoded, pixels, float(probabilities[target]), target, predicted, explanation, cost, seconds
        )

    def _explained_before(
        self, engine: Engine, sample: Sample, record: Record, loaded: LoadedImage, names: Sequence[str]
    ) -> ExplainedImage:
        """An image that was explained before: with its stored maps, or, where they do not suffice, explained again."""
        target, predicted = (self.classifier.output(record[key]) for key in ("target", "predicted"))
        files = self.files[sample.image]
        stored = files.read_maps(record["diagnostics"], engine.device) if self._maps_suffice(sample, names) else None
        if stored is None or target is None or predicted is None:
            return self.explain(engine, sample, loaded)
        pixels = loaded.pixels.to(engine.device)
        return ExplainedImage(loaded.decoded, pixels, record["prob"], target, predicted, stored, Cost(), 0.0)

    def case(self, engine: Engine, sample: Sample, image: ExplainedImage) -> tuple[Case, int]:
        """The explained image as the metrics take it, and how many of its boxes the crop has lost."""
        view, size = self.classifier.view, image.decoded.image.size
        upright, mask = self._upright_truth(sample, image.decoded)
        boxes, lost = view.boxes(upright, size)
        explanation, explainer = image.explanation, self.run.explainer

        def clean(maps: Tensor) -> Tensor:
            return torch.nan_to_num(maps[0], nan=0.0, posinf=0.0, neginf=0.0)

        def explain_again(other: Engine, seed: int) -> Tensor:
            return clean(explained(explainer, other, image.pixels[None], torch.tensor([image.target]), [seed]).saliency)

        case = Case(
            engine,
            image.pixels,
            image.target,
            saliency=clean(explanation.saliency),
            boxes=boxes,
            parts=parts_in_view(view, sample, size),
            necessity=None if explanation.necessity is None else clean(explanation.necessity),
            sufficiency=None if explanation.sufficiency is None else clean(explanation.sufficiency),
            frame=Frame(upright, lambda x, y: view.upright(x, y, size), mask),
            causes=self.run.dataset.known_causes(sample, view, engine.device),
            channels=None if explanation.channels is None else explanation.channels[0],
            clean=image.p,
            seed=self.seed_of(sample),
            explain=None if isinstance(explainer, StoredMaps) else explain_again,
            mask=None if mask is None else torch.from_numpy(view.mask(mask)).to(engine.device),
        )
        return case, lost

    def measure(self, metrics: Mapping[str, Metric], case: Case, image: str) -> MeasuredColumns:
        """The values of some metrics, by the keys of their columns; None where the network returned NaN."""
        values: dict[str, Any] = {}
        spoilt: list[str] = []
        for name, metric in metrics.items():
            value = measure(metric, case, image)
            if finite(value) != value:
                value = None
                spoilt.append(self.keys[name])
            values[self.keys[name]] = value
        if spoilt:
            tell(f"NaN for changed copies of image {image}, counted as a failure: no value of {', '.join(spoilt)}")
        curves = {self.keys.get(n, n): {"value": v, "fraction": q} for n, (v, q) in case.curves.items()}
        return MeasuredColumns(values, curves, spoilt)

    def seed_of(self, sample: Sample) -> int:
        return image_seed(self.run.settings.seed, sample.image)

    def _failure(self, sample: Sample, status: str, seconds: float) -> Record:
        """The record of an image that could not be explained."""
        return {
            "image": sample.image,
            "target": None,
            "prob": None,
            **dict.fromkeys(self.keys.values()),
            "forwards": 0,
            "seconds": round(seconds, 3),
            "status": status,
            "label": sample.label,
        }

    def _upright_truth(self, sample: Sample, decoded: Decoded) -> tuple[list[Box], Mask | None]:
        """Boxes and mask of the upright image."""
        try:
            return upright_annotation(sample, decoded), upright_annotated_mask(sample, decoded)
        except UserError:
            if self.run.dataset.strict:
                raise
            return [], None

    def write(self, files: ImageFiles, sample: Sample, explained: ExplainedImage, again: bool) -> None:
        """Writes the files that are wanted for an image (:meth:`experiments.store.files.ImageFiles.write`)."""
        if files.picture is None and files.maps is None:
            return

        def draw(path: Path) -> None:
            from experiments.figures.explanation import save_picture  # not above: few runs draw

            view, decoded = self.classifier.view, explained.decoded
            caption = f"{sample.image}: {self.classifier.class_name(explained.target)}, p = {explained.p:.3f}"
            inside = object_in_view(sample, decoded, view)
            save_picture(path, view.visible(decoded.image), explained.explanation, caption, inside)

        files.write(explained.explanation, draw, again)


@dataclass(frozen=True)
class MeasuredColumns:
    """The measurements of one image.

    Args:
        columns: values by the keys of the columns.
        curves: curves by the same keys.
        spoilt: the keys without a finite value.
    """

    columns: dict[str, Any]
    curves: dict[str, Any]
    spoilt: list[str]


def run_cell(run: Run) -> FinishedCell | CellProgress:
    """Computes what is missing of a cell (:meth:`Cell.compute`)."""
    return Cell(run, pick_device(run.settings.device), data_folders.load(run.dataset, run.cache), run.model.build()).compute()


def finite(value: Any) -> Any:
    """A value of a record in which NaN and infinity, which JSON does not have, are None."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(finite(v) for v in value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def parts_in_view(view: View, sample: Sample, size: tuple[int, int]) -> list[Part]:
    """The sample's parts in pixels of the view; those that the crop loses are left out.

    Args:
        view: the network's view.
        sample: its parts are in pixels of the upright image.
        size: (width, height) of the upright image.
    """
    parts = [(name, *view.point(x, y, size)) for name, x, y in sample.parts]
    return [(name, x, y) for name, x, y in parts if 0 <= x < view.crop and 0 <= y < view.crop]


def _measurable(run: Run, images: ImageList) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that data set and method allow, and why the others are skipped."""
    lacks: dict[Need, str] = {}
    if not images.has_boxes:
        lacks["boxes"] = f"dataset '{run.dataset.name}' has no boxes"
    if not any(s.mask for s in images.samples):
        lacks["masks"] = f"dataset '{run.dataset.name}' has no masks"
    if not any(s.parts for s in images.samples):
        lacks["parts"] = f"dataset '{run.dataset.name}' has no parts"
    if not images.has_causes:
        lacks["causes"] = f"the causes of the images of dataset '{run.dataset.name}' are not known"
    if not getattr(run.explainer, "two_sided", False):
        lacks["sides"] = f"method '{run.explainer.name}' has one map, not one for each side"
    if isinstance(run.explainer, StoredMaps):
        lacks["explain"] = f"method '{run.explainer.name}' cannot explain again"
    skipped = {n: "; ".join(lacks[x] for x in lacks if x in m.needs) for n, m in run.metrics.items() if m.needs & set(lacks)}
    if len(skipped) == len(run.metrics):
        raise UserError(f"metrics: none of them can be measured here: {'; '.join(dict.fromkeys(skipped.values()))}.")
    return {n: m for n, m in run.metrics.items() if n not in skipped}, skipped
