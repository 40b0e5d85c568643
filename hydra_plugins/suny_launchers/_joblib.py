"""Processes on one machine.

joblib gives up all jobs when one process is killed (by a lack of memory, say). Here each place has a pool of one process, so
that what kills it ends the one job that it ran, and the place goes on with a new one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import hydra_plugins.hydra_joblib_launcher.joblib_launcher as upstream
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn

from suny.errors import UserError

from ._gathering import Gathering, effective_jobs, own_conf, threads


class JoblibLauncher(Gathering, upstream.JoblibLauncher):
    """``conf/launchers/joblib.yaml`` documents the keys."""

    def __init__(self, n_jobs: int, gpus: int) -> None:
        super().__init__(n_jobs=n_jobs)
        self.n_jobs, self.gpus = n_jobs, gpus

    def arrivals(self, jobs: Sequence[Sequence[str]], first: int, reports: Sequence[Path]) -> Generator[Any, None, None]:
        gpus = _gpus(self.gpus)
        count = min(effective_jobs(self.n_jobs, len(jobs)), len(gpus) or len(jobs))
        alone = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * count
        free = [_Place(threads(count) | own_conf() | gpu) for gpu in alone[:count]]
        # Python's tracker of resources would warn at the end that it had to clean up after pools whose process was killed
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [os.environ.get("PYTHONWARNINGS"), "ignore:resource_tracker"]))
        state = Singleton.get_state()
        left = list(range(len(jobs)))
        running: dict[Future[JobReturn], tuple[int, _Place]] = {}
        try:
            while left or running:
                while left and free:
                    at, place = left.pop(0), free.pop(0)
                    job = (first + at, jobs[at], self.hydra_context, self.config, self.task_function, state)
                    running[place.pool.submit(_execute, reports[at], job)] = at, place
                for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                    at, place = running.pop(future)
                    error = future.exception()
                    if error is None:
                        yield at, future.result()
                    else:
                        if isinstance(error, BrokenExecutor):
                            place.renew()
                        yield at, _failure_text(error)
                    free.append(place)
                yield None
        finally:
            for place in free:
                place.close()
            for _, place in running.values():
                place.close(kill=True)


def _gpus(asked: Any) -> list[str]:
    """The GPUs that are asked for, as CUDA_VISIBLE_DEVICES names them.

    Raises:
        UserError: fewer are here.
    """
    from torch.cuda import device_count

    count = device_count()
    # CUDA takes the names up to the first that is no GPU (-1, to hide the others)
    visible = list(filter(None, os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")))[:count] or list(map(str, range(count)))
    if not isinstance(asked, int) or asked < -1 or asked > len(visible) or (asked == -1 and not visible):
        raise UserError(f"hydra.launcher.gpus={asked}: PyTorch sees {len(visible)} here; 0 gives none to a job of its own.")
    return visible if asked == -1 else visible[:asked]


class _Place:
    """A pool of one process, which runs one job at a time."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self.renew()

    def renew(self) -> None:
        from joblib.externals.loky import ProcessPoolExecutor

        self.pool: Any = ProcessPoolExecutor(max_workers=1, env=self._environment)

    def close(self, kill: bool = False) -> None:
        self.pool.shutdown(kill_workers=kill)


def _execute(report: Path, job: Sequence[Any]) -> JobReturn:
    """Runs a job in the other process, whose own lines and bars nobody could read."""
    from hydra_plugins.hydra_joblib_launcher._core import execute_job

    from experiments.command import progress

    progress.enter(report)
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        return execute_job(*job)


def _failure_text(error: BaseException) -> str:
    if isinstance(error, BrokenExecutor):
        how = re.search(r"\{(.*)\}", str(error))
        return f"the process was killed{f' ({how[1]})' if how else ''}, for lack of memory perhaps; the same command continues."
    return f"the job did not begin: {' '.join(str(error).split())[:300]}"
