"""Speed, memory and error, measured on this machine: ``python -m experiments.benchmark [WHAT] [key=value ...]``.

    (nothing)  the ratios: throughput beside the plain network's, curves beside one pass a point, Score-CAM and Ablation-CAM
               beside pytorch-grad-cam's, time to first result, growth, profile; some minutes a network
    suny       cost of SUNY beside the network's own throughput and pytorch-grad-cam; error of sampled values
    metrics    deletion and insertion beside the network's own throughput
    memory     the peak of every method, each in a process of its own
    held       growth of the process over 200 explained images, for methods that explain one in less than a second
    threads    seconds outside the network with all threads over one thread, alone and beside busy loops, on the CPU; 4 minutes
    start      seconds to --help, to a mistake's line and to a run's first image, beside import torch, torchvision
    scale      time and bytes from a start to its first image, of a data set of many: first and second start, several at once
    error      error of precision=bf16 and compile=true on every metric of metrics=all, and their throughput

Whatever is compared is timed in turn, in one run, so that a ratio holds when the machine's speed drifts. Keys:

    models=NAME,NAME   networks; those whose weights do not come with the installation have random ones, enough for time
    seconds=S          how long each throughput is measured
    quick=true         fewer points in every series, one start of a kind (start), no process (ratios): to see that it works
    batch_size=32      images a pass (memory)
    images=50000       of a folder that is made in a temporary directory (scale)
    together=8         processes that start at once (scale)
    certificate=FILE   error of sampled values against exact ones per number of forwards, drawn; empty: not measured
                       (suny)
    out=FILE           the figures as CSV; empty: not written
    device=auto        auto, cpu, cuda
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate
from tqdm import tqdm

from experiments.benchmark import error, memory, scale, speed, start, threads
from experiments.benchmark.certificate import certificate
from experiments.benchmark.common import network
from experiments.benchmark.ratios import Ratios
from experiments.command import configuration as config
from experiments.command.program import EXIT_MISTAKE, EXIT_OK, guarded, pairs
from experiments.store.card import environment
from experiments.store.records import writing
from suny.classifiers.engine import pick_device
from suny.errors import UserError

_KEYS = {
    "models": "",
    "seconds": "4",
    "quick": "false",
    "batch_size": "32",
    "images": "50000",
    "together": "8",
    "certificate": "results/benchmark/sampling_error.png",
    "out": "results/benchmark/{what}.csv",
    "device": "auto",
    "method": "",  # of peak, which memory starts for each method
}

_THREE = "efficientnet_lite0,resnet50,vgg16"
_MODELS = {"ratios": "efficientnet_lite0", "suny": _THREE, "metrics": _THREE, "memory": "resnet50", "held": _THREE,
           "start": "efficientnet_lite0", "error": "efficientnet_lite0", "threads": "efficientnet_lite0",
           "peak": "resnet50", "scale": "-"}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    what, given = ("ratios", list(arguments)) if not arguments or "=" in arguments[0] else (arguments[0], arguments[1:])
    if what not in _MODELS:
        print(__doc__)
        return EXIT_OK if what in ("-h", "--help") else EXIT_MISTAKE
    keys = pairs(given, _KEYS)
    seconds, batch_size, quick = _number(keys, "seconds"), int(_number(keys, "batch_size")), keys["quick"] == "true"
    device = pick_device(keys["device"])
    names = (keys["models"] or _MODELS[what]).split(",")
    config.register_torchvision([f"model={name}" for name in names])
    if what == "peak":
        print(memory.peak(names[0], keys["method"], batch_size, device))
        return EXIT_OK
    steps = {
        "ratios": len(Ratios.PARTS), "suny": 6, "metrics": 1, "memory": len(memory.methods()), "held": memory.IMAGES[-1],
        "error": len(error.METHODS) * (1 + len(error.SETTINGS)), "threads": 2 * len(threads.parts()), "scale": scale.STEPS,
        "start": 1 if quick else start.ROUNDS,
    }  # fmt: skip
    figures: list[Any] = []
    with tqdm(total=len(names) * steps[what], unit="step") as progress:
        if what == "memory":
            figures = memory.peaks(names, batch_size, device, progress)
        if what == "threads":
            figures = threads.ratios(names, seconds / 4, threads.parts(), progress)
        if what == "scale":
            figures = scale.figures(int(_number(keys, "images")), int(_number(keys, "together")), progress)
        for name in names if what not in ("memory", "threads", "scale") else ():
            classifier = network(name)
            if what == "ratios":
                figures += Ratios(classifier, device, seconds, quick).measure(progress)
            elif what == "suny":
                figures += speed.speed(classifier, device, seconds, progress)
            elif what == "metrics":
                figures += speed.metric_speed(classifier, device, seconds, progress)
            elif what == "start":
                figures += start.start(classifier, device, 1 if quick else start.ROUNDS, progress)
            elif what == "held":
                figures += memory.held(classifier, device, progress)
            else:
                figures += error.errors(classifier, device, seconds, 2 if quick else None, progress)
    table = pd.DataFrame(figures)
    print(tabulate(table.itertuples(index=False), table.columns, tablefmt="github", floatfmt=".4g"))
    where = environment(device)
    machine = f"{where['machine']['device']}, {where['machine']['threads']} threads, torch {where['versions']['torch']}"
    print(f"\nmeasured on {machine}")
    if keys["out"]:
        out = _file(keys["out"].format(what=what))
        table.assign(machine=machine).to_csv(out, index=False)
        print(f"figures: {out}")
    if keys["certificate"] and what == "suny":
        out = _file(keys["certificate"])
        print(f"\n{certificate(out, device)}\n\ndrawn: {out}")
    return EXIT_OK


def _number(keys: dict[str, str], key: str) -> float:
    try:
        value = float(keys[key])
        if not 0 < value < float("inf"):
            raise ValueError
    except ValueError:
        raise UserError(f"{key}={keys[key]}: give a number above 0.") from None
    return value


def _file(path: str) -> Path:
    out = Path(path).expanduser()
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    return out


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
