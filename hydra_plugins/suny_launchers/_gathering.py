"""The base of our launchers."""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.utils import JobReturn, setup_globals
from hydra.plugins.launcher import Launcher
from omegaconf import OmegaConf

from suny.errors import UserError

# The arguments that decide where data and results lie.
_PLACES = ("dataset", "experiment", "results_dir")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Gathering(Launcher):
    """Starts all jobs and tells each one's ending at once (:func:`experiments.jobs.sweep.gather`)."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        # not above: Hydra looks for plugins wherever it composes a configuration
        from experiments.command import data_folders
        from experiments.jobs.sweep import gather

        setup_globals()
        where = {tuple(o for o in job if o.startswith(_PLACES)): list(job) for job in job_overrides}
        for overrides in where.values():  # jobs find it out too, but the folder of their notes is made here
            cfg = self.hydra_context.config_loader.load_sweep_config(self.config, overrides)  # type: ignore[attr-defined]
            data_folders.declare_configured(OmegaConf.to_container(cfg.dataset, resolve=True))  # type: ignore[arg-type]
            data_folders.refuse(cfg.results_dir, "results_dir")
        folder = Path(str(self.config.results_dir)).expanduser() / ".sweep"  # type: ignore[attr-defined]
        return gather(
            job_overrides, initial_job_idx, folder, partial(self.arrivals, job_overrides, initial_job_idx), self.stopped
        )

    def arrivals(self, jobs: Sequence[Sequence[str]], first: int, reports: Sequence[Path]) -> Generator[Any, None, None]:
        """Starts the jobs; yields as :data:`experiments.jobs.sweep.Arrivals` says. Closed early, it ends what it can end."""
        raise NotImplementedError

    def stopped(self) -> str:
        """The line that tells what becomes of running jobs when the user stops waiting."""
        return "stopped: the same command continues."


def effective_jobs(asked: Any, jobs: int) -> int:
    """How many of so many jobs run at a time.

    Args:
        asked: ``hydra.launcher.n_jobs``; -1: as many as there are cores, -2: one less, ...
        jobs: how many there are.

    Raises:
        UserError: it is no number, or 0.
    """
    from joblib import effective_n_jobs

    if not isinstance(asked, int) or asked == 0:
        raise UserError(f"hydra.launcher.n_jobs={asked}: give how many jobs run at a time, -1: as many as there are cores.")
    return min(int(effective_n_jobs(asked)), jobs)


def own_conf() -> dict[str, str]:
    """The environment variable by which other processes find the user's folder of conf files."""
    from experiments.command.folders import VARIABLE, own_folder

    folder = own_folder()
    return {VARIABLE: str(folder)} if folder else {}


def threads(jobs: int) -> dict[str, str]:
    """Environment variables that share this machine's cores between so many jobs, unless the user has set them."""
    from joblib import cpu_count

    return {name: os.environ.get(name) or str(max(cpu_count() // jobs, 1)) for name in _THREADS}
