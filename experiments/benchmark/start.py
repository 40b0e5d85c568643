"""How long a command takes to say one line, and to reach its first image, beside the imports that this can't do without."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.benchmark.common import WITH_WEIGHTS, Figure
from experiments.config import CONF
from suny.classifiers.classifier import Classifier
from suny.errors import UserError

# how often each is started, all in turn
ROUNDS = 7

_ROOT = CONF.parent
_NOWHERE = "dataset.root=/there/is/no/such/folder"

# what is said, and the arguments that have run.py say it
SAID = {"--help": ["--help"], "a wrong key": ["methd=suny"], "a missing folder": ["dataset=cub", _NOWHERE]}

# Seconds of preparing the network, without its modules' imports.
_PREPARING = """
import sys, time
import suny, torch, torchvision
from experiments import config
from experiments.cli import composed
from suny.classifiers.engine import Engine, pick_device
model = config.read(composed(sys.argv[2:])).model
start = time.perf_counter()
Engine.of(model.build(), pick_device(sys.argv[1]))
print(time.perf_counter() - start)
"""


def start(classifier: Classifier, device: torch.device, rounds: int, progress: tqdm[Any]) -> list[Figure]:
    """Medians over rounds, of seconds and of the ratios in a round.

    Args:
        classifier: the network of the run.
        device: where it computes.
        rounds: how often each is started.
        progress: advances by as many.
    """
    name = classifier.name
    model = [f"model={name}", *([] if name in WITH_WEIGHTS else ["model.weights=random"])]
    # few passes, so that it is the way to the first image which is timed
    run = [*model, "method=suny", "method.k=2", "method.prescreen=2", "metrics=energy_proportion", f"device={device.type}"]
    spent: dict[str, list[float]] = {}
    for _ in range(rounds):
        works: dict[str, Callable[[], float]] = {
            "import torch": lambda: _process(["-c", "import torch"])[0],
            "import torch, torchvision": lambda: _process(["-c", "import suny, torch, torchvision"])[0],
            "preparation of the network": lambda: float(_process(["-c", _PREPARING, device.type, *model])[1]),
            **{what: lambda arguments=a: _process(["run.py", *arguments])[0] for what, a in SAID.items()},  # type: ignore[misc]
            "first image of a run": lambda: first_record(run),
        }
        for what, work in works.items():
            spent.setdefault(what, []).append(work())
        progress.update()
    spent["both"] = [
        a + b for a, b in zip(spent["import torch, torchvision"], spent["preparation of the network"], strict=True)
    ]

    def ratio(one: str, other: str) -> float:
        return statistics.median(a / b for a, b in zip(spent[one], spent[other], strict=True))

    figures = []
    for what in works:
        figures.append(Figure(name, what, statistics.median(spent[what]), "s"))
        if what in SAID:
            figures.append(Figure(name, "  of import torch", ratio(what, "import torch"), "times"))
    figures.append(Figure(name, "  of import torch, torchvision and the preparation", ratio(what, "both"), "times"))
    return figures


def first_record(arguments: Sequence[str]) -> float:
    """Seconds of a run in a process of its own, from its start to its first record.

    Args:
        arguments: of run.py, without ``results_dir``; the data set is the demo's first photograph.

    Raises:
        UserError: no record came.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(_ROOT / "run.py"), *arguments, "dataset.limit=1", f"results_dir={folder}"]
        begun = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            while process.poll() is None and not any(p.stat().st_size for p in Path(folder).rglob("records.jsonl")):
                time.sleep(0.02)
            taken = time.perf_counter() - begun
            _, said = process.communicate()
        if process.returncode:
            raise UserError(f"the first result did not come: {said.strip()[-300:]}")
    return taken


def _process(arguments: Sequence[str]) -> tuple[float, str]:
    """Seconds of a Python process, and what it prints."""
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments], cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}, capture_output=True, text=True
    )
    return time.perf_counter() - begun, done.stdout
