"""Computes one cell: every image of a data set, one network, one method, some metrics.

For each image: decode, explain, measure, record. What is already recorded is not done again.
"""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.ahead import Seen, ahead, look
from experiments.card import carry_card, make_card, superseded
from experiments.config import Run
from experiments.picture import save_picture
from experiments.progress import Images, tell
from experiments.records import Cell, Record, digest_of, write_atomically, writing
from experiments.results import READ, entry_of, failures_of
from experiments.shards import entered, merge, recorded
from metrics.base import Case, Frame, Metric, Need, NotFinite, Part
from suny.classifiers.checkpoint import Trained
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Cost, Engine, pick_device
from suny.errors import UserError
from suny.explanation import Explanation, MissingMap, StoredMaps, is_degenerate
from suny.images.dataset import ImageList, Sample, upright_annotation
from suny.images.decode import Decoded, UnreadableImage
from suny.images.geometry import Box
from suny.images.perturb import tied_fraction
from suny.images.view import View


@dataclass(frozen=True)
class Finished:
    """A cell that is complete.

    Args:
        folder: of the cell.
        dataset, model, method: names.
        summary: as written.
        records: by image; in a sweep none, or the numbers that are needed of them (:class:`experiments.results.Numbers`).
    """

    folder: Path
    dataset: str
    model: str
    method: str
    summary: dict[str, Any]
    records: Collection[Record]


@dataclass(frozen=True)
class Partial:
    """A cell of which a shard is complete, and others are not: so many of its images are recorded."""

    folder: Path
    done: int
    count: int

    @property
    def said(self) -> str:
        return f"{self.done} of {self.count} images are recorded: {self.folder}"


@dataclass(frozen=True)
class Prepared:
    """A cell before its first image.

    Args:
        classifier: the network.
        samples: all images of the cell, with labels that can be compared with predictions.
        metrics: those that can be measured.
        notes: what the user should know, one line each.
        card: as it would be written.
        folder: of the cell.
    """

    classifier: Classifier
    samples: tuple[Sample, ...]
    metrics: dict[str, Metric]
    notes: tuple[str, ...]
    card: dict[str, Any]
    folder: Path


def prepare(run: Run, device: torch.device, images: ImageList, classifier: Classifier) -> Prepared:
    """Checks what can be checked before anything is computed; writes nothing.

    Args:
        run: the cell's configuration.
        device: where the network will run.
        images: of its data set.
        classifier: its network.

    Raises:
        UserError: any mistake of the input.
    """
    if not classifier.class_names and len(images.class_names) == classifier.num_classes:
        classifier = replace(classifier, class_names=images.class_names)
    notes = list(images.notes)
    samples, label_notes = labelled(run, images, classifier)
    notes += label_notes
    metrics, skipped = _measurable(run, images)
    notes += [f"{name} is skipped: {why}" for name, why in skipped.items()]
    card = make_card(run, images, classifier, device, metrics, skipped)
    folder = (
        Path(run.settings.results_dir).expanduser()
        / run.dataset.name
        / run.model.name
        / f"{run.explainer.name}-{card['hash'][:8]}"
    )
    return Prepared(classifier, samples, metrics, tuple(notes), card, folder)


