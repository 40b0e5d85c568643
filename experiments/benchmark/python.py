"""What ``suny.explain`` costs beside the engine's own call of the same method, and what its first call does before that."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import suny
from experiments.benchmark.common import WITH_WEIGHTS, Figure, explainer, photograph
from experiments.command.configuration import CONF
from experiments.jobs.machine import timed
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.errors import UserError
from suny.seeds import image_seed

IMAGES = 32
# Both calls are timed in turn so often.
ROUNDS = 3
# Few passes, so that what the interface adds is not lost among them.
METHODS: dict[str, dict[str, Any]] = {
    "suny": {"k": 1, "prescreen": 2},
    "gradcam": {},
    "rise": {"masks": 8},
}
# Fresh processes that make a first call.
STARTS = 3

# The parts of a first call, in their order.
PARTS = (
    "import torch",
    "import suny and the method",
    "copy and trial passes",
    "find the layer",
    "cut, trace and fold",
    "explain",
)

# This program times the parts of a first call on one image, and prints their seconds; the network is made in between.
_FIRST = """
import json, sys, time
spent, began = {}, time.perf_counter()
def lap(what):
    global began
    now = time.perf_counter()
    spent[what], began = spent.get(what, 0.0) + now - began, now
def inside(owner, name, what):
    plain = getattr(owner, name)
    def timed(*args, **more):
        lap("explain")
        try:
            return plain(*args, **more)
        finally:
            lap(what)
    setattr(owner, name, timed)
import torch
lap("import torch")
import suny
explain = suny.explain
# The libraries of methods are imported when one first explains: a tiny network has them imported here.
tiny = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(72, 2))
explain(tiny, torch.rand(1, 3, 8, 8), 0, sys.argv[1], "1")
lap("import suny and the method")
from experiments.command import configuration as config
from experiments.command.program import composed
classifier = config.read(composed(sys.argv[3:])).model.build()
side = classifier.view.crop
image = torch.rand(1, 3, side, side).to(sys.argv[2])
from suny import api, entry
inside(entry.Network, "__init__", "copy and trial passes")
inside(entry.Network, "layer", "find the layer")
inside(api.Engine, "__init__", "cut, trace and fold")
began = time.perf_counter()
explain(classifier.network, image, 0, sys.argv[1], classifier.target_layer)
lap("explain")
explain(classifier.network, image, 0, sys.argv[1], classifier.target_layer)
lap("second call")
print(json.dumps(spent))
"""


def figures(classifier: Classifier, device: torch.device, quick: bool, progress: tqdm[Any]) -> list[Figure]:
    """Ratios, and the seconds of a first call by its parts: medians.

    Args:
        classifier: the network.
        device: the device that computes.
        quick: whether one round, one start and two images do: to see that it works.
        progress: advances once per method, and once for the first calls.
    """
    found = []
    engine = Engine.of(classifier, device)
    pairs = [photograph(classifier, engine, at % 6) for at in range(2 if quick else IMAGES)]
    images, targets = torch.cat([image for image, _ in pairs]), torch.cat([target for _, target in pairs])
    for name, settings in METHODS.items():
        found += ratios(classifier, engine, name, settings, images, targets, 1 if quick else ROUNDS)
        progress.update()
    return found + first_call(classifier, device, 1 if quick else STARTS, progress)


def ratios(
    classifier: Classifier, engine: Engine, name: str, settings: dict[str, Any], images: Tensor, targets: Tensor, rounds: int
) -> list[Figure]:
    """Time of ``suny.explain`` over that of the method's own call with the same images, classes and seeds."""
    method = explainer(f"method={name}", *(f"method.{key}={value}" for key, value in settings.items()))
    seeds = [image_seed(0, str(at)) for at in range(len(images))]  # those of explain
    kept: dict[str, Tensor] = {}

    def own(count: int = len(images)) -> None:
        with torch.no_grad():
            kept["own"] = method.explain(engine, images[:count], targets[:count], seeds[:count]).saliency

    def interface(count: int = len(images)) -> None:
        kept["interface"] = suny.explain(
            classifier.network, images[:count], targets[:count], name, classifier.target_layer, progress=False, **settings
        ).saliency

    for work in (own, interface):
        work(1)  # so that both networks are prepared
    wall, processor = [], []
    for at in range(rounds):
        # the order changes, so that neither call always comes after the other
        order = (own, interface) if at % 2 else (interface, own)
        spent = {work: _seconds(work, engine.device) for work in order}
        wall.append(spent[interface][0] / spent[own][0])
        processor.append(spent[interface][1] / spent[own][1])
        seconds = spent[own][0]
    said = ", ".join([name, *(f"{key}={value}" for key, value in settings.items())])
    about = f"{said}, {len(images)} images"
    return [
        Figure(classifier.name, f"{about}: the engine's own call, last of {rounds}", seconds, "s"),
        Figure(classifier.name, "  explain over it", statistics.median(wall), "times"),
        Figure(classifier.name, "  the same, of the processor's seconds", statistics.median(processor), "times"),
        Figure(classifier.name, "  largest difference of the maps", float((kept["own"] - kept["interface"]).abs().max()), "-"),
    ]


def _seconds(work: Callable[[], Any], device: torch.device) -> tuple[float, float]:
    """Seconds of a call, and those of the processor in it."""
    before = time.process_time()
    return timed(work, device), time.process_time() - before


def first_call(classifier: Classifier, device: torch.device, starts: int, progress: tqdm[Any]) -> list[Figure]:
    """Seconds of the parts of a first ``suny.explain(method="gradcam")`` of one image, in processes of their own."""
    model = [f"model={classifier.name}", *([] if classifier.name in WITH_WEIGHTS else ["model.weights=random"])]
    spent = [_first([sys.executable, "-c", _FIRST, "gradcam", device.type, *model]) for _ in range(starts)]
    progress.update()
    medians = {part: statistics.median(one[part] for one in spent) for part in (*PARTS, "second call")}
    preparing = statistics.median(sum(one[part] for part in PARTS[2:5]) for one in spent)
    return [
        *(Figure(classifier.name, f"first call: {part}", medians[part], "s") for part in PARTS),
        Figure(classifier.name, "preparing the network, all three", preparing, "s"),
        Figure(classifier.name, "second call", medians["second call"], "s"),
    ]


def _first(command: list[str]) -> dict[str, float]:
    """The seconds that the program of a first call prints.

    Raises:
        UserError: it fails.
    """
    root = CONF.parent
    environment = {**os.environ, "PYTHONPATH": str(root)}
    ended = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise UserError(f"the first call failed: {ended.stderr.strip()[-300:]}")
    return json.loads(ended.stdout.splitlines()[-1])
