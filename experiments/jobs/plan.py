"""The published tables on paper: passes counted in rehearsal, and the hours, shards and bytes that follow from them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import yaml
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from experiments.cell.cell import Cell
from experiments.command import configuration as config
from experiments.command.folders import conf_file
from experiments.command.program import composed
from experiments.jobs.dry_run import try_image
from experiments.tables.text import table
from suny.classifiers.cost_engine import Rehearsal
from suny.classifiers.engine import Cost
from suny.errors import UserError

# A backward and a pass of the tail cost at most as much as so many forwards.
_BACKWARD, _TAIL = 2.0, 1 / 20


@dataclass(frozen=True)
class PlannedCell:
    """One cell of a table, and what one of its images takes.

    Args:
        table, model, method: names.
        cost: passes.
        record: bytes of its record.
        maps: bytes of its maps.
    """

    table: str
    model: str
    method: str
    cost: Cost
    record: int
    maps: int

    @property
    def forwards(self) -> float:
        """The cost of one image in forwards, as an upper bound."""
        return self.cost.forwards + _BACKWARD * self.cost.backwards + _TAIL * self.cost.tail_forwards


def count_passes(tables: Sequence[str], device: torch.device) -> tuple[list[PlannedCell], dict[str, float]]:
    """Rehearses every cell of the tables.

    Returns: the cells, and for each network the floating-point operations of a forward (two for a multiplication and addition).

    Raises:
        UserError: a table that conf/experiment does not have.
    """
    names: dict[str, list[tuple[str, str]]] = {}  # table and method by network: each network is prepared once
    for name in tables:
        path = conf_file("experiment", name)
        if path is None:
            raise UserError(f"tables={name}: conf/experiment has no such file.")
        swept: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
        for model in str(swept.get("model", "efficientnet_lite0")).split(","):
            names.setdefault(model, []).extend((name, method) for method in swept["method"].split(","))
    cells: list[PlannedCell] = []
    flops: dict[str, float] = {}
    with tqdm(total=sum(map(len, names.values())), unit="cell") as progress:
        for model, several in names.items():
            classifier = config.read(composed([f"model={model}", "model.weights=random"])).model.build()
            engine = Rehearsal.of(classifier, device)
            engine.limit = 0.0  # nothing is timed, so that one run of each kind is enough
            with FlopCounterMode(display=False) as counter, torch.inference_mode():
                engine.network(torch.zeros(1, 3, *engine.size, device=device))
            flops[model] = float(counter.get_total_flops())
            for name, method in several:
                progress.set_description(f"{name}: {model}, {method}")
                overrides = [f"experiment={name}", "dataset=demo", f"model={model}", "model.weights=random"]
                run = config.read(composed([*overrides, f"method={method}", "maps=true"]))
                images = run.dataset.load()
                trial = try_image(Cell(run, device, images, classifier), engine, images.samples[0])
                cells.append(PlannedCell(name, model, method, trial.cost, len(json.dumps(trial.record)) + 1, trial.maps))
                progress.update()
    return cells, flops


def network_table(flops: Mapping[str, float], rates: Mapping[str, float], measured: Mapping[str, float]) -> str:
    """The rate of each network, in images per second, and where it comes from."""
    rows = [
        [model, f"{each / 1e9:.1f}", f"{rates[model]:,.0f}", "measured" if model in measured else "assumed"]
        for model, each in flops.items()
    ]
    return table(["network", "GFLOP a forward", "images/s", ""], rows)


def gpu_table(planned: Sequence[PlannedCell], rates: Mapping[str, float], images: int, hours: float) -> str:
    """Hours of one GPU and bytes: a line for each table and network, then for each table."""
    rows = []
    for name in dict.fromkeys(cell.table for cell in planned):
        sums = [0.0, 0.0, 0.0, 0.0]
        for model in dict.fromkeys(cell.model for cell in planned if cell.table == name):
            cells = [cell for cell in planned if (cell.table, cell.model) == (name, model)]
            slowest = max(cells, key=lambda cell: cell.forwards)
            shard = math.floor(3600 * hours * rates[model] / slowest.forwards)
            each = [
                sum(cell.forwards for cell in cells),
                images * sum(cell.forwards for cell in cells) / rates[model] / 3600,
                images * sum(cell.record for cell in cells) / 1e9,
                images * sum(cell.maps for cell in cells) / 1e9,
            ]
            sums = [a + b for a, b in zip(sums, each, strict=True)]
            longest = images * slowest.forwards / rates[model] / 3600
            shards = f"{slowest.method}: {longest:,.0f} h", f"{shard:,}", f"{math.ceil(images / shard):,}"
            rows.append([name, f"{model}, {len(cells)} methods", *_texts(each), *shards])
        rows.append([name, "all", *_texts(sums), "", "", ""])
    head = [
        "table", "network", "forwards an image", "GPU-hours", "records, GB", "maps, GB", "longest cell",
        f"images a shard of {hours:g} h", "its shards",
    ]  # fmt: skip
    return table(head, rows)


def _texts(sums: Sequence[float]) -> list[str]:
    forwards, hours, records, maps = sums
    return [f"{forwards:,.0f}", f"{hours:,.0f}", f"{records:.1f}", f"{maps:,.0f}"]


def file_table(planned: Sequence[PlannedCell], rates: Mapping[str, float], decode: float, size: float) -> str:
    """The files and cores that one GPU keeps busy, in the fastest cell of each network and in the slowest one."""
    rows = []
    for model in dict.fromkeys(cell.model for cell in planned):
        cells = sorted((cell for cell in planned if cell.model == model), key=lambda cell: cell.forwards)
        for cell in (cells[0], cells[-1]):
            rate = rates[model] / cell.forwards
            row = [model, f"{cell.table}, {cell.method}", f"{rate:,.2f}", f"{rate * decode:.2f}", f"{rate * size / 1e6:.2f}"]
            rows.append([*row, f"{rate * cell.record / 1e3:.1f}", f"{rate:,.2f}"])
    head = ["network", "cell", "images/s", "cores that decode", "MB/s read", "kB/s of records", "records synced/s"]
    return table(head, rows)


def read_throughputs(text: str) -> dict[str, float]:
    """``NAME:IMAGES,NAME:IMAGES`` as images per second by network.

    Raises:
        ValueError: something else.
    """
    rates = {}
    for entry in filter(None, text.split(",")):
        model, sign, value = entry.partition(":")
        if not sign:
            raise ValueError("give NAME:IMAGES_A_SECOND, e.g. throughput=resnet50:2500")
        try:
            rates[model] = float(value)
        except ValueError:
            rates[model] = 0.0
        if not 0 < rates[model] < math.inf:
            raise ValueError(f"give a number above 0 for {model}")
    return rates
