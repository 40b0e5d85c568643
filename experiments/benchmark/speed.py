"""The cost of SUNY and of deletion and insertion beside the network's own throughput."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from tqdm import tqdm

from baselines.controls import Center
from experiments.benchmark.common import Figure, as_loaded, photograph
from experiments.benchmark.library import intervention_costs
from experiments.jobs.machine import in_turn, peak_memory
from metrics.base import Case
from metrics.deletion_insertion import Deletion, Insertion
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Cost, Engine
from suny.method.explainer import SunyExplainer


def speed(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """What one network costs: as loaded, prepared, explained by features and by filters, and by pytorch-grad-cam."""
    engine = Engine.of(classifier, device, batch_size="auto")
    loaded, layer = as_loaded(classifier, device)
    image, target = photograph(classifier, engine)
    name, batch = classifier.name, image.expand(engine.batch_size, -1, -1, -1).contiguous()
    figures: list[Figure] = []

    def note(what: str, value: float, unit: str) -> None:
        figures.append(Figure(name, what, value, unit))

    def step(what: str) -> None:
        progress.set_description(f"{name}: {what}")
        progress.update()

    def plain(count: int) -> Callable[[], Any]:
        images = image.expand(count, -1, -1, -1).contiguous()
        return torch.inference_mode()(lambda: loaded(images))

    step("throughput")
    single, as_is, own = in_turn([plain(1), plain(len(batch)), lambda: engine.logits(batch)], device, seconds)
    note("batch size, calibrated", len(batch), "images")
    note("network as loaded, one image a pass", 1 / single, "images/s")
    note("network as loaded, the same batch size", len(batch) / as_is, "images/s")
    note("network prepared", len(batch) / own, "images/s")
    note("gain of preparation over one image a pass", single * len(batch) / own, "times")
    note("gain of preparation at the same batch size", as_is / own, "times")

    feature, faithful, spent = "suny (feature, exact, k = 8)", SunyExplainer(), Cost()

    def explain() -> None:
        nonlocal spent
        already = engine.cost
        faithful.explain(engine, image, target, [0])
        spent = engine.cost - already

    step(feature)
    plenty = 24 * len(batch)  # images

    def bare() -> None:
        engine.score(plenty, lambda part: batch[: part.stop - part.start], 0)

    before, explained, after = in_turn([bare, explain, bare], device, seconds, warm=False)
    note(f"{feature}: forwards", spent.forwards, "images")
    note(f"{feature}: time an image", explained, "s")
    note(
        f"{feature}: of the prepared network's throughput",
        100 * (before + after) / (2 * plenty) / (explained / spent.forwards),
        "%",
    )

    filters: dict[str, Any] = {"cause": "filter", "prescreen": None}
    runs: dict[str, dict[str, Any]] = {
        "feature, sampled, k = 16": {"k": 16, "estimator": "sampled", "orders": 16},
        "suny_filter (exact, k = 8)": filters,
        "filter, sampled, all channels": filters | {"candidates": "all", "estimator": "sampled", "orders": 4},
    }
    each: dict[str, float] = {}
    for what, settings in runs.items():
        step(what)
        cost, start = engine.cost, time.perf_counter()
        SunyExplainer(**settings).explain(engine, image, target, [0])
        taken = time.perf_counter() - start
        cost = engine.cost - cost
        each[what] = taken / (cost.tail_forwards or cost.forwards)
        note(f"{what}: forwards", cost.forwards, "images")
        if cost.tail_forwards:
            note(f"{what}: passes of the tail", cost.tail_forwards, "activations")
        note(f"{what}: time an image", taken, "s")
    step("pytorch-grad-cam")
    ablation, scorecam = intervention_costs(loaded, layer, image, target, len(batch))
    note("Ablation-CAM of pytorch-grad-cam, an intervention", 1000 * ablation, "ms")
    note("  filter causes are cheaper by", ablation / each["suny_filter (exact, k = 8)"], "times")
    note("  and than a pass of the prepared network by", own / len(batch) / each["suny_filter (exact, k = 8)"], "times")
    note("Score-CAM of pytorch-grad-cam, a masked image", 1000 * scorecam, "ms")
    note("  feature causes are cheaper by", scorecam * spent.forwards / explained, "times")
    note("peak memory of the process so far", peak_memory(device) / 2**30, "GiB")
    return figures


def metric_speed(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """Deletion and insertion with 225 points, as a share of the network's own throughput."""
    progress.set_description(classifier.name)
    engine = Engine.of(classifier, device)
    image, target = photograph(classifier, engine)
    saliency = Center().explain(engine, image, target, [0]).saliency[0]
    batch, plenty = image.expand(engine.batch_size, -1, -1, -1).contiguous(), 24 * engine.batch_size
    spent = Cost()

    def bare() -> None:
        engine.score(plenty, lambda part: batch[: part.stop - part.start], 0)

    def score() -> None:
        nonlocal spent
        already = engine.cost
        case = Case(engine, image[0], int(target), saliency)
        Deletion(points=225).measure(case)
        Insertion(points=225).measure(case)
        spent = engine.cost - already

    before, scored, after = in_turn([bare, score, bare], device, seconds)
    progress.update()
    share = 100 * (before + after) / (2 * plenty) / (scored / spent.forwards)
    return [
        Figure(classifier.name, "deletion and insertion, 225 points: forwards", spent.forwards, "images"),
        Figure(classifier.name, "deletion and insertion, 225 points: time", scored, "s"),
        Figure(classifier.name, "of the network's own throughput", share, "%"),
    ]