def run_cell(run: Run) -> Finished | Partial:
    """Computes what is missing of a cell, or of a shard of it, and summarises it once nothing is.

    Raises:
        UserError: any mistake of the input; records that were written before stay.
        KeyboardInterrupt: stopped by the user; the same run continues.
    """
    device = pick_device(run.settings.device)
    found = prepare(run, device, run.dataset.load(run.cache), run.model.build())
    classifier, samples, metrics, card, folder = found.classifier, found.samples, found.metrics, found.card, found.folder
    for note in [*found.notes, *([] if folder.exists() else superseded(folder, card))]:
        tell(f"note: {note}")
    order = [s.image for s in samples]
    with entered(folder, run.shard) as (own, whole):
        for repair in own.repairs:
            tell(f"note: {repair}")
        with whole() as cell:
            if run.shard.whole:
                merge(cell, order)
            known = recorded(cell)
            mine = [s for at, s in enumerate(samples) if run.shard.has(at)]
            left = [s for s in mine if s.image not in known]
            wanted = {s.image: Files.wanted(run, folder, s, at) for at, s in enumerate(samples)}
            lacking = [s for s in mine if was_read(known.get(s.image)) and wanted[s.image].missing]
            old = cell.read_card()
            batch_size = old["batch_size"] if old else card["batch_size"]
            made = partial(Engine.of, classifier, device, run.settings.precision, batch_size, run.settings.compile)
            engine = None
            if (left or lacking) and batch_size == "auto":
                # calibrated once, so that a continued cell repeats its numbers, and shards agree
                engine = made()
                card["batch_size"] = engine.batch_size
            carry_card(cell, old, card)
        if left or lacking:
            engine = engine or made()
            _compute(run, classifier, engine, metrics, left, wanted, own, len(mine))
            for sample in lacking:
                seen = look(sample, classifier.view)
                wanted[sample.image].write(classifier, sample.image, _explained(run, classifier, engine, sample, seen))
        with whole() as cell:
            done = len(recorded(cell).keys() & set(order))
            if done < len(order):
                return Partial(folder, done, len(order))
            merge(cell, order, own)
            records = tuple(cell.records[image] for image in order)
            summary = cell.read_summary(digest_of(records))
            if summary is None:
                summary = summarise(run, card["hash"], metrics, records)
                cell.write_summary(summary)
    return Finished(folder, run.dataset.name, run.model.name, run.explainer.name, summary, records)


def _compute(
    run: Run,
    classifier: Classifier,
    engine: Engine,
    metrics: dict[str, Metric],
    left: Sequence[Sample],
    wanted: Mapping[str, Files],
    cell: Cell,
    count: int,
) -> None:
    """Records the images that are left of so many."""
    part = "" if run.shard.whole else f" {run.shard.name}"
    title = f"{run.dataset.name}/{run.model.name}/{run.explainer.name}{part}"
    done = count - len(left)
    with closing(Images(title, done, count)) as bar, closing(ahead(left, classifier.view, run.settings.workers)) as coming:
        for at, (sample, seen) in enumerate(coming, done):
            try:
                write = partial(wanted[sample.image].write, classifier, sample.image, again=True)
                record = partial(make_record, run, classifier, engine, metrics, sample, seen, write)
                # of the network's passes the engine takes care by itself, here of what is allocated beside them
                cell.append(engine.fitting(record))
            except KeyboardInterrupt:
                bar.close()
                tell(f"stopped: {at} of {count} images done; the same command continues.")
                raise
            bar.update()


def make_record(
    run: Run,
    classifier: Classifier,
    engine: Engine,
    metrics: dict[str, Metric],
    sample: Sample,
    seen: Callable[[], Seen],
    write: Callable[[Explained], None],
) -> Record:
    """Explains and measures one image.

    Args:
        run, classifier, engine, metrics: of the cell.
        sample: the image.
        seen: decodes it, or has it decoded.
        write: writes the files that are wanted of it.
    """
    began, before = time.perf_counter(), engine.cost
    empty = {"image": sample.image, "target": None, "prob": None} | dict.fromkeys(metrics)
    try:
        if sample.problem and not sample.path.is_file():  # known before the run, and dataset.strict=false
            return empty | {"forwards": 0, "seconds": 0.0, "status": "missing", "label": sample.label}
        found = _explained(run, classifier, engine, sample, seen())
    except UnreadableImage as error:
        tell(f"unreadable, counted as a failure: {error}")
        seconds = round(time.perf_counter() - began, 3)
        return empty | {"forwards": 0, "seconds": seconds, "status": "unreadable", "label": sample.label}
    except MissingMap as error:
        tell(f"no map, counted as a failure: {error}")
        return empty | {"forwards": 0, "seconds": 0.0, "status": "no_map", "label": sample.label}
    upright = _boxes(run, sample, found.decoded)
    boxes, lost = classifier.view.boxes(upright, found.decoded.image.size)
    explanation = found.explanation
    degenerate = is_degenerate(explanation.saliency[0])
    case = _case(run, classifier, engine, sample, found, upright, boxes)
    values, spoilt = _measured(metrics, case)
    if spoilt:
        tell(f"NaN for changed copies of image {sample.image}, counted as a failure: no value of {', '.join(spoilt)}")
    write(found)
    return {
        "image": sample.image,
        "target": classifier.label(found.target),
        "prob": float(found.probabilities[found.target]),
        **values,
        "forwards": (engine.cost - before).forwards,
        "seconds": round(time.perf_counter() - began, 3),
        "status": "degenerate" if degenerate else "ok",
        "label": sample.label,
        "predicted": classifier.label(int(found.probabilities.argmax())),
        "boxes": len(boxes),
        "boxes_lost": lost,
        "explain_forwards": found.cost.forwards,
        "explain_tail_forwards": found.cost.tail_forwards,
        "explain_backwards": found.cost.backwards,
        "explain_seconds": round(found.seconds, 3),
        "ties": tied_fraction(case.saliency),
        "nonfinite": float((~torch.isfinite(explanation.saliency[0])).float().mean()),
        "batch_size": engine.batch_size,
        **({"not_finite": spoilt} if spoilt else {}),
        **({"curves": {k: {"value": v, "fraction": q} for k, (v, q) in case.curves.items()}} if run.settings.curves else {}),
        "diagnostics": finite({**case.notes, **(explanation.diagnostics[0] if explanation.diagnostics else {})}),
    }


