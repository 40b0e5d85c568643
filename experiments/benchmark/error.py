"""The price of faster settings: the error of bfloat16 and of compiled networks on every metric, and the speed they gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from experiments.benchmark.common import Figure, photograph
from experiments.cell.cell import Cell
from experiments.cell.prefetch import load
from experiments.command import configuration as config
from experiments.command.program import composed
from experiments.jobs.machine import in_turn
from experiments.store.reading import entry_of
from experiments.store.records import Record
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.errors import UserError

METHODS = ("gradcam", "suny_filter", "groupcam")
SETTINGS: Mapping[str, Mapping[str, Any]] = {"bf16": {"precision": "bf16"}, "compile": {"compile": True}}


def errors(
    classifier: Classifier,
    device: torch.device,
    seconds: float,
    limit: int | None,
    progress: tqdm[Any],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[Figure]:
    """Differences from float32 on the demo's photographs, for each metric, and throughputs timed in turn.

    Args:
        classifier: the network.
        device: the device that computes.
        seconds: how long each throughput is measured.
        limit: how many photographs are used; None: all.
        progress: takes one step per setting and method.
        settings: keys of the engine by the setting's name; None: all of :data:`SETTINGS`.
    """
    engines = {"float32": Engine.of(classifier, device)}
    figures = []
    for name, keys in (SETTINGS if settings is None else settings).items():
        try:
            engines[name] = Engine.of(classifier, device, **keys)
        except UserError as error:
            progress.write(f"{classifier.name}, {name}: {error}")
    image, _ = photograph(classifier, engines["float32"])
    batch = image.expand(engines["float32"].batch_size, -1, -1, -1).contiguous()
    works = [partial(engine.logits, batch) for engine in engines.values()]
    for name, taken in zip(engines, in_turn(works, device, seconds), strict=True):
        figures.append(Figure(classifier.name, f"{name}: throughput", len(batch) / taken, "images/s"))
    for method in METHODS:
        overrides = [f"method={method}", "metrics=all", f"dataset.limit={limit or 'null'}"]
        run = config.read(composed(overrides))
        listed = run.dataset.load()
        images = replace(listed, samples=tuple(replace(s, label=None) for s in listed.samples))  # for any network
        cell = Cell(run, device, images, classifier)
        records: dict[str, list[Record]] = {}
        for name, engine in engines.items():
            progress.set_description(f"{classifier.name}: {method}, {name}")
            records[name] = [
                cell.record(engine, sample, partial(load, sample, classifier.view), lambda _: None) for sample in cell.samples
            ]
            progress.update()
        for metric in cell.metrics.values():
            exact = entry_of(metric, metric.name, records["float32"])["mean"]
            if exact is None:
                continue
            figures.append(Figure(classifier.name, f"{method}, {metric.name}: float32", exact, metric.unit))
            for name in engines:
                if name == "float32":
                    continue
                other = entry_of(metric, metric.name, records[name])["mean"]
                figures.append(Figure(classifier.name, f"  {name}: error of the mean", abs(other - exact), metric.unit))
                worst = _largest(records["float32"], records[name], metric.name)
                if worst is not None:
                    figures.append(Figure(classifier.name, f"  {name}: largest error of an image", worst, metric.unit))
    return figures


def _largest(ones: Sequence[Record], others: Sequence[Record], name: str) -> float | None:
    """The largest difference of an image; None for a metric that is no number per image."""
    pairs = [(a[name], b[name]) for a, b in zip(ones, others, strict=True) if a[name] is not None and b[name] is not None]
    if not pairs or not all(isinstance(v, int | float) for pair in pairs for v in pair):
        return None
    return max(abs(a - b) for a, b in pairs)
