"""Compares a GPU's numbers with the CPU's: the maps of every method, and every metric on the same maps.

The reference is the CPU in float32. The tolerances are:

    float32   a map: 5e-4 of its maximum. Another order of the sums changes it by up to 1e-5 on the CPU alone, TensorFloat-32,
              which has to be off, by more than 1e-3. Gradients by pixels jump where a rectifier is at its kink: there the
              direction of the map is compared, 1 - cos <= 1e-3.
              a metric: 1e-3 of the larger of 1 and its value. Both devices measure the same map, so that pixels rank the same
              and only p_c differs.
    bf16      three times what bf16 does to the same map or metric on the CPU, and .02 more: a method may do with numbers of
              eight bits what it likes. Maps are compared by their direction, since the largest difference of two maps that
              choose other channels says nothing.

Methods take few samples here: more passes would run the same code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmark.common import explainer
from experiments.benchmark.memory import methods
from experiments.cell.cell import parts_in_view
from experiments.cell.prefetch import load
from experiments.command import configuration as config
from experiments.command.configuration import Run
from experiments.command.program import composed
from metrics.base import Case, Frame, Metric
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine, Precision, default_batch_size
from suny.explanation import Explainer, Explanation
from suny.images.dataset import Sample
from suny.images.geometry import Box, box_mask
from suny.seeds import image_seed

MOST_OF_MAP, MOST_OF_DIRECTION, MOST_OF_METRIC = 5e-4, 1e-3, 1e-3
BF16_TIMES, BF16_MORE = 3.0, 0.02

# The maps of these methods jump where a rectifier is at its kink.
BY_PIXELS = ("integrated_gradients", "smoothgrad_vanilla")

FEW: Mapping[str, Sequence[str]] = {
    "integrated_gradients": ["method.steps=8"],
    "occlusion": ["method.stride=32"],
    "rise": ["method.masks=256"],
    "smoothgrad": ["method.samples=8"],
    "smoothgrad_vanilla": ["method.samples=8"],
    "suny": ["method.k=5", "method.prescreen=32"],
    "suny_n": ["method.k=5", "method.prescreen=32"],
    "suny_s": ["method.k=5", "method.prescreen=32"],
    "suny_semi": ["method.coalitions=120"],
}

# The metrics measure the maps of these methods: one has one map, one has two maps and a value per channel.
MEASURED = ("gradcam", "suny_filter")


@dataclass(frozen=True)
class Difference:
    """How far one method or metric on a device is from the CPU's float32: the largest of the images, in bf16 the mean.

    Args:
        network: its name.
        what: the method or metric.
        precision: the precision on the device.
        value: the difference.
        most: the largest difference that is allowed; None: nothing is asked.
        unit: the unit of both numbers.
    """

    network: str
    what: str
    precision: Precision
    value: float
    most: float | None
    unit: str


@dataclass(frozen=True)
class Subject:
    """A network and the images it is asked about.

    Args:
        overrides: the configuration's model, data set and metrics.
        images: how many images are taken.
    """

    overrides: Sequence[str]
    images: int


# These are the metrics of all files of conf/metrics, wherever network and data set have what they need. The sanity check of
# the large network is left out: ten networks would have to be prepared for it.
ALL = "metrics=[all,protocols,sanity,causal,causal_filters]"
SUBJECTS = (
    Subject(("model=causal_cnn", "dataset=causal_shapes", "dataset.count=40", ALL), 4),
    Subject(("model=causal_analytic", "dataset=causal_shapes", "dataset.world=colours", "dataset.count=40", ALL), 4),
    Subject(("model=efficientnet_lite0", "dataset=demo", "metrics=[all,protocols]"), 1),
)


class DeviceComparison:
    """One network on a device beside the CPU.

    Args:
        subject: the network and the images.
        device: the other device.
        root: a folder for images that are generated.
        precisions: those of the other device that are compared.
    """

    def __init__(
        self, subject: Subject, device: torch.device, root: str, precisions: Sequence[Precision] = ("float32", "bf16")
    ) -> None:
        self.run: Run = config.read(composed([*subject.overrides, f"results_dir={root}"]))
        self.classifier: Classifier = self.run.model.build()
        self.samples = [_annotated(s, self.classifier) for s in self.run.dataset.load().samples[: subject.images]]
        # All engines have one batch size: where batches end can change the last digits.
        size = default_batch_size(device, (self.classifier.view.crop, self.classifier.view.crop))
        self.precisions = precisions
        self.here = {p: Engine.of(self.classifier, "cpu", p, size) for p in {"float32", *precisions}}
        self.there = {p: Engine.of(self.classifier, device, p, size) for p in precisions}

    def compare_methods(self, names: Sequence[str], progress: tqdm[Any]) -> Iterator[Difference]:
        """The differences of every method's maps; and those of maps made again on the device, which need not be the same."""
        for name in names:
            progress.set_description(f"{self.classifier.name}: {name}")
            exact, again, bf16, rounded = [], [], [], []
            for at in range(len(self.samples)):
                true = self._maps(name, self.here["float32"], at)
                if "float32" in self.there:
                    maps = self._maps(name, self.there["float32"], at)
                    exact.append(map_difference(name, maps, true))
                    again.append(_furthest(self._maps(name, self.there["float32"], at), maps))
                if "bf16" in self.there:
                    bf16.append(_turn(self._maps(name, self.there["bf16"], at), true))
                    rounded.append(_turn(self._maps(name, self.here["bf16"], at), true))
            difference = partial(Difference, self.classifier.name)
            if exact:
                yield difference(f"map of {name}", "float32", max(value for value, *_ in exact), *exact[0][1:])
                yield difference(f"map of {name}, made again", "float32", max(again), None, "of the maximum")
            if bf16:
                yield difference(f"map of {name}", "bf16", _mean(bf16), BF16_TIMES * _mean(rounded) + BF16_MORE, "1 - cos")
            progress.update()

    def compare_metrics(self, progress: tqdm[Any], measured: Sequence[str] = MEASURED) -> Iterator[Difference]:
        """The differences of every metric's values, measured on the maps that the CPU makes with some methods."""
        exact: dict[str, list[float]] = {}
        bf16: dict[str, list[tuple[float, float]]] = {}
        for method in measured:
            for at in range(len(self.samples)):
                maps = self._explain(method, self.here["float32"], at)
                here = {p: self._case(method, maps, engine, at) for p, engine in self.here.items()}
                there = {p: self._case(method, maps, engine, at) for p, engine in self.there.items()}
                for name, metric in self.run.metrics.items():
                    progress.set_description(f"{self.classifier.name}: {name} of {method}")
                    if self._skipped(metric, maps) or not (true := numbers(metric.measure(here["float32"]))):
                        continue

                    def off(case: Case, metric: Metric = metric, true: list[float] = true) -> float:
                        return _off(numbers(metric.measure(case)), true)

                    if "float32" in there:
                        exact.setdefault(name, []).append(off(there["float32"]))
                    if "bf16" in there:
                        bf16.setdefault(name, []).append((off(there["bf16"]), off(here["bf16"])))
                progress.update()
        difference, unit = partial(Difference, self.classifier.name), "of max(1, value)"
        for name in self.run.metrics:
            if name in exact:
                yield difference(name, "float32", max(exact[name]), MOST_OF_METRIC, unit)
            if name in bf16:
                measured_mean, rounded = (_mean(values) for values in zip(*bf16[name], strict=True))
                yield difference(name, "bf16", measured_mean, BF16_TIMES * rounded + BF16_MORE, unit)

    def _input(self, at: int, engine: Engine) -> tuple[Tensor, int, int]:
        """The image (3, H, W) on an engine's device, the class that the CPU's network predicts, and its seed."""
        pixels = load(self.samples[at], self.classifier.view)[1]
        target = int(self.here["float32"].logits(pixels[None]).argmax())
        return pixels.to(engine.device), target, image_seed(0, self.samples[at].image)

    def _explain(self, method: str, engine: Engine, at: int) -> Explanation:
        image, target, seed = self._input(at, engine)
        return few(method).explain(engine, image[None], torch.tensor([target]), [seed])

    def _maps(self, method: str, engine: Engine, at: int) -> list[Tensor]:
        made = self._explain(method, engine, at)
        return [m[0].cpu() for m in (made.saliency, made.necessity, made.sufficiency) if m is not None]

    def _case(self, method: str, maps: Explanation, engine: Engine, at: int) -> Case:
        sample, view = self.samples[at], self.classifier.view
        image, target, seed = self._input(at, engine)
        decoded = load(sample, view)[0]
        size = decoded.image.size
        inside = box_mask(sample.boxes, size[1], size[0]).numpy()  # for metrics of masks: these data sets have none

        def there(values: Tensor | None) -> Tensor | None:
            return None if values is None else values[0].to(engine.device)

        def again(other: Engine, seed: int) -> Tensor:
            return few(method).explain(other, image[None], torch.tensor([target]), [seed]).saliency[0]

        return Case(
            engine,
            image,
            target,
            saliency=maps.saliency[0].to(engine.device),
            boxes=view.boxes(sample.boxes, size)[0],
            parts=parts_in_view(view, sample, size),
            necessity=there(maps.necessity),
            sufficiency=there(maps.sufficiency),
            frame=Frame(sample.boxes, lambda x, y: view.upright(x, y, size), inside),
            causes=self.run.dataset.known_causes(sample, view, engine.device),
            channels=there(maps.channels),
            seed=seed,
            explain=again,
            mask=torch.from_numpy(view.mask(inside)).to(engine.device),
        )

    def _skipped(self, metric: Metric, maps: Explanation) -> bool:
        causes = self.run.dataset.known_causes(self.samples[0], self.classifier.view) is not None
        return ("causes" in metric.needs and not causes) or ("sides" in metric.needs and maps.necessity is None)


