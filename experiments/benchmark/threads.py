"""Thread pools: the work outside the network with one thread and with all, alone and beside other work.

Pools take their size when their library is loaded, so that two fresh processes take turns, and one of them always sleeps.
"""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from typing import Any

import numpy as np
from torch import Tensor
from tqdm import tqdm

from experiments.benchmark import memory
from experiments.benchmark.bench import ProfiledEngine
from experiments.benchmark.common import explainer, network, photograph
from experiments.cell.prefetch import load
from experiments.command import configuration as config
from experiments.jobs.machine import timed
from metrics.base import Case
from metrics.deletion_insertion import Deletion, Insertion
from metrics.localization import BoxAccuracy
from metrics.sanity import similarity
from metrics.statistics import class_mean_interval, maximum_interval, mean_band, mean_interval, paired, rank_comparison
from suny.images.demo import Demo
from suny.images.geometry import Box
from suny.interventions.pixels import substrate

# The library of these methods runs the network itself, so that its time can't be told apart.
_WITHIN = ("integrated_gradients",)
# These are measured beside the presets, or in place of one: settings that no preset has, and fewer masks where all are made
# in the same way.
_SETTINGS = {
    "suny, k-means": ["method=suny_groups", "method.candidates=kmeans"],
    "suny, filters in groups": ["method=suny_filter", "method.candidates=nmf"],
    "rise": ["method=rise", "method.masks=512"],
}
_WORK = ("a pass of the network", "deletion and insertion", "box accuracy", "sanity", "statistics", "filters", "decoding")
# The network sees one of so many batches; its results stand for the others', which are built all the same.
_EVERY = 32
_ENOUGH = 0.02  # seconds; shorter work is repeated
_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# The loop ends with the process that has started it, however that ends.
_LOOP = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    for _ in range(1000000): pass"


@dataclass(frozen=True)
class ThreadTimes:
    """Seconds of some work outside the network with one thread, and how many times longer it takes otherwise.

    Args:
        network: its name.
        what: the work's name.
        seconds: with one thread.
        all_threads: with all threads, over ``seconds``.
        busy: with one thread beside a busy loop on each core, over ``seconds``.
        all_threads_busy: with all threads beside the loops, over the time of one thread beside them.
    """

    network: str
    what: str
    seconds: float
    all_threads: float
    busy: float
    all_threads_busy: float


def works() -> list[str]:
    """The names of all work that is measured: methods, then the rest."""
    return [*sorted({*memory.methods(), *_SETTINGS} - {*_WITHIN}), *_WORK]


def ratios(models: Sequence[str], seconds: float, some: Sequence[str], progress: tqdm[Any]) -> list[ThreadTimes]:
    """The time of all threads over the time of one.

    Args:
        models: names of networks.
        seconds: how long each work is measured, alone and again beside the loops.
        some: names among :func:`works`.
        progress: takes two steps per work.
    """
    rows = []
    for model in models:
        with ExitStack() as stack:
            workers = [stack.enter_context(_worker(model, limit)) for limit in ("1", None)]
            taken: dict[str, list[float]] = {}
            for loops in (0, os.cpu_count() or 1):
                with busy(loops):
                    for what in some:
                        progress.set_description(f"{model}: {what}, beside {loops} busy loops")
                        taken.setdefault(what, []).extend(_in_turn(workers, model, what, seconds))
                        progress.update()
        for what, (one, several, one_busy, several_busy) in taken.items():
            rows.append(ThreadTimes(model, what, one, several / one, one_busy / one, several_busy / one_busy))
    return rows


@contextmanager
def busy(loops: int) -> Iterator[list[int]]:
    """Runs so many processes that do nothing but take time while the block runs; yields their ids."""
    with ExitStack() as stack:
        running = []
        for _ in range(loops):
            # Ctrl-C ends them too, and nobody wants to read their tracebacks.
            loop = subprocess.Popen([sys.executable, "-c", _LOOP, str(os.getpid())], stderr=subprocess.DEVNULL)
            stack.callback(loop.wait)
            stack.callback(loop.kill)
            running.append(loop.pid)
        yield running


@contextmanager
def _worker(model: str, limit: str | None) -> Iterator[ProcessPoolExecutor]:
    """A fresh process with so many threads (None: as many as the libraries choose), its network prepared."""
    with ProcessPoolExecutor(1, get_context("spawn"), signal.signal, (signal.SIGINT, signal.SIG_IGN)) as worker:
        before = {name: os.environ.pop(name, None) for name in _VARIABLES}
        if limit:
            os.environ.update(dict.fromkeys(_VARIABLES, limit))
        try:
            started = worker.submit(_worker_of, model)
        finally:
            for name in _VARIABLES:
                os.environ.pop(name, None)
            os.environ.update({name: value for name, value in before.items() if value is not None})
        started.result()
        yield worker