def _measured(metrics: Mapping[str, Metric], case: Case) -> tuple[dict[str, Any], list[str]]:
    """The value of each metric, and the names of those that have none because the network returned NaN."""
    values: dict[str, Any] = {}
    spoilt: list[str] = []
    for name, metric in metrics.items():
        try:
            values[name] = metric.measure(case)
        except NotFinite:
            values[name] = None
        else:
            if finite(values[name]) == values[name]:
                continue
            values[name] = None
        spoilt.append(name)
    return values, spoilt


def finite(value: Any) -> Any:
    """A value of a record in which NaN and infinity, which JSON does not have, are None."""
    if isinstance(value, Mapping):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(finite(v) for v in value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class Explained:
    """One explained image: as decoded, as the network sees it (3, H, W), p of all outputs (K,), the explained output, and
    what explaining cost."""

    decoded: Decoded
    image: Tensor
    probabilities: Tensor
    target: int
    explanation: Explanation
    cost: Cost
    seconds: float


def _explained(run: Run, classifier: Classifier, engine: Engine, sample: Sample, seen: Seen) -> Explained:
    decoded, pixels = seen
    image = pixels.to(engine.device)
    probabilities = engine.probabilities(image[None])[0]
    if not bool(probabilities.isfinite().all()):
        raise UserError(
            f"{classifier.name} returns NaN or infinite outputs for image {sample.image}: its weights are damaged, or "
            f"precision={engine.precision} is too coarse for it."
        )
    given = None if run.settings.target == "predicted" or sample.label is None else classifier.output(sample.label)
    target = int(probabilities.argmax()) if given is None else given
    began, before = time.perf_counter(), engine.cost
    seed = image_seed(run.settings.seed, sample.image)
    if isinstance(run.explainer, StoredMaps):
        explanation = run.explainer.load(sample.image, image)
    else:
        explanation = run.explainer.explain(engine, image[None], torch.tensor([target]), [seed])
        _check_maps(run.explainer.name, explanation, image)
    return Explained(decoded, image, probabilities, target, explanation, engine.cost - before, time.perf_counter() - began)


def _check_maps(method: str, explanation: Explanation, image: Tensor) -> None:
    """Refuses maps that break the contract of explainers: metrics would give numbers that mean nothing."""
    for side in ("saliency", "necessity", "sufficiency"):
        maps = getattr(explanation, side)
        if maps is None:
            continue
        if maps.dtype != torch.float32 or maps.shape != (1, *image.shape[-2:]):
            wrong = f"of {maps.dtype}, shape {tuple(maps.shape)}"
        elif bool((maps < 0).any()):
            wrong = "with negative values"
        else:
            continue
        raise UserError(
            f"method '{method}' returned a {side} map {wrong}; an explainer returns float32 maps (B, H, W) of the image's "
            "size, >= 0."
        )


def _case(
    run: Run,
    classifier: Classifier,
    engine: Engine,
    sample: Sample,
    found: Explained,
    upright: Sequence[Box],
    boxes: Sequence[Box],
) -> Case:
    """The explained image as the metrics take it."""
    view, size = classifier.view, found.decoded.image.size
    explanation = found.explanation

    def clean(maps: Tensor | None) -> Tensor | None:
        return None if maps is None else torch.nan_to_num(maps[0], nan=0.0, posinf=0.0, neginf=0.0)

    def again(other: Engine, seed: int) -> Tensor:
        maps = run.explainer.explain(other, found.image[None], torch.tensor([found.target]), [seed])
        return torch.nan_to_num(maps.saliency[0], nan=0.0, posinf=0.0, neginf=0.0)

    return Case(
        engine,
        found.image,
        found.target,
        saliency=torch.nan_to_num(explanation.saliency[0], nan=0.0, posinf=0.0, neginf=0.0),
        boxes=boxes,
        parts=parts_in_view(view, sample, size),
        necessity=clean(explanation.necessity),
        sufficiency=clean(explanation.sufficiency),
        frame=Frame(upright, lambda x, y: view.upright(x, y, size)),
        causes=run.dataset.known_causes(sample, view, engine.device),
        channels=None if explanation.channels is None else explanation.channels[0],
        clean=float(found.probabilities[found.target]),
        seed=image_seed(run.settings.seed, sample.image),
        explain=None if isinstance(run.explainer, StoredMaps) else again,
    )


def parts_in_view(view: View, sample: Sample, size: tuple[int, int]) -> list[Part]:
    """The sample's parts in pixels of the view; those that the crop loses are left out.

    Args:
        view: the network's.
        sample: with parts in pixels of the upright image.
        size: (width, height) of the upright image.
    """
    parts = [(name, *view.point(x, y, size)) for name, x, y in sample.parts]
    return [(name, x, y) for name, x, y in parts if 0 <= x < view.crop and 0 <= y < view.crop]


@dataclass(frozen=True)
class Files:
    """What is written of an image beside its record: a picture, its maps; None where it is not asked for."""

    picture: Path | None
    maps: Path | None

    @classmethod
    def wanted(cls, run: Run, folder: Path, sample: Sample, at: int) -> Files:
        return cls(
            folder / "pictures" / f"{sample.image}.png" if at < run.settings.pictures else None,
            folder / "maps" / f"{sample.image}.npz" if run.settings.maps else None,
        )

    @property
    def missing(self) -> bool:
        return any(path is not None and not path.exists() for path in (self.picture, self.maps))

    def write(self, classifier: Classifier, image: str, found: Explained, again: bool = False) -> None:
        """Draws the picture; stores saliency, necessity, sufficiency (H, W), float32 as they were made, compressed.

        Files that are there stay, unless they are to be written ``again``.
        """
        if self.picture is not None and (again or not self.picture.exists()):
            p = float(found.probabilities[found.target])
            caption = f"{image}: {classifier.class_name(found.target)}, p = {p:.3f}"
            with writing(self.picture.parent):
                self.picture.parent.mkdir(parents=True, exist_ok=True)
                save_picture(self.picture, classifier.view.visible(found.decoded.image), found.explanation, caption)
        if self.maps is not None and (again or not self.maps.exists()):
            with writing(self.maps.parent):
                self.maps.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.maps, packed(found.explanation))


