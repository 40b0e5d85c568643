"""What a cell would cost, before it is started: ``python run.py ... dry_run=true``.

The cell is prepared as it would be run, and up to three of the images that are left are explained and measured by a
:class:`~suny.classifiers.cost_engine.Rehearsal`, which counts all passes and makes as few as tell how long one takes. With

    n images left, c seconds an image for explaining and measuring, d for decoding, f for lists, network and summary

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
from experiments.command.configuration import Run
from experiments.jobs.machine import forget_peak, peak_memory
from experiments.store.files import ImageFiles, packed
from experiments.store.reading import summary_of
from experiments.store.records import CellFolder, Record, read_records
from experiments.tables.text import table
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Cost, pick_device
from suny.images.causal_shapes import CausalShapes
from suny.images.dataset import ImageList, Sample
from suny.images.decode import UnreadableImage
from suny.later import import_all

T = TypeVar("T")

# images that are tried, and after how many seconds no other one is
_TRIED, _LONG = 3, 10.0

# an estimate is no better than this, of one image and of several
_DRIFT_OF_ONE, _DRIFT = 0.25, 0.1

# a record in memory, as a multiple of its line (measured on 50,000 of method=suny)
_IN_MEMORY = 4

# records whose summary is timed
_SUMMARISED = 500


@dataclass(frozen=True)
class Estimate:
    """What is left of a cell.

    Args:
        folder: the cell's.
        title: data set, model and method.
        images: of the cell.
        left: images that are to be computed.
        forwards, tail_forwards, backwards: of an image, mean over those tried.
        seconds: of an image.
        drift: the range of ``seconds``.
        fixed: seconds whatever the number of images: lists, network, summary.
        memory: peak, bytes: of the card's tensors, or of the process.
        disk: bytes that will be written.
        device: ``cpu`` or ``cuda``.
        notes: what has to be known before it is started.
    """

    folder: Path
    title: str
    images: int
    left: int
    forwards: float
    tail_forwards: float
    backwards: float
    seconds: float
    drift: tuple[float, float]
    fixed: float
    memory: float
    disk: float
    device: str
    notes: tuple[str, ...] = ()

    @property
    def total(self) -> float:
        """Seconds of the cell."""
        return self.fixed + self.left * self.seconds

    @property
    def bounds(self) -> tuple[float, float]:
        """The range of ``total``."""
        low, high = self.drift
        return self.fixed + self.left * low, self.fixed + self.left * high


@dataclass(frozen=True)
class Trial:
    """One image: its record, what passed, seconds of its decoding and of the rest, bytes of its maps, the image explained (None
    where it needs no explaining)."""

    record: Record
    cost: Cost
    decoding: float
    seconds: float
    maps: int
    image: ExplainedImage | None


class Estimator:
    """Estimates the cells of a sweep one after the other; what neighbours share is made once, and timed once."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[str, Any, float]] = {}

    def estimate(self, run: Run) -> Estimate:
        """What is left of a cell.

        Raises:
            UserError: whatever mistake of the input the run would find before its first image.
        """
        settings, device = run.settings, pick_device(run.settings.device)
        if isinstance(run.dataset, CausalShapes) and not run.dataset.folder.exists():  # its images would be written
            elsewhere, _ = self._once("elsewhere", None, tempfile.TemporaryDirectory)
            run = replace(run, dataset=replace(run.dataset, root=elsewhere.name))

        def listed() -> tuple[ImageList, str]:
            images = run.dataset.load(run.cache)
            return images, images.digest  # which reads the files, here once for all cells

        (images, _), loading = self._once("dataset", run.resolved["dataset"], listed)
        missing = run.model.to_fetch()
        model = replace(run.model, weights="random") if missing else run.model  # which take as long
        classifier, building = self._once("model", run.resolved["model"], model.build)
        cell, preparing = _clocked(lambda: Cell(run, device, images, classifier))
        old = CellFolder(cell.folder).read_card()
        if old:
            cell.join(old)
        known = {r["image"]: r for r in read_records(cell.folder)}
        left = [s for s in cell.samples if s.image not in known or cell.lacks(known[s.image])]
        trials: list[Trial] = []
        _, importing = _clocked(import_all)  # as a run does it, before its first image
        fixed = loading + building + preparing + importing
        if left:
            batch_size = old["batch_size"] if old else settings.batch_size
            asked: Any = device, settings.precision, batch_size, settings.compile
            engine, _ = self._once("engine", [run.resolved["model"], *asked], lambda: Rehearsal.of(cell.classifier, *asked))
            engine.forget()
            forget_peak(device)
            trials = _tried(cell, engine, left, known)
            fixed += engine.preparation * (1 + len(engine.others))
        estimate = _summed(cell, trials, len(left), fixed)
        fetched = [f"a run fetches the weights of {run.model.name} first: {missing}"] if missing else []
        return replace(estimate, notes=(*fetched, *cell.label_notes))

    def _once(self, what: str, settings: Any, make: Callable[[], T]) -> tuple[T, float]:
        """An object and how many seconds it took to make; the last one of its kind is kept."""
        key = json.dumps(settings, sort_keys=True, default=str)
        if self._kept.get(what, ("",))[0] != key:
            self._kept.pop(what, None)  # before another network is made
            self._kept[what] = key, *_clocked(make)
        return self._kept[what][1:]


