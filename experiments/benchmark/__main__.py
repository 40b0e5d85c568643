"""Speed, memory and error, measured on this machine: ``python -m experiments.benchmark [PART] [key=value ...]``.

{parts}

Whatever is compared is timed in turn, in one run, so that a ratio holds when the machine's speed drifts. Keys:

    models=NAME,NAME   networks; those whose weights do not come with the installation have random ones, enough for time
    seconds=S          how long each throughput is measured
    quick=true         fewer points in every series, one start of a kind (start, python), no process (ratios): to see that
                       it works
    batch_size=32      images per pass (memory)
    images=50000       images of a folder that is made in a temporary directory (scale)
    together=8         processes that start at once (scale)
    certificate=FILE   a picture: error of sampled values against exact ones by number of forwards; empty: not measured
                       (suny)
    coverage=FILE      a picture: the share of tiles in a band by the band's probability; empty: not drawn (bands)
    out=FILE           the figures as CSV; empty: not written
    device=auto        auto, cpu, cuda
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
import torch
from pydantic import Field
from tabulate import tabulate
from tqdm import tqdm

from experiments.benchmark import error, gpu, memory, python, scale, speed, start, threads
from experiments.benchmark.bands import bands
from experiments.benchmark.certificate import certificate
from experiments.benchmark.common import network
from experiments.benchmark.ratios import Ratios
from experiments.command import configuration as config
from experiments.command.options import Names, OptionalPlace, Positive, parse
from experiments.command.program import EXIT_MISTAKE, EXIT_OK, guarded
from experiments.store.card import environment
from experiments.store.records import writing
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import pick_device
from suny.configured import configured

Whole = Annotated[int, Field(gt=0)]


@configured
class Options:
    """The keys of the command, as the parts take them; without ``models`` a part has networks of its own."""

    models: Names = ()
    seconds: Positive = 4.0
    quick: bool = False
    batch_size: Whole = 32
    images: Whole = 50_000
    together: Whole = 8
    certificate: OptionalPlace = Path("results/benchmark/sampling_error.png")
    coverage: OptionalPlace = Path("results/benchmark/bands.png")
    out: OptionalPlace = Path("results/benchmark/{what}.csv")
    device: Literal["auto", "cpu", "cuda"] = "auto"

    @property
    def torch_device(self) -> torch.device:
        return pick_device(self.device)


@dataclass(frozen=True)
class Part:
    """Something that the command measures.

    Args:
        name: the NAME of ``python -m experiments.benchmark NAME``.
        about: lines of the help.
        networks: those that are measured where no other ones are asked for.
        steps: how many steps of the progress bar each network takes.
        measure: returns the figures, which are rows of the table.
    """

    name: str
    about: str
    networks: str
    steps: Callable[[Options], int]
    measure: Callable[[Options, tqdm[Any]], list[Any]]


def _each(measure: Callable[[Classifier, Options, tqdm[Any]], list[Any]]) -> Callable[[Options, tqdm[Any]], list[Any]]:
    """Measures one network after the other."""
    return lambda options, progress: [f for name in options.models for f in measure(network(name), options, progress)]


def _rounds(options: Options) -> int:
    return 1 if options.quick else start.ROUNDS


_ONE, _THREE = "efficientnet_lite0", "efficientnet_lite0,resnet50,vgg16"

PARTS = {
    part.name: part
    for part in (
        Part(
            "ratios",
            "throughput beside the plain network's, curves beside one pass per point, Score-CAM and Ablation-CAM\n"
            "beside pytorch-grad-cam's, time to first result, growth, profile; some minutes per network (the default)",
            _ONE,
            lambda _: len(Ratios.SERIES),
            _each(lambda model, o, progress: Ratios(model, o.torch_device, o.seconds, o.quick).measure(progress)),
        ),
        Part(
            "suny",
            "cost of SUNY beside the network's own throughput and pytorch-grad-cam; error of sampled values",
            _THREE,
            lambda _: speed.STEPS,
            _each(lambda model, o, progress: speed.suny_speed(model, o.torch_device, o.seconds, progress)),
        ),
        Part(
            "metrics",
            "deletion and insertion beside the network's own throughput",
            _THREE,
            lambda _: 1,
            _each(lambda model, o, progress: speed.metric_speed(model, o.torch_device, o.seconds, progress)),
        ),
        Part(
            "memory",
            "the peak of every method, each in a process of its own",
            "resnet50",
            lambda _: len(memory.methods()),
            lambda o, progress: memory.peaks(o.models, o.batch_size, o.torch_device, progress),
        ),
        Part(
            "held",
            "growth of the process over 200 explained images, for methods that explain one in less than a second",
            _THREE,
            lambda _: memory.IMAGES[-1],
            _each(lambda model, o, progress: memory.held(model, o.torch_device, progress)),
        ),
        Part(
            "threads",
            "seconds outside the network with all threads over one thread, alone and beside busy loops, on the CPU;\n4 minutes",
            _ONE,
            lambda _: 2 * len(threads.works()),
            lambda o, progress: threads.ratios(o.models, o.seconds / 4, threads.works(), progress),
        ),
        Part(
            "start",
            "seconds to --help, to a mistake's line and to a run's first image, beside import torch, torchvision",
            _ONE,
            _rounds,
            _each(lambda model, o, progress: start.start(model, o.torch_device, _rounds(o), progress)),
        ),
        Part(
            "python",
            "seconds of suny.explain over those of the engine's own call, 32 images, and a first call by its parts",
            _ONE,
            lambda _: len(python.METHODS) + 1,
            _each(lambda model, o, progress: python.figures(model, o.torch_device, o.quick, progress)),
        ),
        Part(
            "scale",
            "time and bytes from a start to its first image, of a data set of many: first and second start, several\nat once",
            "-",
            lambda _: scale.STEPS,
            lambda o, progress: scale.figures(o.images, o.together, progress),
        ),
        Part(
            "bands",
            "how many tiles of a field have the value of ten times the budget in their 95% band; some minutes",
            _ONE,
            lambda _: 1,
            _each(lambda model, o, _: bands(model, o.torch_device, 1 if o.quick else 6, o.coverage)),
        ),
        Part(
            "error",
            "error of precision=bf16 and compile=true on every metric of metrics=all, and their throughput",
            _ONE,
            lambda _: len(error.METHODS) * (1 + len(error.SETTINGS)),
            _each(lambda model, o, progress: error.errors(model, o.torch_device, o.seconds, 2 if o.quick else None, progress)),
        ),
    )
}


def help_text() -> str:
    abouts = {part.name: part.about for part in PARTS.values()} | {"gpu": "all that needs a GPU; its own keys: gpu --help"}
    parts = [f"    {name:10} " + about.replace("\n", "\n" + " " * 15) for name, about in abouts.items()]
    return str(__doc__).format(parts="\n".join(parts))


def main(arguments: Sequence[str]) -> int:
    what, given = ("ratios", list(arguments)) if not arguments or "=" in arguments[0] else (arguments[0], arguments[1:])
    if what == "gpu":
        return gpu.main(given)
    if what not in PARTS:
        print(help_text())
        return EXIT_OK if what in ("-h", "--help") else EXIT_MISTAKE
    part = PARTS[what]
    options = parse(Options, [f"models={part.networks}", *given])
    config.register_torchvision([f"model={name}" for name in options.models])
    with tqdm(total=len(options.models) * part.steps(options), unit="step") as progress:
        table = pd.DataFrame(part.measure(options, progress))
    print(tabulate(table.itertuples(index=False), table.columns, tablefmt="github", floatfmt=".4g"))
    where = environment(options.torch_device)
    machine = f"{where['machine']['device']}, {where['machine']['threads']} threads, torch {where['versions']['torch']}"
    print(f"\nmeasured on {machine}")
    if options.out:
        out = _file(Path(str(options.out).format(what=what)))
        table.assign(machine=machine).to_csv(out, index=False)
        print(f"figures: {out}")
    if options.certificate and what == "suny":
        out = _file(options.certificate)
        print(f"\n{certificate(out, options.torch_device)}\n\ndrawn: {out}")
    return EXIT_OK


def _file(out: Path) -> Path:
    with writing(out.parent):
        out.parent.mkdir(parents=True, exist_ok=True)
        out.touch()
    return out


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
