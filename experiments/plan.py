"""The published tables on all images, on paper: ``python -m experiments.plan [key=value ...]``.

Passes are counted by a rehearsal of every cell of conf/experiment/table1 to table3, with random weights (they do not change
how many there are, but for Score-CAM, where a trained network has constant channels that are skipped: the count is an upper
bound). With F forwards, B backwards and T passes of the tail an image, a card that passes r images a second takes, an image,

    (F + 2 B + T / 20) / r

which is an upper bound too: most backwards are of the tail alone, and its passes are 23 to 410 times cheaper than a forward.
r is measured by ``python -m experiments.benchmark``; where it is not given it is what a card of so many TFLOPS would pass if
it were used to ``efficiency``.

    images=50000           of the data set
    tables=table1,table3   files in conf/experiment (table1 fills table2 too)
    throughput=            measured images a second: resnet50:2500,vgg16:900
    tflops=19.5            of float32 without TensorFloat-32 (NVIDIA's figure for an A100)
    efficiency=0.5         assumed, where no throughput is given
    decode=10              milliseconds of one core for a photograph, and its size in kB (110: ILSVRC2012's mean)
    file=110
    hours=1                of one shard
    device=cpu             where passes are counted
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from experiments.cell.cell import Cell
from experiments.command import configuration as config
from experiments.command.configuration import CONF
from experiments.command.program import EXIT_OK, composed, guarded, pairs
from experiments.jobs.dry_run import try_image
from experiments.tables.text import table
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Cost, pick_device
from suny.errors import UserError

_KEYS = {
    "images": "50000", "tables": "table1,table3", "throughput": "", "tflops": "19.5", "efficiency": "0.5", "decode": "10",
    "file": "110", "hours": "1", "device": "cpu",
}  # fmt: skip

# forwards that a backward and a pass of the tail count as, at most
_BACKWARD, _TAIL = 2.0, 1 / 20


@dataclass(frozen=True)
class Line:
    """One cell of a table, for one image: passes, and bytes of its record and of its maps."""

    table: str
    model: str
    method: str
    cost: Cost
    record: int
    maps: int

    @property
    def forwards(self) -> float:
        """What it costs at most, in forwards."""
        return self.cost.forwards + _BACKWARD * self.cost.backwards + _TAIL * self.cost.tail_forwards


def main(arguments: Sequence[str]) -> int:
    if any(a in ("-h", "--help") for a in arguments):
        print(__doc__)
        return EXIT_OK
    keys = pairs(arguments, _KEYS)
    numbers = {k: _positive(keys, k) for k in ("images", "tflops", "efficiency", "decode", "file", "hours")}
    measured = _throughputs(keys["throughput"])
    lines, flops = count(keys["tables"].split(","), pick_device(keys["device"]))
    rates = {
        model: measured.get(model, numbers["efficiency"] * numbers["tflops"] * 1e12 / each) for model, each in flops.items()
    }
    print(_networks(flops, rates, measured))
    print(f"\n{_tables(lines, rates, int(numbers['images']), numbers['hours'])}")
    print(f"\n{_files(lines, rates, numbers['decode'] / 1000, numbers['file'] * 1000)}")
    return EXIT_OK


def count(tables: Sequence[str], device: torch.device) -> tuple[list[Line], dict[str, float]]:
    """Cells of the tables, and of each network the floating-point operations of a forward (two for a multiplication and
    addition).

    Raises:
        UserError: a table that conf/experiment does not have.
    """
    cells: dict[str, list[tuple[str, str]]] = {}  # by network: each is prepared once
    for name in tables:
        path = CONF / "experiment" / f"{name}.yaml"
        if not path.is_file():
            raise UserError(f"tables={name}: conf/experiment has no such file.")
        swept: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
        for model in str(swept.get("model", "efficientnet_lite0")).split(","):
            cells.setdefault(model, []).extend((name, method) for method in swept["method"].split(","))
    lines: list[Line] = []
    flops: dict[str, float] = {}
    with tqdm(total=sum(map(len, cells.values())), unit="cell") as progress:
        for model, several in cells.items():
            classifier = config.read(composed([f"model={model}", "model.weights=random"])).model.build()
            engine = Rehearsal.of(classifier, device)
            engine.limit = 0.0  # one run of a kind: nothing is timed
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                engine.network(torch.zeros(1, 3, *engine.size, device=device))
            flops[model] = float(counter.get_total_flops())
            for name, method in several:
                progress.set_description(f"{name}: {model}, {method}")
                overrides = [f"experiment={name}", "dataset=demo", f"model={model}", "model.weights=random"]
                run = config.read(composed([*overrides, f"method={method}", "maps=true"]))
                images = run.dataset.load()
                trial = try_image(Cell(run, device, images, classifier), engine, images.samples[0])
                lines.append(Line(name, model, method, trial.cost, len(json.dumps(trial.record)) + 1, trial.maps))
                progress.update()
    return lines, flops


def _networks(flops: Mapping[str, float], rates: Mapping[str, float], measured: Mapping[str, float]) -> str:
    rows = [
        [model, f"{each / 1e9:.1f}", f"{rates[model]:,.0f}", "measured" if model in measured else "assumed"]
        for model, each in flops.items()
    ]
    return table(["network", "GFLOP a forward", "images/s", ""], rows)


def _tables(lines: Sequence[Line], rates: Mapping[str, float], images: int, hours: float) -> str:
    """A line for each table and network, then for each table."""
    rows = []
    for name in dict.fromkeys(line.table for line in lines):
        sums = [0.0, 0.0, 0.0, 0.0]
        for model in dict.fromkeys(line.model for line in lines if line.table == name):
            cells = [line for line in lines if (line.table, line.model) == (name, model)]
            slowest = max(cells, key=lambda line: line.forwards)
            shard = math.floor(3600 * hours * rates[model] / slowest.forwards)
            each = [
                sum(line.forwards for line in cells),
                images * sum(line.forwards for line in cells) / rates[model] / 3600,
                images * sum(line.record for line in cells) / 1e9,
                images * sum(line.maps for line in cells) / 1e9,
            ]
            sums = [a + b for a, b in zip(sums, each, strict=True)]
            longest = images * slowest.forwards / rates[model] / 3600
            said = f"{slowest.method}: {longest:,.0f} h", f"{shard:,}", f"{math.ceil(images / shard):,}"
            rows.append([name, f"{model}, {len(cells)} methods", *_said(each), *said])
        rows.append([name, "all", *_said(sums), "", "", ""])
    head = [
        "table", "network", "forwards an image", "GPU-hours", "records, GB", "maps, GB", "longest cell",
        f"images a shard of {hours:g} h", "its shards",
    ]  # fmt: skip
    return table(head, rows)


def _said(sums: Sequence[float]) -> list[str]:
    forwards, hours, records, maps = sums
    return [f"{forwards:,.0f}", f"{hours:,.0f}", f"{records:.1f}", f"{maps:,.0f}"]


def _files(lines: Sequence[Line], rates: Mapping[str, float], decode: float, size: float) -> str:
    """What one card asks of files and cores, in its fastest cell and in its slowest one."""
    rows = []
    for model in dict.fromkeys(line.model for line in lines):
        cells = sorted((line for line in lines if line.model == model), key=lambda line: line.forwards)
        for line in (cells[0], cells[-1]):
            rate = rates[model] / line.forwards
            row = [model, f"{line.table}, {line.method}", f"{rate:,.2f}", f"{rate * decode:.2f}", f"{rate * size / 1e6:.2f}"]
            rows.append([*row, f"{rate * line.record / 1e3:.1f}", f"{rate:,.2f}"])
    head = ["network", "cell", "images/s", "cores that decode", "MB/s read", "kB/s of records", "records synced/s"]
    return table(head, rows)


def _positive(keys: Mapping[str, str], key: str) -> float:
    try:
        value = float(keys[key])
        if not 0 < value < math.inf:
            raise ValueError
    except ValueError:
        raise UserError(f"{key}={keys[key]}: give a number above 0.") from None
    return value


def _throughputs(text: str) -> dict[str, float]:
    """``NAME:IMAGES,NAME:IMAGES``."""
    found = {}
    for part in filter(None, text.split(",")):
        model, sign, value = part.partition(":")
        if not sign:
            raise UserError(f"throughput={text}: give NAME:IMAGES_A_SECOND, e.g. throughput=resnet50:2500.")
        found[model] = _positive({"throughput": value}, "throughput")
    return found


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