def compare(
    device: torch.device, root: str, progress: tqdm[Any], subjects: Sequence[Subject] = SUBJECTS
) -> Iterator[Difference]:
    """All differences of a device from the CPU, of every method and metric.

    Args:
        device: compared with the CPU.
        root: a folder for images that are generated.
        progress: one step per method, and one per measured map.
        subjects: networks and images.
    """
    for subject in subjects:
        comparison = DeviceComparison(subject, device, root)
        yield from comparison.compare_methods(methods(), progress)
        yield from comparison.compare_metrics(progress)


def steps(subjects: Sequence[Subject] = SUBJECTS) -> int:
    return sum(len(methods()) + len(MEASURED) * subject.images for subject in subjects)


@cache
def few(method: str) -> Explainer:
    """A method with few samples; composed once, which takes a tenth of a second."""
    return explainer(f"method={method}", *FEW.get(method, ()))


def numbers(value: Any) -> list[float]:
    """The numbers in a metric's value, however they are nested; none where it is not defined."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [x for key in value for x in numbers(value[key])]
    if isinstance(value, list | tuple):
        return [x for item in value for x in numbers(item)]
    return [float(value)]


def _off(values: Sequence[float], true: Sequence[float]) -> float:
    """The largest difference of a metric's numbers, over the larger of 1 and the number; 1 where there are not as many."""
    if len(values) != len(true):
        return 1.0
    return max(abs(a - b) / max(1.0, abs(b)) for a, b in zip(values, true, strict=True))