def _in_turn(workers: Sequence[ProcessPoolExecutor], model: str, what: str, seconds: float) -> list[float]:
    """Each process's seconds outside the network, the median of rounds that fit the time (one at least)."""
    rounds: list[list[float]] = []
    start = time.perf_counter()
    while not rounds or time.perf_counter() - start < seconds:
        rounds.append([worker.submit(outside, model, what).result() for worker in workers])
    return [statistics.median(times) for times in zip(*rounds, strict=True)]


def outside(model: str, what: str) -> float:
    """Seconds that some work takes outside the network, in this process: the median of runs after the first."""
    worker = _worker_of(model)
    engine, work = worker.engine, worker.work(what)
    taken: list[float] = []
    while sum(taken) < _ENOUGH:
        engine.restart()
        whole = timed(work, engine.device)
        taken.append(whole - (engine.spent["in the network"] if what != _WORK[0] else 0.0))
    return statistics.median(taken)


@cache
def _worker_of(model: str) -> _Worker:
    return _Worker(model)


class _Worker:
    """A network, and the work that is done beside it."""

    def __init__(self, model: str) -> None:
        config.register_torchvision([f"model={model}"])
        self.classifier = network(model)
        self.engine = _SparingEngine.of(self.classifier, "cpu")
        self.image, self.target = photograph(self.classifier, self.engine)
        self.works: dict[str, Callable[[], Any]] = {}

    def work(self, what: str) -> Callable[[], Any]:
        """The work of a name, which has run once."""
        if what not in self.works:
            self.works[what] = self._work(what)
            self.engine.restart()
            self.works[what]()
        return self.works[what]

    def _work(self, what: str) -> Callable[[], Any]:
        engine, image, target = self.engine, self.image, self.target
        if what not in _WORK:
            method = explainer(*_SETTINGS.get(what, [f"method={what}"]))
            return lambda: method.explain(engine, image, target, [0])
        noise, centre = (
            explainer(f"method={name}").explain(engine, image, target, [0]).saliency[0] for name in ("random", "center")
        )
        draws = np.random.default_rng(0)
        values, right = draws.uniform(size=(4, 500)), draws.uniform(size=(3, 500, 100)) > 0.5
        curves = draws.uniform(size=(500, 225))
        sample = Demo(name="demo").load().samples[0]

        def score_curves() -> None:
            case = Case(engine, image[0], int(target), noise)
            Deletion(points=225).measure(case)
            Insertion(points=225).measure(case)

        def compute_statistics() -> None:
            mean_interval(values[0].tolist())
            class_mean_interval(values[0].tolist(), list(range(100)) * 5)
            mean_band(curves)
            maximum_interval(right)
            paired(values[0].tolist(), values[1].tolist())
            rank_comparison(values.T, True)

        def blur() -> None:
            for kind in ("blur", "strong_blur", "gaussian", "wide_gaussian"):
                substrate(image[0], kind)

        boxes = (Box(20.0, 20.0, 100.0, 100.0),)
        works = (
            lambda: engine.logits(image),
            score_curves,
            lambda: BoxAccuracy().measure(Case(engine, image[0], int(target), centre, boxes=boxes)),
            lambda: similarity(noise, centre),
            compute_statistics,
            blur,
            lambda: load(sample, self.classifier.view),
        )
        return dict(zip(_WORK, works, strict=True))[what]


class _SparingEngine(ProfiledEngine):
    """An engine that builds every batch, and runs the network on some of them."""

    def __init__(self, *settings: Any, **keys: Any) -> None:
        self._passes: dict[tuple[Any, ...], tuple[int, Tensor | None]] = {}
        super().__init__(*settings, **keys)

    def restart(self) -> None:
        """Begins another image."""
        self.spent = dict.fromkeys(self.spent, 0.0)
        self._passes.clear()

    def _batched(
        self, count: int, build: Callable[[slice], Tensor], run: Callable[[Tensor], Tensor], *kind: bool, **named: bool
    ) -> Tensor:
        def some(images: Tensor) -> Tensor:
            key = run.__qualname__, images.shape
            passes, last = self._passes.get(key, (0, None))
            if last is None or passes % _EVERY == 0:
                last = run(images)
            self._passes[key] = passes + 1, last
            return last

        return super()._batched(count, build, some, *kind, **named)

    def _random(self, seed: int, layers: Any) -> _SparingEngine:
        return self  # another network takes the same time
