"""The ratios that have to hold on any machine, in one run."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_grad_cam import AblationCAM, ScoreCAM
from torch import Tensor, nn
from tqdm import tqdm

from experiments.benchmark import library
from experiments.benchmark.common import Figure, as_loaded, explainer, photograph
from experiments.benchmark.start import first_record
from experiments.cell.prefetch import load
from experiments.jobs.machine import held_memory, in_turn, timed
from experiments.store.records import CellFolder
from metrics.base import Case
from metrics.deletion_insertion import Deletion, Insertion, auc, steps
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, GradientOf
from suny.explanation import Explainer, upsample
from suny.images.demo import Demo
from suny.interventions.causes import FeatureCauses, FilterCauses
from suny.interventions.pixels import pixel_order, rise_kernel

# passes of the bare network that its throughput is measured with, in batches
_PLENTY = 24


class Ratios:
    """The measurements of one network; each part returns its figures.

    Args:
        classifier: the network.
        device: where.
        seconds: how long whatever is short is repeated.
        quick: fewer points in every series, and no process is started: for tests.
    """

    PARTS = ("throughput", "curves", "cams", "first_result", "growth", "profile")

    def __init__(self, classifier: Classifier, device: torch.device, seconds: float, quick: bool) -> None:
        self.classifier, self.device, self.seconds, self.quick = classifier, device, seconds, quick
        self.engine = Engine.of(classifier, device)
        self.loaded, self.layer = as_loaded(classifier, device)
        self.image, self.target = photograph(classifier, self.engine)
        self.batch = self.image.expand(self.engine.batch_size, -1, -1, -1).contiguous()
        self.laid_out = self.batch.contiguous(memory_format=torch.channels_last)  # as methods hand their images over

    def measure(self, progress: tqdm[Any]) -> list[Figure]:
        figures = []
        for part in self.PARTS:
            progress.set_description(f"{self.classifier.name}: {part.replace('_', ' ')}")
            for what, value, unit in getattr(self, part)():
                figures.append(Figure(self.classifier.name, what, value, unit))
            progress.update()
        return figures

    def throughput(self) -> Any:
        """The prepared network beside the one a user loads; perturbation methods beside the prepared network."""
        size, engine = len(self.batch), self.engine
        alone, batches, own = in_turn(
            [lambda: self._plain(self.batch[:1]), lambda: self._plain(self.batch), lambda: engine.logits(self.laid_out)],
            self.device,
            self.seconds,
        )
        yield "network as loaded, one image a pass", 1 / alone, "images/s"
        yield f"network as loaded, batches of {size}", size / batches, "images/s"
        yield f"network prepared, batches of {size}", size / own, "images/s"
        yield "  of the network as loaded, the same batches", 100 * batches / own, "%"
        few = ["method.k=3", "method.prescreen=8"] if self.quick else []
        works = {
            "suny": explainer("method=suny", *few),
            "rise": explainer("method=rise", f"method.masks={32 if self.quick else 512}"),
            "scorecam": explainer("method=scorecam"),
            "occlusion": explainer("method=occlusion"),
        }
        for name, method in works.items():
            share = self._share(lambda method=method: self._explain(method))  # type: ignore[misc]
            yield f"{name}: of the prepared network's throughput", share, "%"
        yield "deletion and insertion, 225 points: of the prepared network's throughput", self._share(self._curves), "%"

    def curves(self) -> Any:
        """Deletion and insertion beside one pass a point, as it is commonly written."""
        points = 29
        saliency = explainer("method=gradcam").explain(self.engine, self.image, self.target, [0]).saliency[0]
        found: list[tuple[float, float]] = []

        def ours() -> None:
            case = Case(self.engine, self.image[0], int(self.target), saliency)
            found.append((Deletion(points=points).measure(case), Insertion(points=points).measure(case)))

        def loop() -> None:
            found.append(_stepwise(self._plain, self.image, int(self.target), saliency, points))

        fast, slow = in_turn([ours, loop], self.device, self.seconds, warm=False)
        yield f"deletion and insertion, {points} points", fast, "s"
        yield "  faster than one pass of the network as loaded a point", slow / fast, "times"
        yield "  largest difference of the four areas", max(abs(a - b) for a, b in zip(*found[:2], strict=True)), ""

    def cams(self) -> Any:
        """Whole explanations beside pytorch-grad-cam's, of the same layer, in batches of the same size."""
        pairs: Sequence[tuple[str, Any, str]] = (
            ("Score-CAM", ScoreCAM, "scorecam_softmax"),
            ("Ablation-CAM", AblationCAM, "ablationcam"),
        )
        for title, kind, name in pairs:
            method = explainer(f"method={name}")
            self._explain(method)  # warm
            before, ours = self._clocked(method)
            low, theirs = library.whole(kind, self.loaded, self.layer, self.image, self.target, len(self.batch))
            after, _ = self._clocked(method)
            # the library divides by the logit, ours by its absolute value
            sign = 1.0 if name != "ablationcam" else float(self.engine.logits(self.image)[0, int(self.target)].sign())
            expected = upsample((sign * low.to(self.device)).clamp(min=0)[None], self.image.shape[-2:])[0]
            top = float(expected.max()) or float("nan")  # two empty maps agree in nothing
            yield f"{title}, whole explanation", (before + after) / 2, "s"
            yield "  faster than pytorch-grad-cam's on the network as loaded", 2 * theirs / (before + after), "times"
            yield "  largest difference of the maps, of their maximum", float((ours - expected).abs().max()) / top, ""

    def first_result(self) -> Any:
        """A fresh process from its start to its first record, of the demo's photographs."""
        if self.quick or self.classifier.label_space != "imagenet":
            return
        arguments = [f"model={self.classifier.name}", "method=gradcam", "metrics=fast", f"device={self.device.type}"]
        if self.classifier.name != "efficientnet_lite0":
            arguments.append("model.weights=random")
        taken = first_record(arguments)
        yield "time to first result (gradcam, metrics=fast), from the program's start", taken, "s"

    def growth(self) -> Any:
        """Seconds along one quantity at a time, and how far from linear in the work they are."""
        engine, image, target = self.engine, self.image, int(self.target)
        ks = (3, 4) if self.quick else (4, 6, 8)

        def suny(k: int) -> Callable[[], Any]:
            method = explainer("method=suny", f"method.k={k}", "method.prescreen=16")
            return lambda: self._explain(method)

        yield from self._series("suny, k = {}", ks, suny, lambda k: 2 ** (k + 1) - 2 * k + 2 * 16)

        activation, carried = engine.activations(self.image)
        channels = activation.shape[1]
        eye = torch.eye(channels, dtype=torch.bool, device=image.device)
        players = torch.arange(channels, device=image.device)
        shown = FeatureCauses(engine, image[0], target, activation[0].float())
        filters = FilterCauses(engine, activation[0], carried, target, engine.size, eye)
        some = [channels // 4, channels] if self.quick else [channels // 16, channels // 8, channels // 4]

        def features(count: int) -> Callable[[], Any]:
            return lambda: shown.kept(players, eye[:count])

        def tails(count: int) -> Callable[[], Any]:
            return lambda: filters.removed(players, eye[:count])

        yield from self._series("features of {} channels as masks", some, features, float)
        yield from self._series("{} channels switched off", [channels // 4, channels // 2, channels], tails, float)

        saliency = explainer("method=center").explain(engine, image, self.target, [0]).saliency[0]

        def deletion(points: int) -> Callable[[], Any]:
            return lambda: Deletion(points=points).measure(Case(engine, image[0], target, saliency, clean=1.0))

        # the first point is the clean image, which is known
        yield from self._series("deletion, {} points", (9, 17) if self.quick else (15, 29, 57), deletion, lambda n: n - 1)

        def sized(side: int) -> Callable[[], Any]:
            larger = Engine(self.classifier.network, self.classifier.target_layer, (side, side), self.device, batch_size=8)
            images = torch.zeros(8, 3, side, side, device=self.device)
            return lambda: larger.logits(images)

        crop = self.classifier.view.crop
        sides = [32 * round(crop * factor / 32) for factor in (1.0, 1.5, 2.0)]
        yield from self._series("8 images of {} pixels a side", sides, sized, lambda side: side**2)

        method = explainer("method=gradcam")

        def images(count: int) -> Callable[[], Any]:
            def work() -> None:
                for at in range(count):
                    shown, chosen = photograph(self.classifier, engine, at % 6)
                    found = method.explain(engine, shown, chosen, [at]).saliency[0]
                    Deletion(points=5).measure(Case(engine, shown[0], int(chosen), found))

            return work

        counts = (2, 4) if self.quick else (10, 20, 40)
        held = held_memory(self.device)
        yield from self._series("{} images: gradcam and deletion", counts, images, float)
        yield "memory held by that, beyond what was held before", (held_memory(self.device) - held) / 2**20, "MiB"

    def profile(self) -> Any:
        """Where time goes: in the network, in making perturbed images, elsewhere."""
        engine = Profiled(self.classifier.network, self.classifier.target_layer, self.engine.size, self.device)
        few = ["method.k=3", "method.prescreen=8"] if self.quick else []
        works: dict[str, Callable[[], Any]] = {
            name: lambda name=name: self._explain(explainer(f"method={name}", *(few if name == "suny" else [])), engine)  # type: ignore[misc]
            for name in ("suny", "scorecam", "suny_filter", "gradcam")
        }
        works["deletion and insertion"] = lambda: self._curves(engine)
        for name, work in works.items():
            work()
            engine.spent = dict.fromkeys(engine.spent, 0.0)
            whole = timed(work, self.device)
            for what, spent in engine.spent.items():
                yield f"{name}: {what}", 100 * spent / whole, "%"
            yield f"{name}: elsewhere", 100 * (1 - sum(engine.spent.values()) / whole), "%"
        sample = Demo(name="demo").load().samples[0]
        (decoding,) = in_turn([lambda: load(sample, self.classifier.view)], self.device, min(self.seconds, 1.0))
        yield "a photograph decoded, resized and normalised", 1000 * decoding, "ms"
        with tempfile.TemporaryDirectory() as folder, CellFolder.open(Path(folder)) as cell:
            record = {"image": "", "status": "ok", "curve": [0.1] * 100}
            (writing,) = in_turn([lambda: cell.append(dict(record))], self.device, min(self.seconds, 0.2))
        yield "a record written and synced", 1000 * writing, "ms"

    def _plain(self, images: Tensor) -> Tensor:
        """The network as a user loads it."""
        with torch.inference_mode():
            return self.loaded(images)

    def _explain(self, method: Explainer, engine: Engine | None = None) -> Tensor:
        return method.explain(engine or self.engine, self.image, self.target, [0]).saliency[0]

    def _clocked(self, method: Explainer) -> tuple[float, Tensor]:
        found: list[Tensor] = []
        seconds = timed(lambda: found.append(self._explain(method)), self.device)
        return seconds, found[0]

    def _curves(self, engine: Engine | None = None) -> None:
        engine = engine or self.engine
        saliency = explainer("method=center").explain(engine, self.image, self.target, [0]).saliency[0]
        case = Case(engine, self.image[0], int(self.target), saliency)
        points = 9 if self.quick else 225
        Deletion(points=points).measure(case)
        Insertion(points=points).measure(case)

    def _share(self, work: Callable[[], Any]) -> float:
        """Forwards a second of some work, in percent of those of the bare network, which is timed before and after."""
        engine, count = self.engine, _PLENTY * self.engine.batch_size

        def bare() -> None:
            engine.score(count, lambda part: self.laid_out[: part.stop - part.start], 0)

        before = engine.cost
        work()  # warm, and counted
        forwards = (engine.cost - before).forwards
        first, taken, last = in_turn([bare, work, bare], self.device, self.seconds, warm=False)
        return 100 * (first + last) / (2 * count) / (taken / forwards)

    def _series(
        self, title: str, values: Sequence[int], work: Callable[[int], Callable[[], Any]], expected: Callable[[int], float]
    ) -> Any:
        taken = in_turn([work(v) for v in values], self.device, self.seconds / 2)
        for value, seconds in zip(values, taken, strict=True):
            yield title.format(value), seconds, "s"
        grown = (taken[-1] / taken[0]) / (expected(values[-1]) / expected(values[0]))
        yield f"  growth from {values[0]} to {values[-1]}, over that of the work (1: linear)", grown, ""


class Profiled(Engine):
    """An engine that adds up where its time goes (seconds)."""

    def __init__(self, *settings: Any, **keys: Any) -> None:
        self.spent = {"in the network": 0.0, "making its inputs": 0.0}
        super().__init__(*settings, **keys)

    def activations(self, images: Tensor) -> Any:
        return self._adding("in the network", lambda: super(Profiled, self).activations(images))

    def activation_gradient(self, images: Tensor, targets: Tensor, of: GradientOf = "logit") -> tuple[Tensor, Tensor]:
        return self._adding("in the network", lambda: super(Profiled, self).activation_gradient(images, targets, of))

    def _batched(
        self, count: int, build: Callable[[slice], Tensor], run: Callable[[Tensor], Tensor], *kind: bool, **named: bool
    ) -> Tensor:
        return super()._batched(
            count,
            lambda part: self._adding("making its inputs", lambda: build(part)),
            lambda images: self._adding("in the network", lambda: run(images)),
            *kind,
            **named,
        )

    def _adding(self, where: str, work: Callable[[], Any]) -> Any:
        found: list[Any] = []
        self.spent[where] += timed(lambda: found.append(work()), self.device)
        return found[0]


def _stepwise(
    network: Callable[[Tensor], Tensor], image: Tensor, target: int, saliency: Tensor, points: int
) -> tuple[float, float]:
    """Deletion and insertion, one pass a point; image (1, 3, H, W), saliency (H, W)."""
    kernel = rise_kernel().to(image)[None, None].expand(3, 1, -1, -1)
    blurred = nn.functional.conv2d(image, kernel, padding=kernel.shape[-1] // 2, groups=3)
    order, counts = pixel_order(saliency), steps(saliency.numel(), points)
    areas = []
    for start, finish in ((image, torch.zeros_like(image)), (blurred, image)):
        scores = []
        for count in counts:
            changed = start.clone().flatten(2)
            changed[..., order[:count]] = finish.flatten(2)[..., order[:count]]
            scores.append(float(network(changed.reshape(image.shape)).softmax(1)[0, target]))
        areas.append(auc(scores, [count / saliency.numel() for count in counts]))
    return areas[0], areas[1]
