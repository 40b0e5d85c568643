"""Jobs of a cluster, or of this machine, through submitit.

submitit's own launcher waits for the jobs one after the other and ends with the first that was killed. Here all are watched;
whether a job is alive Slurm's queue says, so that no accounting database is needed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import hydra_plugins.hydra_submitit_launcher.submitit_launcher as upstream
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn

from experiments.command.progress import tell
from suny.errors import UserError

from ._gathering import Gathering, effective_jobs, own_conf, threads

# Seconds between two questions to Slurm; and seconds in which the result of a job that has ended appears on a slow file system.
_EVERY = 5.0
_GRACE = 12.0

# An array has at most so many jobs; Slurm's default MaxArraySize is 1001
_ARRAY = 1000

# states of jobs that will not run again, and those of them that may have left a result; Slurm forgets jobs after some minutes
_GONE = "no longer in the queue"
_KILLED = {"BOOT_FAIL", "CANCELLED", "DEADLINE", "NODE_FAIL", "OUT_OF_MEMORY", "TIMEOUT"}
_ENDED = {"COMPLETED", "FAILED", _GONE}

# a job's report, overrides, where its folder is configured, number, id (submitit gives it), Hydra's state
Call = tuple[Path, list[str], str, int, str, dict[Any, Any]]


class _Submitit(Gathering):
    """Mixed into upstream's launchers, whose parameters are the keys of ``conf/launchers``."""

    cluster: str
    params: dict[str, Any]

    def __call__(self, report: Path, *arguments: Any) -> JobReturn:
        """One job, in its own process."""
        from experiments.command import progress

        progress.enter(report)
        return super().__call__(*arguments)  # type: ignore[misc]

    def arrivals(self, jobs: Sequence[Sequence[str]], first: int, reports: Sequence[Path]) -> Generator[Any, None, None]:
        state = Singleton.get_state()
        calls = [
            (report.absolute(), list(overrides), "hydra.sweep.dir", number, "", state)
            for number, (report, overrides) in enumerate(zip(reports, jobs, strict=True), first)
        ]
        folder = reports[0].parent / "submitit"
        failed = False
        for arrival in self.watch(calls, folder):
            failed |= arrival is not None and isinstance(arrival[1], str)
            yield arrival
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)

    def watch(self, calls: Sequence[Call], folder: Path) -> Generator[Any, None, None]:
        """Yields as :meth:`arrivals` does; logs and results go to a folder."""
        raise NotImplementedError

    def executor(self, folder: Path, params: Mapping[str, Any]) -> Any:
        """submitit's, with parameters of which None leaves the cluster's default.

        Raises:
            UserError: no cluster here, or parameters that it does not have.
        """
        from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
        from submitit import AutoExecutor

        # jobs begin in the same folder, which need not be this project's, and in which the user's modules may lie
        paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", ""), str(Path.cwd())]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
        os.environ |= own_conf()
        first = {f"{self.cluster}_{k}": params[k] for k in ("max_num_timeout",) if k in params}
        then = {
            k if hasattr(BaseQueueConf, k) else f"{self.cluster}_{k}": v for k, v in params.items() if k != "max_num_timeout"
        }
        try:
            executor = AutoExecutor(folder / "%j", cluster=self.cluster, **first)
            executor.update_parameters(**then)
        except (RuntimeError, NameError, AssertionError, ValueError) as error:
            raise UserError(f"hydra.launcher: {' '.join(str(error).split())[:300]}") from error
        return executor


class LocalLauncher(_Submitit, upstream.LocalLauncher):
    """``conf/launchers/submitit_local.yaml`` documents the keys."""

    cluster = "local"

    def watch(self, calls: Sequence[Call], folder: Path) -> Generator[Any, None, None]:
        count = effective_jobs(self.params["n_jobs"], len(calls))
        executor = self.executor(folder, {k: v for k, v in self.params.items() if k != "n_jobs"})
        left = list(range(len(calls)))
        running: dict[int, Any] = {}
        try:
            while left or running:
                while left and len(running) < count:
                    at = left.pop(0)
                    with _as_environment(threads(count)), _quiet():
                        running[at] = executor.submit(self, *calls[at])
                time.sleep(0.2)
                for at, job in list(running.items()):
                    if job.done():
                        del running[at]
                        yield at, _result(job) if job.paths.result_pickle.exists() else _killed(job, "")
                yield None
        finally:
            for job in running.values():
                job.cancel()


class SlurmLauncher(_Submitit, upstream.SlurmLauncher):
    """``conf/launchers/submitit_slurm.yaml`` documents the keys."""

    cluster = "slurm"
    _ids: Sequence[str] = ()

    def watch(self, calls: Sequence[Call], folder: Path) -> Generator[Any, None, None]:
        executor = self.executor(folder, self.params)
        jobs: list[Any] = []
        for part in (calls[at : at + _ARRAY] for at in range(0, len(calls), _ARRAY)):
            try:
                with _quiet():
                    jobs += executor.map_array(self, *zip(*part, strict=True))
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                raise UserError(f"Slurm does not take the jobs: {' '.join(str(error).split())[-300:]}") from error
            self._ids = list(dict.fromkeys(job.job_id.partition("_")[0] for job in jobs))
        tell(f"note: {len(jobs)} Slurm jobs: {', '.join(self._ids)}; their output: {folder}")
        waiting = dict(enumerate(jobs))
        silent: dict[int, float] = {}  # since when jobs are known to have ended, without a result
        asked = time.monotonic()
        while waiting:
            time.sleep(1 + len(waiting) / 1000)
            for at, job in list(waiting.items()):
                if job.paths.result_pickle.exists():
                    del waiting[at]
                    yield at, _result(job)
            yield None
            if time.monotonic() - asked < _EVERY:
                continue
            asked = time.monotonic()
            states = _queue()
            if states is None:  # Slurm's controller is away: nothing is known
                continue
            for at, job in list(waiting.items()):
                state = states.get(job.job_id, _GONE)
                if state not in _KILLED | _ENDED:
                    silent.pop(at, None)
                elif state in _KILLED or asked - silent.setdefault(at, asked) > _GRACE:
                    del waiting[at]
                    yield at, _killed(job, f" ({state})")
                else:
                    with suppress(OSError):  # has a network file system look again
                        job.paths.folder.chmod(job.paths.folder.stat().st_mode)

    def stopped(self) -> str:
        ids = " ".join(self._ids)
        return (
            f"stopped waiting; the jobs go on (scancel {ids} ends them); after their end the same command gathers the results."
        )


def _queue() -> dict[str, str] | None:
    """The state of each of the user's jobs that Slurm remembers; None where it does not answer."""
    ask = ["squeue", "--noheader", "--array", "--states=all", "--format=%i|%T", f"--user={os.getuid()}"]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return dict(line.strip().split("|", 1) for line in answer.splitlines() if "|" in line)


def _result(job: Any) -> JobReturn | str:
    from submitit.core.utils import UncompletedJobError

    try:
        return job.result()
    except (UncompletedJobError, OSError, EOFError):
        return f"the job did not begin; its output: {job.paths.stderr}"


def _killed(job: Any, state: str) -> str:
    return f"job {job.job_id} was killed{state}; its output: {job.paths.stderr}; the same command continues."


@contextmanager
def _as_environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences stderr for what is started here: sbatch repeats its error, and local jobs answer Ctrl-C with tracebacks."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
