"""Scores the stored maps of a finished cell with other metrics: ``python -m experiments.score RUN [key=value ...]``.

RUN is the folder of a cell that was computed with ``maps=true``. Nothing is explained again; the scores are a cell of their
own beside RUN. Keys are those of run.py, as far as they concern the scores: metrics=, points=, dataset.root=, results_dir=,
device=, batch_size=, curves=, pictures=.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import yaml
from omegaconf import DictConfig, OmegaConf

from experiments.cell.cell import run_cell
from experiments.cell.ending import FinishedCell
from experiments.command import configuration as config
from experiments.command.options import wants_help
from experiments.command.program import EXIT_OK, composed, guarded
from experiments.store.reading import read_result
from experiments.tables.console import cell_table
from suny.errors import UserError


def main(arguments: Sequence[str]) -> int:
    if not arguments or wants_help(arguments):
        print(__doc__)
        return EXIT_OK
    folder, overrides = Path(arguments[0]).expanduser().resolve(), list(arguments[1:])
    if not (folder / "card.yaml").is_file():
        raise UserError(f"{arguments[0]} is not the folder of a cell: it has no card.yaml.")
    if not (folder / "maps").is_dir():
        raise UserError(f"{arguments[0]} has no maps: compute it with maps=true, then they can be scored.")
    fixed = [o for o in overrides if o.startswith(("method", "model", "dataset=", "seed", "target", "precision", "compile"))]
    if fixed:
        raise UserError(f"{fixed[0]}: the maps are given; choose metrics=, points=, dataset.root=, results_dir= and the like.")
    made = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))["configuration"]
    kept = {k: made[k] for k in ("dataset", "model", "seed", "target", "precision", "compile") if k in made}
    method = {"_target_": "baselines.precomputed.Precomputed", "name": made["method"]["name"], "maps": str(folder / "maps")}
    moved = [o for o in overrides if o.startswith("dataset.")]
    asked = composed([o for o in overrides if o not in moved])
    if not any(o.startswith("results_dir=") for o in overrides):
        asked.results_dir = str(folder.parents[2])
    others = {k: v for k, v in asked.items() if k not in (*kept, "method")}
    cfg = OmegaConf.merge(others, kept, {"method": method}, OmegaConf.from_dotlist(moved))
    run = config.read(cast(DictConfig, cfg))
    cell = run_cell(run)
    if isinstance(cell, FinishedCell):
        print(cell_table(read_result(cell.folder, cell.columns)))
    else:
        print(f"the shard is complete; {cell}")
    print(f"results: {cell.folder}")
    return EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(lambda: main(sys.argv[1:])))