def map_difference(method: str, maps: Sequence[Tensor], true: Sequence[Tensor]) -> tuple[float, float, str]:
    """How far a method's maps (H, W) in float32 are from those of another device, how far they may be, and the unit."""
    if method in BY_PIXELS:
        return _turn(maps, true), MOST_OF_DIRECTION, "1 - cos"
    return _furthest(maps, true), MOST_OF_MAP, "of the maximum"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _furthest(maps: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """The largest difference of maps (H, W), over the true map's maximum; 0 of maps that are the same."""

    def far(a: Tensor, b: Tensor) -> float:
        return 0.0 if torch.equal(a, b) else float((a - b).abs().max() / b.max().clamp(min=torch.finfo(b.dtype).tiny))

    return max(far(a, b) for a, b in zip(maps, true, strict=True))


def _turn(maps: Sequence[Tensor], true: Sequence[Tensor]) -> float:
    """1 - cos of the angle between maps (H, W), the largest; 0 of maps that are the same, blank ones too."""

    def angle(a: Tensor, b: Tensor) -> float:
        cosine = torch.cosine_similarity(a.double().flatten(), b.double().flatten(), 0)
        return 0.0 if torch.equal(a, b) else max(0.0, 1 - float(cosine))

    return max(angle(a, b) for a, b in zip(maps, true, strict=True))


def _annotated(sample: Sample, classifier: Classifier) -> Sample:
    """The sample with a box and a part where it has none, so that all metrics have what they need."""
    size = load(sample, classifier.view)[0].image.size
    middle = (size[0] / 2, size[1] / 2)
    box = Box(middle[0] / 2, middle[1] / 2, 3 * middle[0] / 2, 3 * middle[1] / 2)
    return replace(sample, parts=sample.parts or (("middle", *middle),), boxes=sample.boxes or (box,))
