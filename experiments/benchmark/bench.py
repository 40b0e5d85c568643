"""The one place that measures time: a network, what is done with it, and the same network as a user loads it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from baselines.controls import Center
from experiments.benchmark.common import as_loaded, photograph
from experiments.jobs.machine import in_turn, timed
from metrics.base import Case
from metrics.deletion_insertion import Deletion, Insertion
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import BatchSize, Engine, GradientOf
from suny.explanation import Explainer

# The throughput of the bare network is measured over so many batches.
_BATCHES = 24

# The figure of deletion and insertion is told by this name wherever it is measured.
CURVES = "deletion and insertion, 225 points"


@dataclass(frozen=True)
class Throughput:
    """Seconds per image.

    Args:
        single: the network as loaded, one image per pass.
        loaded: the same network, in batches.
        prepared: the engine's network, in the same batches.
    """

    single: float
    loaded: float
    prepared: float


@dataclass(frozen=True)
class Share:
    """The cost of some work beside the bare network.

    Args:
        seconds: the work takes so long.
        forwards: the work passes so many images through the network.
        percent: forwards per second, in percent of those of the bare network.
    """

    seconds: float
    forwards: int
    percent: float


class Bench:
    """One network and one photograph.

    Args:
        classifier: the network.
        device: the device that computes.
        seconds: how long whatever is short is repeated.
        batch_size: the batch size of the engine.
        quick: whether few points of a curve do: for tests.
    """

    def __init__(
        self,
        classifier: Classifier,
        device: torch.device,
        seconds: float,
        batch_size: BatchSize = None,
        quick: bool = False,
    ) -> None:
        self.classifier, self.device, self.seconds, self.quick = classifier, device, seconds, quick
        self.engine = Engine.of(classifier, device, batch_size=batch_size)
        self.loaded, self.layer = as_loaded(classifier, device)
        self.image, self.target = photograph(classifier, self.engine)
        self.batch = self.image.expand(self.engine.batch_size, -1, -1, -1).contiguous()
        self.laid_out = self.batch.contiguous(memory_format=torch.channels_last)  # methods hand their images over like this

    def plain(self, images: Tensor) -> Tensor:
        """The logits of the network as a user loads it."""
        with torch.inference_mode():
            return self.loaded(images)

    def explain(self, method: Explainer, engine: Engine | None = None) -> Tensor:
        """The photograph's saliency map (H, W)."""
        return method.explain(engine or self.engine, self.image, self.target, [0]).saliency[0]

    def curves(self, engine: Engine | None = None) -> None:
        """Deletion and insertion of a map that costs nothing."""
        engine, points = engine or self.engine, 9 if self.quick else 225
        case = Case(engine, self.image[0], int(self.target), self.explain(Center(), engine))
        Deletion(points=points).measure(case)
        Insertion(points=points).measure(case)

    def throughput(self) -> Throughput:
        """The prepared network beside the one that a user loads, timed in turn."""
        works = (
            lambda: self.plain(self.batch[:1]),
            lambda: self.plain(self.batch),
            lambda: self.engine.logits(self.laid_out),
        )
        single, loaded, prepared = in_turn(works, self.device, self.seconds)
        return Throughput(single, loaded / len(self.batch), prepared / len(self.batch))

    def share(self, work: Callable[[], Any]) -> Share:
        """The cost of some work; the bare network is timed before and after it."""
        engine, count = self.engine, _BATCHES * self.engine.batch_size

        def bare() -> None:
            engine.score(count, lambda batch: self.laid_out[: batch.stop - batch.start], 0)

        before = engine.cost
        work()  # the first call warms up, and is counted
        forwards = (engine.cost - before).forwards
        first, taken, last = in_turn([bare, work, bare], self.device, self.seconds, warm=False)
        return Share(taken, forwards, 100 * (first + last) / (2 * count) / (taken / forwards))


class ProfiledEngine(Engine):
    """An engine that adds up where its time goes (seconds)."""

    def __init__(self, *settings: Any, **keys: Any) -> None:
        self.spent = {"in the network": 0.0, "making its inputs": 0.0}
        super().__init__(*settings, **keys)

    def activations(self, images: Tensor) -> Any:
        return self._adding("in the network", lambda: super(ProfiledEngine, self).activations(images))

    def activation_gradient(self, images: Tensor, targets: Tensor, of: GradientOf = "logit") -> tuple[Tensor, Tensor]:
        return self._adding("in the network", lambda: super(ProfiledEngine, self).activation_gradient(images, targets, of))

    def _batched(
        self, count: int, build: Callable[[slice], Tensor], run: Callable[[Tensor], Tensor], *kind: bool, **named: bool
    ) -> Tensor:
        return super()._batched(
            count,
            lambda batch: self._adding("making its inputs", lambda: build(batch)),
            lambda images: self._adding("in the network", lambda: run(images)),
            *kind,
            **named,
        )

    def _adding(self, where: str, work: Callable[[], Any]) -> Any:
        results: list[Any] = []
        self.spent[where] += timed(lambda: results.append(work()), self.device)
        return results[0]