def _tried(cell: Cell, engine: Rehearsal, left: Sequence[Sample], known: Mapping[str, Record]) -> list[Trial]:
    """Tries images from all over the list; of slow ones fewer."""
    there = [s for s in left if s.path.is_file()]
    places = dict.fromkeys(len(there) * at // _TRIED for at in range(min(_TRIED, len(there))))
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
    loaded, decoding = _clocked(lambda: load(sample, cell.classifier.view))
    explained: list[ExplainedImage] = []
    maps = 0

    def keep(image: ExplainedImage) -> None:
        nonlocal maps
        explained.append(image)
        maps = len(packed(image.explanation)) if cell.run.settings.maps else 0

    engine.begin()
    before = engine.cost
    record, seconds = _clocked(lambda: _recorded(cell, engine, sample, known, loaded, keep))
    cost = engine.cost - before
    return Trial(record, cost, decoding, seconds + engine.skipped, maps, explained[0] if explained else None)


def _recorded(
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


def _summed(cell: Cell, trials: Sequence[Trial], left: int, fixed: float) -> Estimate:
    run, device = cell.run, cell.device
    count, memory = len(cell.samples), peak_memory(device)
    if not trials:
        return Estimate(cell.folder, cell.title, count, left, 0, 0, 0, 0, (0, 0), fixed, memory, 0, device.type)
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
        size, once = _drawn(cell, drawn.record["image"], drawn.image)
        fixed, disk = fixed + pictures * once, disk + pictures * size
    fixed += _summarising(cell, [t.record for t in trials])
    if device.type == "cpu":
        memory += _IN_MEMORY * line * count
    forwards = _mean([t.cost.forwards for t in trials])
    tails = _mean([t.cost.tail_forwards for t in trials])
    backwards = _mean([t.cost.backwards for t in trials])
    return Estimate(
        cell.folder, cell.title, count, left, forwards, tails, backwards, seconds, bounds, fixed, memory, disk, device.type
    )


def _with_decoding(run: Run, device: torch.device, trial: Trial) -> float:
    """Seconds of an image; on CUDA it is decoded while the card works on the one before."""
    workers = run.settings.workers
    if device.type == "cpu" or not workers:
        return trial.seconds + trial.decoding
    return max(trial.seconds, trial.decoding / workers)


def _drawn(cell: Cell, image: str, explained: ExplainedImage) -> tuple[int, float]:
    """Bytes and seconds of a picture."""
    with tempfile.TemporaryDirectory() as folder:
        files = ImageFiles.of(Path(folder), "picture", picture=True, maps=False)
        _, seconds = _clocked(lambda: cell.write(files, image, explained, again=True))
        return Path(folder, "pictures", "picture.png").stat().st_size, seconds


def _summarising(cell: Cell, records: Sequence[Record]) -> float:
    """Seconds of the summary, from one of fewer records."""
    count = len(cell.samples)
    some = min(count, _SUMMARISED)
    several = [records[at % len(records)] for at in range(some)]
    return _clocked(lambda: summary_of(cell.card, several))[1] * count / some


def _clocked(work: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def said(estimates: Sequence[Estimate], beginning: float) -> str:
    """The estimates as a table, and their total.

    Args:
        estimates: of one command's cells.
        beginning: seconds that the program itself takes to start.
    """
    rows = [
        [
            e.title,
            f"{e.left} of {e.images}",
            f"{e.forwards:,.0f}" + (f" + {e.tail_forwards:,.0f} of the tail" if e.tail_forwards else ""),
            f"{e.backwards:,.0f}",
            f"{e.seconds:.3g}",
            f"{3600 / e.seconds:,.0f}" if e.seconds else "-",
            _duration(e.total),
            f"{_duration(e.bounds[0])} to {_duration(e.bounds[1])}",
            _bytes(e.memory),
            _bytes(e.disk),
        ]
        for e in estimates
    ]
    head = [
        "cell",
        "images left",
        "forwards/image",
        "backwards/image",
        "s/image",
        "images/h",
        "time",
        "range",
        "memory",
        "disk",
    ]
    total, low, high = (beginning + sum(x) for x in zip(*((e.total, *e.bounds) for e in estimates), strict=True))
    passes = sum(e.left * e.forwards for e in estimates)
    cuda = estimates[0].device == "cuda"
    threads = torch.get_num_threads()
    hours = f"{total / 3600:.3g} GPU-hours" if cuda else f"{total * threads / 3600:.3g} CPU-hours ({threads} threads)"
    notes = "".join(f"note: {note}\n" for note in dict.fromkeys(note for e in estimates for note in e.notes))
    return (
        f"{table(head, rows)}\n\n{notes}"
        f"total: {_duration(total)} ({_duration(low)} to {_duration(high)}) one cell after the other, {hours}; "
        f"{passes:,.0f} forwards; peak memory {_bytes(max(e.memory for e in estimates))}; "
        f"disk {_bytes(sum(e.disk for e in estimates))}\n"
        f"dry run: nothing was computed or written; estimated from up to {_TRIED} images a cell on this machine"
    )


def _duration(seconds: float) -> str:
    for limit, unit, text in ((90, 1, "s"), (90 * 60, 60, "min"), (48 * 3600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {text}"
    return f"{seconds / 86400:.1f} days"


def _bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} GiB"
