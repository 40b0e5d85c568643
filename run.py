"""The benchmark's command line: ``python run.py [key=value ...]`` computes one cell, ``-m`` a sweep of cells.

``python run.py --help`` lists the keys; README.md shows the usual commands.
"""

from __future__ import annotations

import re
import sys
import tempfile
import traceback
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from experiments import config
from experiments.card import tell
from experiments.cli import EXIT_DEFECT, EXIT_MISTAKE, EXIT_OK, complain, guarded, mistake
from experiments.cost import Estimate, Estimator, said
from experiments.machine import process_age
from experiments.reports import after_sweep, metric_list
from experiments.runner import Finished, run_cell
from experiments.tables import cell_table, sweep_table
from metrics.base import Metric


@dataclass
class Outcome:
    """What has become of the cells of one command."""

    swept: bool = False
    finished: list[Finished] = field(default_factory=list)
    estimates: list[Estimate] = field(default_factory=list)
    beginning: float = 0.0
    estimator: Estimator = field(default_factory=Estimator)
    failed: list[str] = field(default_factory=list)
    exit_code: int = EXIT_OK
    metrics: dict[str, Metric] = field(default_factory=dict)
    folder: Path = Path()


outcome = Outcome()  # Hydra gives a cell's return value to nobody


@hydra.main(version_base="1.3", config_path=str(config.CONF), config_name="config")
def compute(cfg: DictConfig) -> None:
    """One cell. A mistake is told at once; in a sweep the other cells go on."""
    outcome.swept = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        run = config.read(cfg)
        if run.settings.dry_run:
            outcome.beginning = outcome.beginning or process_age()
            outcome.estimates.append(outcome.estimator.estimate(run))
            tell(f"{outcome.estimates[-1].title}: {outcome.estimates[-1].seconds:.3g} s an image")
            return
        outcome.metrics |= run.metrics
        outcome.folder = Path(run.settings.results_dir).expanduser()
        cell = run_cell(run)
    except Exception as error:  # caught here: Hydra would print a line of its own first
        said = mistake(error)
        if said is None and not outcome.swept:
            raise
        outcome.failed.append(", ".join(HydraConfig.get().overrides.task))
        if said is None:
            traceback.print_exc()
            outcome.exit_code = EXIT_DEFECT
        else:
            complain(said)
            outcome.exit_code = outcome.exit_code or EXIT_MISTAKE
        return
    outcome.finished.append(cell)
    if not outcome.swept:
        print(cell_table(cell, outcome.metrics))
        if (cell.folder / "pictures").is_dir():
            print(f"pictures: {cell.folder / 'pictures'}")
    print(f"results: {cell.folder}", flush=True)


def main() -> int:
    global outcome
    outcome = Outcome()
    if "--metrics" in sys.argv:
        print(metric_list())
        return EXIT_OK
    dry = any(re.fullmatch(r"\+*dry_run=true", a, re.IGNORECASE) for a in sys.argv)
    with tempfile.TemporaryDirectory() if dry else nullcontext() as elsewhere:
        if dry:
            sys.argv.append(f"hydra.sweep.dir={elsewhere}")  # Hydra's notes on a sweep
        compute()
    if outcome.estimates:
        print(said(outcome.estimates, outcome.beginning))
    if outcome.swept:
        if outcome.finished:
            print(f"\n{sweep_table(outcome.finished, outcome.metrics)}")
            for text in after_sweep(outcome.finished, outcome.metrics, outcome.folder):
                print(f"\n{text}")
        for name in outcome.failed:
            print(f"failed: {name}", file=sys.stderr)
    return outcome.exit_code


if __name__ == "__main__":
    sys.exit(guarded(main))