def packed(explanation: Explanation) -> bytes:
    """The maps of one image as they are stored."""
    maps = {name: getattr(explanation, name) for name in ("saliency", "necessity", "sufficiency")}
    content = io.BytesIO()
    np.savez_compressed(content, **{name: m[0].float().cpu().numpy() for name, m in maps.items() if m is not None})
    return content.getvalue()


def was_read(record: Record | None) -> bool:
    return record is not None and record["status"] in READ


def _boxes(run: Run, sample: Sample, decoded: Decoded) -> list[Box]:
    try:
        return list(upright_annotation(sample, decoded))
    except UserError:
        if run.dataset.strict:
            raise
        return []


def image_seed(seed: int, image: str) -> int:
    """The seed of one image: the same whatever else is in the run and in whatever order."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{image}".encode("utf-8", "surrogateescape")).digest()[:4], "big")


def labelled(run: Run, images: ImageList, classifier: Classifier) -> tuple[tuple[Sample, ...], list[str]]:
    """Checks that the labels are the network's classes; labels that can't be are dropped with a note.

    Returns: the samples, and notes for the user.

    Raises:
        UserError: labels are needed, and can't be compared; a label that the network has no output for.
    """
    if classifier.trained:
        return _labelled_as_trained(run, images, classifier, classifier.trained)
    samples, note = _labelled(run, images, classifier)
    return samples, [note] if note else []


def _labelled_as_trained(
    run: Run, images: ImageList, classifier: Classifier, trained: Trained
) -> tuple[tuple[Sample, ...], list[str]]:
    """The samples with the class indices of an own checkpoint; a class is the same where its name is.

    Folders are numbered by the folders beside them, so that their index says nothing without the name.
    """
    if images.label_space != trained.label_space:
        said = f"labels of {run.dataset.name} are not the classes of model.checkpoint, which was trained on {trained.dataset}"
        if run.settings.target == "label":
            raise UserError(f"target=label: {said}; use target=predicted.")
        return tuple(replace(s, label=None) for s in images.samples), [f"{said}: they are not compared with predictions"]
    by_name = dict(zip(trained.class_names, trained.class_ids, strict=True))
    samples = []
    for sample in images.samples:
        if sample.label is not None:
            name = images.class_names[sample.label]
            index = by_name.get(name) if images.label_space == "folders" else sample.label
            output = None if index is None else classifier.output(index)
            if output is None or classifier.class_names[output] != name:
                raise UserError(
                    f"image {sample.image} is of class '{name}', which is none of the {classifier.num_classes} classes of "
                    "model.checkpoint: train on all classes of the data set, or leave the others out of its folder."
                )
            sample = replace(sample, label=index)
        samples.append(sample)
    if run.dataset.name == trained.dataset and getattr(run.dataset, "split", "test") != "test":
        return tuple(samples), ["the network was trained on some of these images; dataset.split=test leaves them out"]
    return tuple(samples), []


def _labelled(run: Run, images: ImageList, classifier: Classifier) -> tuple[tuple[Sample, ...], str | None]:
    """Labels of networks that do not say what they were trained on."""
    samples, outputs = images.samples, classifier.num_classes
    other = f"{run.dataset.name} has {len(images.class_names)} classes, {run.model.name} has {outputs} outputs"
    same_count = len(images.class_names) == outputs
    if images.label_space == "folders" and not same_count:
        if run.settings.target == "label":
            raise UserError(f"target=label: {other}; use target=predicted, or a network with as many classes.")
        return tuple(replace(s, label=None) for s in samples), f"{other}: labels are not compared with predictions"
    if run.settings.target == "label" and images.label_space != classifier.label_space and not same_count:
        raise UserError(f"target=label: {other}, so labels are not its classes; use target=predicted, or its own network.")
    if run.settings.target == "label" and any(s.label is None for s in samples):
        raise UserError(f"target=label: dataset '{run.dataset.name}' has images without label; use target=predicted.")
    worst = max(samples, key=lambda s: -1 if s.label is None else s.label)
    if worst.label is not None and worst.label >= outputs:
        raise UserError(
            f"image {worst.image} has class index {worst.label}, but {run.model.name} has {outputs} outputs (0 is the "
            "first): use a network (model.checkpoint=FILE, model.num_classes=K) made for this data set."
        )
    if images.label_space != classifier.label_space and not same_count:
        return samples, f"{other}: the wrong-class count means nothing unless the network was trained on these classes"
    return samples, None


def _measurable(run: Run, images: ImageList) -> tuple[dict[str, Metric], dict[str, str]]:
    """The metrics that data set and method allow, and why the others are skipped."""
    lacks: dict[Need, str] = {}
    if not images.has_boxes:
        lacks["boxes"] = f"dataset '{run.dataset.name}' has no boxes"
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


def summarise(run: Run, digest: str, metrics: dict[str, Metric], records: Sequence[Record]) -> dict[str, Any]:
    """The summary of a cell: a pure function of its records, without times, so that it is the same bit for bit.

    Every mean has its n: images on which the metric is not defined are missing from n, and counted under failures.
    """

    read = [r for r in records if was_read(r)]
    costs = ("forwards", "explain_forwards", "explain_tail_forwards", "explain_backwards")
    return {
        "dataset": run.dataset.name,
        "model": run.model.name,
        "method": run.explainer.name,
        "hash": digest,
        "n": len(records),
        "records": digest_of(records),
        "metrics": {name: entry_of(metric, name, records) for name, metric in metrics.items()},
        "failures": failures_of(records, any("boxes" in m.needs for m in metrics.values())),
        "cost": {key: float(np.mean([r[key] for r in read])) if read else None for key in costs},
    }
