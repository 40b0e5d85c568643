"""The cost of SUNY and of deletion and insertion beside the network's own throughput."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from experiments.benchmark.bench import CURVES, Bench
from experiments.benchmark.common import Figure
from experiments.benchmark.library import intervention_costs
from experiments.jobs.machine import peak_memory, timed
from suny.classifiers.classifier import Classifier
from suny.method.explainer import SunyExplainer

_FEATURE, _FILTER = "suny (feature, exact, k = 8)", "suny_filter (exact, k = 8)"
_FILTER_SETTINGS: dict[str, Any] = {"cause": "filter", "prescreen": None}

# These are too long to be repeated, so that each is timed once.
_ONCE: dict[str, dict[str, Any]] = {
    "feature, sampled, k = 16": {"k": 16, "estimator": "sampled", "orders": 16},
    _FILTER: _FILTER_SETTINGS,
    "filter, sampled, all channels": _FILTER_SETTINGS | {"candidates": "all", "estimator": "sampled", "orders": 4},
}

STEPS = 3 + len(_ONCE)


def suny_speed(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """The cost of one network: as loaded, prepared, explained by features and by filters, and by pytorch-grad-cam."""
    bench = Bench(classifier, device, seconds, batch_size="auto")
    engine, size = bench.engine, len(bench.batch)
    figures: list[Figure] = []

    def note(what: str, value: float, unit: str) -> None:
        figures.append(Figure(classifier.name, what, value, unit))

    def step(what: str) -> None:
        progress.set_description(f"{classifier.name}: {what}")
        progress.update()

    step("throughput")
    taken = bench.throughput()
    note("batch size, calibrated", size, "images")
    note("network as loaded, one image per pass", 1 / taken.single, "images/s")
    note("network as loaded, the same batch size", 1 / taken.loaded, "images/s")
    note("network prepared", 1 / taken.prepared, "images/s")
    note("gain of preparation over one image per pass", taken.single / taken.prepared, "times")
    note("gain of preparation at the same batch size", taken.loaded / taken.prepared, "times")

    step(_FEATURE)
    feature = bench.share(partial(bench.explain, SunyExplainer()))
    note(f"{_FEATURE}: forwards", feature.forwards, "images")
    note(f"{_FEATURE}: time per image", feature.seconds, "s")
    note(f"{_FEATURE}: of the prepared network's throughput", feature.percent, "%")

    per_pass: dict[str, float] = {}
    for what, settings in _ONCE.items():
        step(what)
        before, method = engine.cost, SunyExplainer(**settings)
        spent = timed(partial(bench.explain, method), device)
        cost = engine.cost - before
        per_pass[what] = spent / (cost.tail_forwards or cost.forwards)
        note(f"{what}: forwards", cost.forwards, "images")
        if cost.tail_forwards:
            note(f"{what}: passes of the tail", cost.tail_forwards, "activations")
        note(f"{what}: time per image", spent, "s")

    step("pytorch-grad-cam")
    ablation, scorecam = intervention_costs(bench.loaded, bench.layer, bench.image, bench.target, size)
    note("Ablation-CAM of pytorch-grad-cam, one intervention", 1000 * ablation, "ms")
    note("  filter causes are cheaper by", ablation / per_pass[_FILTER], "times")
    note("  and than a pass of the prepared network by", taken.prepared / per_pass[_FILTER], "times")
    note("Score-CAM of pytorch-grad-cam, one masked image", 1000 * scorecam, "ms")
    note("  feature causes are cheaper by", scorecam * feature.forwards / feature.seconds, "times")
    note("peak memory of the process so far", peak_memory(device) / 2**30, "GiB")
    return figures


def metric_speed(classifier: Classifier, device: torch.device, seconds: float, progress: tqdm[Any]) -> list[Figure]:
    """Deletion and insertion with 225 points, as a share of the network's own throughput."""
    progress.set_description(classifier.name)
    bench = Bench(classifier, device, seconds)
    share = bench.share(bench.curves)
    progress.update()
    return [
        Figure(classifier.name, f"{CURVES}: forwards", share.forwards, "images"),
        Figure(classifier.name, f"{CURVES}: time", share.seconds, "s"),
        Figure(classifier.name, f"{CURVES}: of the prepared network's throughput", share.percent, "%"),
    ]
