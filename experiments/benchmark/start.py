"""How long a command takes to say one line, and to reach its first image, beside the imports that it needs."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.benchmark.common import WITH_WEIGHTS, Figure
from experiments.command.configuration import CONF
from experiments.command.program import EXIT_MISTAKE, EXIT_OK
from suny.classifiers.classifier import Classifier
from suny.errors import UserError

# Each command is started so often, all in turn.
ROUNDS = 5

_ROOT = CONF.parent

# run.py answers these by itself: the arguments, and the exit code.
ANSWERS = {
    "--help": (["--help"], EXIT_OK),
    "a wrong key": (["methd=suny"], EXIT_MISTAKE),
    "a missing folder": (["dataset=cub", "dataset.root=/there/is/no/such/folder"], EXIT_MISTAKE),
}

# This program prints the seconds of preparing the network, without its modules' imports.
_PREPARING = """
import sys, time
import suny, torch, torchvision
from experiments.command import configuration as config
from experiments.command.program import composed
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
        device: the device that computes.
        rounds: how often each is started.
        progress: advances once per round.
    """
    model = [f"model={classifier.name}", *([] if classifier.name in WITH_WEIGHTS else ["model.weights=random"])]
    # There are few passes, so that the way to the first image is timed.
    run = [*model, "method=suny", "method.k=1", "method.prescreen=1", "metrics=energy_proportion", f"device={device.type}"]
    torch_alone, both = "import torch", "import torch, torchvision"
    preparing, first = "the network's preparation", "first image"
    works: dict[str, Callable[[], float]] = {
        torch_alone: lambda: _process(["-c", "import torch"])[0],
        both: lambda: _process(["-c", "import suny, torch, torchvision"])[0],
        preparing: lambda: float(_process(["-c", _PREPARING, device.type, *model])[1]),
        **{what: partial(_answer, arguments, code) for what, (arguments, code) in ANSWERS.items()},
        first: lambda: first_record(run),
    }
    spent: dict[str, list[float]] = {what: [] for what in works}
    for _ in range(rounds):
        for what, work in works.items():
            spent[what].append(work())
        progress.update()

    def against(what: str, *others: str) -> float:
        return statistics.median(x / sum(y) for x, *y in zip(spent[what], *(spent[o] for o in others), strict=True))

    figures = []
    for what, seconds in spent.items():
        figures.append(Figure(classifier.name, what, statistics.median(seconds), "s"))
        if what in ANSWERS:
            figures.append(Figure(classifier.name, f"  of {torch_alone}", against(what, torch_alone), "times"))
    figures.append(Figure(classifier.name, f"  of {both} and {preparing}", against(first, both, preparing), "times"))
    return figures


def first_record(arguments: Sequence[str]) -> float:
    """Seconds of a run in a process of its own, from its start to its first record.

    Args:
        arguments: those of run.py without ``results_dir``; the data set is the demo's first photograph.

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
            _, complaint = process.communicate()
        if process.returncode:
            raise UserError(f"the first result did not come: {complaint.strip()[-300:]}")
    return taken


def _answer(arguments: Sequence[str], code: int) -> float:
    """Seconds of run.py, which is to end with an exit code."""
    return _process(["run.py", *arguments], code)[0]


def _process(arguments: Sequence[str], code: int = EXIT_OK) -> tuple[float, str]:
    """Seconds of a Python process, which is to end with an exit code, and the text that it prints.

    Raises:
        UserError: it ends with another exit code.
    """
    environment = {**os.environ, "PYTHONPATH": str(_ROOT)}
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *arguments], cwd=_ROOT, env=environment, capture_output=True, text=True)
    taken = time.perf_counter() - begun
    if done.returncode != code:
        raise UserError(f"{' '.join(arguments)[:60]} ended with exit code {done.returncode}: {done.stderr.strip()[-300:]}")
    return taken, done.stdout
