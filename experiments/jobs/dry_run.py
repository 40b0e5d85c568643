"""Estimates what a cell would cost, before it is started: ``python run.py ... dry_run=true``.

The cell is prepared as it would be run, and up to three of the images that are left are explained and measured by a
:class:`~suny.classifiers.cost_engine.Rehearsal`, which counts all passes, and makes only those that it needs to time one. With

    n images left, c seconds per image for explaining and measuring, d for decoding, f for lists, network and summary

the cell takes  f + n * (c + d)  on a CPU, where decoding ahead takes turns with the network, and  f + n * max(c, d / workers)
on CUDA. The range is that of the images which were tried, and no narrower than the drift of a machine's speed. Nothing is
written.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

from experiments.cell.cell import Cell, ExplainedImage
from experiments.cell.prefetch import LoadedImage, load
from experiments.command import data_folders
from experiments.command.configuration import Run
from experiments.jobs.estimate import Estimate
from experiments.jobs.machine import forget_peak, peak_memory, process_age
from experiments.store.files import ImageFiles, pack_maps
from experiments.store.reading import summary_of
from experiments.store.records import CellFolder, Record, read_records
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Cost, pick_device
from suny.images.causal_shapes import CausalShapes
from suny.images.dataset import ImageList, Sample
from suny.images.decode import UnreadableImage
from suny.later import import_all

T = TypeVar("T")

# At most so many images are tried, and no other one once so many seconds have passed.
TRIED, _LONG = 3, 10.0

# The speed of a machine drifts: an estimate from one image, or from several, is no better than this share of it.
_DRIFT_OF_ONE, _DRIFT = 0.25, 0.1

# A record takes so many times the memory that its line takes on the disk (measured on 50,000 records of method=suny).
_IN_MEMORY = 4

# The summary is timed on at most so many records.
_SUMMARISED = 500


@dataclass(frozen=True)
class Trial:
    """One image that was tried.

    Args:
        record: its record.
        cost: the passes that it took.
        decoding, seconds: seconds of its decoding, and of everything else.
        maps: bytes of its maps.
        image: the explained image; None where it needs no explaining.
    """

    record: Record
    cost: Cost
    decoding: float
    seconds: float
    maps: int
    image: ExplainedImage | None


class Estimator:
    """Estimates the cells of a sweep one after the other; what neighbours share is made once, and timed once."""

    def __init__(self) -> None:
        self.beginning = process_age()  # seconds that the program took to start
        self._made: dict[str, tuple[str, Any, float]] = {}

    def estimate(self, run: Run) -> Estimate:
        """Estimates what is left of a cell.

        Raises:
            UserError: any mistake of the input that the run would find before its first image.
        """
        settings, device = run.settings, pick_device(run.settings.device)
        if isinstance(run.dataset, CausalShapes) and not run.dataset.folder.exists():  # its images would be written
            elsewhere, _ = self._once("elsewhere", None, tempfile.TemporaryDirectory)
            run = replace(run, dataset=replace(run.dataset, root=elsewhere.name))

        def listed() -> tuple[ImageList, str]:
            images = data_folders.load(run.dataset, run.cache)
            return images, images.digest  # which reads the files, here once for all cells

        (images, _), loading = self._once("dataset", run.resolved["dataset"], listed)
        missing = run.model.to_fetch()
        model = replace(run.model, weights="random") if missing else run.model  # which takes as long
        classifier, building = self._once("model", run.resolved["model"], model.build)
        cell, preparing = _time(lambda: Cell(run, device, images, classifier))
        old = CellFolder(cell.folder).read_card()
        if old:
            cell.join(old)
        known = {r["image"]: r for r in read_records(cell.folder)}
        left = [s for s in cell.samples if s.image not in known or cell.lacks(known[s.image])]
        trials: list[Trial] = []
        _, importing = _time(import_all)  # as a run does it, before its first image
        fixed = loading + building + preparing + importing
        if left:
            batch_size = old["batch_size"] if old else settings.batch_size
            asked: Any = device, settings.precision, batch_size, settings.compile
            engine, _ = self._once("engine", [run.resolved["model"], *asked], lambda: Rehearsal.of(cell.classifier, *asked))
            engine.forget()
            forget_peak(device)
            trials = _try_images(cell, engine, left, known)
            fixed += engine.preparation * (1 + len(engine.others))
        estimate = _sum_up(cell, trials, len(left), fixed)
        fetched = [f"a run fetches the weights of {run.model.name} first: {missing}"] if missing else []
        return replace(estimate, notes=(*fetched, *cell.label_notes))

    def _once(self, kind: str, settings: Any, make: Callable[[], T]) -> tuple[T, float]:
        """Makes an object and times it, unless the last one of its kind had the same settings, which is then returned again."""
        key = json.dumps(settings, sort_keys=True, default=str)
        if self._made.get(kind, ("",))[0] != key:
            self._made.pop(kind, None)  # two networks at a time may be too many
            self._made[kind] = key, *_time(make)
        return self._made[kind][1:]


def _try_images(cell: Cell, engine: Rehearsal, left: Sequence[Sample], known: Mapping[str, Record]) -> list[Trial]:
    """Tries images from all over the list, fewer where they are slow."""
    there = [s for s in left if s.path.is_file()]
    places = dict.fromkeys(len(there) * at // TRIED for at in range(min(TRIED, len(there))))
    trials: list[Trial] = []
    began = time.perf_counter()
    for at in places:
        if trials and time.perf_counter() - began > _LONG:
            break
        try:
            trials.append(try_image(cell, engine, there[at], known.get(there[at].image)))
        except UnreadableImage:
            continue
    return trials


def try_image(cell: Cell, engine: Rehearsal, sample: Sample, known: Record | None = None) -> Trial:
    """Explains and measures one image in rehearsal, or adds to a known record what it lacks; writes nothing.

    Raises:
        UnreadableImage: it can't be decoded.
    """
    loaded, decoding = _time(lambda: load(sample, cell.classifier.view))
    explained: list[ExplainedImage] = []
    maps = 0

    def keep(image: ExplainedImage) -> None:
        nonlocal maps
        explained.append(image)
        maps = len(pack_maps(image.explanation)) if cell.run.settings.maps else 0

    engine.begin()
    before = engine.cost
    record, seconds = _time(lambda: _record(cell, engine, sample, known, loaded, keep))
    cost = engine.cost - before
    return Trial(record, cost, decoding, seconds + engine.skipped, maps, explained[0] if explained else None)


def _record(
    cell: Cell,
    engine: Rehearsal,
    sample: Sample,
    known: Record | None,
    loaded: LoadedImage,
    keep: Callable[[ExplainedImage], None],
) -> Record:
    if known is None:
        return cell.record(engine, sample, lambda: loaded, keep)
    return cell.complete(engine, sample, known, lambda: loaded, keep)


def _sum_up(cell: Cell, trials: Sequence[Trial], left: int, fixed: float) -> Estimate:
    """The estimate of a cell from the images that were tried.

    Args:
        cell: the cell.
        trials: the images.
        left: how many images are to be computed.
        fixed: seconds that were spent before the first image.
    """
    run, device = cell.run, cell.device
    count, memory = len(cell.samples), peak_memory(device)
    if not trials:
        return Estimate(
            cell.folder, cell.title, count, left, 0, 0, 0, 0, (0, 0), fixed, memory, 0, device.type, torch.get_num_threads()
        )
    warm = trials[1:] or trials  # the first image of a process is slow
    line = _mean([len(json.dumps(t.record)) + 1 for t in trials])
    disk = left * (line + _mean([t.maps for t in trials]))
    each = [_with_decoding(run, device, t) for t in warm]
    seconds = _mean(each)
    drift = _DRIFT if len(warm) > 1 else _DRIFT_OF_ONE
    bounds = min(*each, (1 - drift) * seconds), max(*each, (1 + drift) * seconds)
    pictures = sum(f.picture is not None and not f.picture.exists() for f in cell.files.values())
    drawn = next((t for t in trials if t.image), None)
    if pictures and drawn and drawn.image:
        size, once = _time_picture(cell, drawn.record["image"], drawn.image)
        fixed, disk = fixed + pictures * once, disk + pictures * size
    fixed += _time_summary(cell, [t.record for t in trials])
    if device.type == "cpu":
        memory += _IN_MEMORY * line * count
    forwards = _mean([t.cost.forwards for t in trials])
    tails = _mean([t.cost.tail_forwards for t in trials])
    backwards = _mean([t.cost.backwards for t in trials])
    return Estimate(
        cell.folder,
        cell.title,
        count,
        left,
        forwards,
        tails,
        backwards,
        seconds,
        bounds,
        fixed,
        memory,
        disk,
        device.type,
        torch.get_num_threads(),
    )


def _with_decoding(run: Run, device: torch.device, trial: Trial) -> float:
    """Seconds per image; on CUDA an image is decoded while the GPU works on the one before."""
    workers = run.settings.workers
    if device.type == "cpu" or not workers:
        return trial.seconds + trial.decoding
    return max(trial.seconds, trial.decoding / workers)


def _time_picture(cell: Cell, image: str, explained: ExplainedImage) -> tuple[int, float]:
    """Draws a picture; returns its bytes and the seconds that it took."""
    with tempfile.TemporaryDirectory() as folder:
        files = ImageFiles.of(Path(folder), "picture", picture=True, maps=False)
        sample = next(s for s in cell.samples if s.image == image)
        _, seconds = _time(lambda: cell.write(files, sample, explained, again=True))
        return Path(folder, "pictures", "picture.png").stat().st_size, seconds


def _time_summary(cell: Cell, records: Sequence[Record]) -> float:
    """The seconds of the cell's summary, scaled up from one of fewer records."""
    count = len(cell.samples)
    some = min(count, _SUMMARISED)
    several = [records[at % len(records)] for at in range(some)]
    return _time(lambda: summary_of(cell.card, several))[1] * count / some


def _time(work: Callable[[], T]) -> tuple[T, float]:
    """Calls a function; returns its result and the seconds that it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
