"""The benchmark's command line: ``python run.py [key=value ...]`` computes one cell, ``-m`` a sweep of cells.

``python run.py --help`` lists the keys; README.md shows the usual commands.
"""

from __future__ import annotations

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments import config
from experiments.cli import EXIT_MISTAKE, EXIT_OK, complain, guarded
from experiments.runner import Finished, run_cell
from experiments.tables import cell_table, sweep_table
from metrics.base import Metric
from suny.errors import UserError

finished: list[Finished] = []
failed: list[str] = []
metrics: dict[str, Metric] = {}


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def compute(cfg: DictConfig) -> None:
    """One cell. A mistake is told at once; in a sweep the other cells go on."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        run = config.read(cfg)
        metrics.update(run.metrics)
        finished.append(run_cell(run))
    except UserError as error:  # caught here: Hydra would print a line of its own first
        failed.append(", ".join(HydraConfig.get().overrides.task))
        complain(error)
        return
    cell = finished[-1]
    if not sweeping:
        print(cell_table(cell, metrics))
        if (cell.folder / "pictures").is_dir():
            print(f"pictures: {cell.folder / 'pictures'}")
    print(f"results: {cell.folder}", flush=True)


def main() -> int:
    for kept in (finished, failed, metrics):
        kept.clear()
    compute()
    if len(finished) + len(failed) > 1:
        if finished:
            print(f"\n{sweep_table(finished, metrics)}")
        for name in failed:
            print(f"failed: {name}", file=sys.stderr)
    return EXIT_MISTAKE if failed else EXIT_OK


if __name__ == "__main__":
    sys.exit(guarded(main))
