"""Memory: the peak of every method, each in a process of its own, and the memory that is held after many images."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm

from experiments.benchmark.common import Figure, explainer, network, photograph
from experiments.command.configuration import CONF, register_torchvision
from experiments.jobs.machine import held_memory, peak_memory
from suny.classifiers.classifier import Classifier
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Engine
from suny.errors import UserError

# Held memory is read after so many images.
IMAGES = (50, 200)


def methods() -> list[str]:
    return sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def peak(model: str, method: str, batch_size: int, device: torch.device) -> float:
    """Bytes that this process takes at most to load a network and explain one image; on CUDA, its tensors.

    Every kind of batch is run once at its full length, and not repeated: repeating it takes no more memory.
    """
    classifier = network(model)
    engine = Rehearsal.of(classifier, device, batch_size=batch_size)
    engine.limit = 0.0
    image, target = photograph(classifier, engine)
    engine.begin()
    explainer(f"method={method}").explain(engine, image, target, [0])
    return peak_memory(device)


def peaks(models: Sequence[str], batch_size: int, device: torch.device, progress: tqdm[Any]) -> list[Figure]:
    """The peak of each method in a fresh process."""
    figures = []
    for model in models:
        for method in methods():
            progress.set_description(f"{model}: {method}")
            command = [sys.executable, "-m", "experiments.benchmark.memory", model, method, str(batch_size), device.type]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            if ended.returncode:
                raise UserError(f"method={method} ended with exit code {ended.returncode}: {ended.stderr.strip()[-300:]}")
            value = float(ended.stdout.split()[-1]) / 2**30
            figures.append(Figure(model, f"{method}: peak memory, batches of {batch_size}", value, "GiB"))
            progress.update()
    return figures


def held(classifier: Classifier, device: torch.device, progress: tqdm[Any]) -> list[Figure]:
    """The memory that is held after 50 and after 200 images, each explained by several methods."""
    engine = Engine.of(classifier, device)
    names = ("gradcam", "gradcampp", "groupcam", "ablationcam", "cexcnn", "eigencam", "suny_filter")
    explainers = [explainer(f"method={name}") for name in names]
    figures = []
    for at in range(1, IMAGES[-1] + 1):
        image, target = photograph(classifier, engine, at % 6)
        for each in explainers:
            each.explain(engine, image, target, [at])
        progress.set_description(classifier.name)
        progress.update()
        if at in IMAGES:
            what = f"{', '.join(names)}: held after {at} images"
            figures.append(Figure(classifier.name, what, held_memory(device) / 2**20, "MiB"))
    return figures


def main(model: str, method: str, batch_size: str, device: str) -> None:
    """A process of :func:`peaks`: prints the peak of one method."""
    register_torchvision([f"model={model}"])
    print(peak(model, method, int(batch_size), torch.device(device)))


if __name__ == "__main__":
    main(*sys.argv[1:])
