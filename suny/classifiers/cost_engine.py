"""An engine that runs part of the work and says what all of it takes.

Explainers and metrics ask it as they ask an :class:`~suny.classifiers.engine.Engine`, and every pass is counted as if it had
been made. Work is of one kind where the same code builds and runs it, in batches of the same length. Of each kind the first
batches are run and timed; then their results are repeated, and the time that the others would have taken is added up. What
the work costs does not depend on the numbers that are scored, so that the counts are those of a real run, but for methods
whose scores decide when they stop (``target_error``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from suny.classifiers.engine import Cost, Engine, GradientOf, batches

T = TypeVar("T")

# At least so many batches of each kind of work are run; the first one is a warm-up.
_LEAST = 3


@dataclass
class _Work:
    """One kind of work: what its runs took (seconds), what a run counts as, and its last result."""

    taken: list[float] = field(default_factory=list)
    counts: Cost = field(default_factory=Cost)
    result: Any = None

    @property
    def each(self) -> float:
        """Seconds of one run, the warm-up aside."""
        after = self.taken[1:] or self.taken
        return sum(after) / len(after)

    def known(self, seconds: float) -> bool:
        return len(self.taken) >= _LEAST and sum(self.taken[1:]) >= seconds


class Rehearsal(Engine):
    """Arguments as of :class:`~suny.classifiers.engine.Engine`.

    Attributes:
        sample: how long each kind of work is run and timed, seconds.
        limit: after so many seconds since :meth:`begin`, one run of a kind is enough.
        skipped: seconds that were not spent since :meth:`begin`.
        preparation: seconds that the network took to be prepared.
        others: networks with other weights that were asked for; this one stood in for them.
    """

    sample = 0.5
    limit = 10.0

    def __init__(self, *settings: Any, **keys: Any) -> None:
        began = time.perf_counter()
        super().__init__(*settings, **keys)
        self.preparation = time.perf_counter() - began
        self._works: dict[Hashable, _Work] = {}
        self.others: set[Hashable] = set()
        self._busy = False
        self.begin()

    def forget(self) -> None:
        """Before another method: the same code may take another time for it."""
        self._works.clear()
        self.others.clear()

    def begin(self) -> None:
        """Before an image."""
        self._began = time.perf_counter()
        self._new_image = True
        self.skipped = 0.0

    def activation_gradient(self, images: Tensor, targets: Tensor, of: GradientOf = "logit") -> tuple[Tensor, Tensor]:
        # the first of an image is its own: methods choose among the channels that it finds
        real, self._new_image = self._new_image, False
        return self._one("gradient", len(images), lambda: super(Rehearsal, self).activation_gradient(images, targets, of), real)

    @contextmanager
    def differentiable(self) -> Iterator[nn.Module]:
        with super().differentiable() as network:
            yield network if self._busy else _Differentiated(self, network)

    def _batched(
        self,
        count: int,
        build: Callable[[slice], Tensor],
        run: Callable[[Tensor], Tensor],
        gradient: bool = False,
        tail: bool = False,
    ) -> Tensor:
        if count == 0:
            return super()._batched(count, build, run)
        kind = run.__qualname__, getattr(build, "__qualname__", "")
        return torch.cat(
            [
                self._one(kind, part.stop - part.start, lambda part=part: run(build(part)))  # type: ignore[misc]
                for part in batches(count, self._size(gradient, tail))
            ]
        )

    def _random(self, seed: int, layers: Any) -> Engine:
        self.others.add((seed, len(layers)))
        return self

    def _one(self, kind: Hashable, length: int, run: Callable[[], T], real: bool = False) -> T:
        """The result of a run, or an earlier one."""
        work = self._works.setdefault((kind, length), _Work())
        if not real and self._enough(work):
            self._skip(work)
            return work.result
        before, start, busy = self.cost, self._now(), self._busy
        self._busy = True
        try:
            work.result = run()
        finally:
            self._busy = busy
        work.taken.append(self._now() - start)
        work.counts = self.cost - before
        return work.result

    def _enough(self, work: _Work) -> bool:
        hurried = bool(work.taken) and time.perf_counter() - self._began > self.limit
        return hurried or work.known(self.sample)

    def _skip(self, work: _Work) -> None:
        self.skipped += work.each
        for name, count in vars(work.counts).items():
            setattr(self._cost, name, getattr(self._cost, name) + count)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class _Differentiated(nn.Module):
    """The network for libraries that differentiate it themselves: a run ends when the gradient by its input is there."""

    def __init__(self, rehearsal: Rehearsal, network: nn.Module) -> None:
        super().__init__()
        self.rehearsal = [rehearsal]  # in a list: it is no part of this module
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        (rehearsal,) = self.rehearsal
        work = rehearsal._works.setdefault(("differentiated", len(images)), _Work())
        if rehearsal._enough(work):
            rehearsal._skip(work)
            return work.result + 0 * images.sum()
        before, start = rehearsal.cost, rehearsal._now()
        rows = self.network(images)
        work.result, work.counts = rows.detach(), rehearsal.cost - before

        def done(gradient: Tensor) -> Tensor:
            work.taken.append(rehearsal._now() - start)
            return gradient

        images.register_hook(done)
        return rows
