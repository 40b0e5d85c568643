"""Jobs: one computes a cell or a shard of it, several are a sweep, in this process or in others that a launcher starts.

A job never raises what ends the others: what has become of it is told at once, and again at the end.
"""

from __future__ import annotations

import tempfile
import time
import traceback
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.types import RunMode
from omegaconf import DictConfig
from tqdm import tqdm

from experiments.cell.ending import CellProgress, FinishedCell
from experiments.command import configuration as config
from experiments.command import data_folders, progress
from experiments.command.program import EXIT_DEFECT, EXIT_OK, diagnosis
from experiments.jobs.arguments import distinguish
from experiments.jobs.estimate import Estimate
from experiments.store.records import read_records, writing
from suny.later import Later

# run.py imports this module before anything is known to be computed; torch is imported with the work of the first job.
if TYPE_CHECKING:
    from experiments.jobs import work
else:
    work = Later("experiments.jobs.work")

# The endings of a launcher's jobs: a job's place, and what it returned, or why it returned nothing; None while none has ended.
Arrivals = Generator[tuple[int, JobReturn | str] | None, None, None]


@dataclass
class JobEnding:
    """How a job ended.

    Args:
        overrides: its arguments.
        number: its place in the sweep.
        results_dir: the folder of its results.
        estimate: that of a dry run.
        cell: None where the job failed.
        error: the mistake or defect, as it is told.
        exit_code: that of a command of this job alone.
        lines: those for the user, where the job ran in another process.
    """

    overrides: tuple[str, ...]
    number: int = 0
    results_dir: Path = Path()
    estimate: Estimate | None = None
    cell: FinishedCell | CellProgress | None = None
    error: str = ""
    exit_code: int = EXIT_OK
    lines: list[str] = field(default_factory=list)


@dataclass
class Sweep:
    """The jobs of one command, as they end.

    Args:
        several: whether there are several.
        endings: in the order in which the jobs ended.
        told: lines that are not to be told again.
        estimator: that of a dry run.
        expected: how many jobs there are, where they run in this process one after the other.
        began: when, by the clock that only goes forwards.
    """

    several: bool = False
    endings: list[JobEnding] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    estimator: work.Estimator | None = None
    expected: int = 1
    began: float = field(default_factory=time.monotonic)

    def place(self) -> str:
        """Which of the jobs is next, and how long they will all take if they go on as until now; empty for a single one."""
        if self.expected < 2:
            return ""
        ended = len(self.endings)
        left = (time.monotonic() - self.began) / ended * (self.expected - ended) if ended else 0.0
        return f"cell {ended + 1} of {self.expected}" + (f", {tqdm.format_interval(left)} left" if ended else "")

    def add(self, ending: JobEnding, name: str = "") -> None:
        """Tells how a job ended; a mistake that several jobs share is told once, and counted at the end.

        Args:
            ending: that of the job.
            name: the job's, which is told with an error of it.
        """
        self.endings.append(ending)
        for line in ending.lines:  # many shards tell the same
            if line not in self.told:
                progress.tell(line)
        self.told.update(ending.lines)
        progress.count_notes(ending.lines)
        if ending.error and ending.error not in self.told:
            progress.tell(f"{ending.error.rstrip()} [{name}]" if name else ending.error)
        self.told.add(ending.error)
        if ending.estimate:
            progress.tell(f"{ending.estimate.title}: {ending.estimate.seconds:.3g} s per image")
        if isinstance(ending.cell, FinishedCell):
            if not self.several:
                tqdm.write(work.cell_text(ending.cell))
                if (ending.cell.folder / "pictures").is_dir():
                    tqdm.write(f"pictures: {ending.cell.folder / 'pictures'}")
            line = f"results: {ending.cell.folder}"  # of several shards that end at once, each finds the cell complete
            if line not in self.told:
                tqdm.write(line)
            self.told.add(line)
        elif ending.cell and not self.several:
            tqdm.write(f"the shard is complete; {ending.cell}")

    def close(self) -> int:
        """Tells how all jobs ended.

        Returns: the exit code.
        """
        estimates = [e.estimate for e in self.endings if e.estimate]
        if estimates and self.estimator:
            print(work.dry_run_text(estimates, self.estimator))
        if self.several:
            self._tell_of_several(sorted(self.endings, key=lambda e: e.number))
        codes = [e.exit_code for e in self.endings if e.error]
        return EXIT_DEFECT if EXIT_DEFECT in codes else max(codes, default=EXIT_OK)

    def _tell_of_several(self, endings: Sequence[JobEnding]) -> None:
        """The table of all cells that are finished, then the cells that are not, and the jobs that failed."""
        finished = {(e.cell.folder, *e.cell.columns.values()): e for e in endings if isinstance(e.cell, FinishedCell)}
        if finished:
            cells = [e.cell for e in finished.values() if isinstance(e.cell, FinishedCell)]
            folder = next(e.results_dir for e in endings if e.cell)
            for text in work.sweep_texts(cells, [e.overrides for e in finished.values()], folder):
                print(f"\n{text}")
        complete = {key[0] for key in finished}
        begun = {e.cell.folder: e.cell for e in endings if isinstance(e.cell, CellProgress) and e.cell.folder not in complete}
        for cell in begun.values():
            now = replace(cell, done=len({r["image"] for r in read_records(cell.folder)}))
            progress.tell(f"incomplete: {now}; the same command continues.")
        for text, jobs in progress.shared_notes().items():
            progress.tell(f"noted: {jobs} of {len(endings)} jobs with the same note ({_quoted(text)})")
        for line in failed_jobs(endings):
            progress.tell(line)


# The names of failed jobs that one line lists, and the characters of an error that it repeats.
_LISTED, _QUOTED = 12, 60

# Hydra hands what a job returns to nobody, so that the endings are gathered here.
_sweep = Sweep()


def begin() -> Sweep:
    """The jobs of a new command."""
    global _sweep
    _sweep = Sweep()
    progress.forget_notes()
    return _sweep


def expect(count: int) -> None:
    """Notes how many jobs the command has."""
    _sweep.expected = count


def compute(cfg: DictConfig) -> JobEnding:
    """One job, as Hydra and its launchers call it. A mistake is told; in a sweep the other jobs go on, after a defect too."""
    hydra = HydraConfig.get()
    several = hydra.mode == RunMode.MULTIRUN
    ending = JobEnding(tuple(hydra.overrides.task), hydra.job.num if several else 0)
    try:
        run = config.read(cfg)
        ending.results_dir = Path(run.settings.results_dir).expanduser()
        data_folders.refuse(run.settings.results_dir, "results_dir")
        if run.settings.dry_run:
            _sweep.estimator = _sweep.estimator or work.Estimator()
            ending.estimate = _sweep.estimator.estimate(run)
        else:
            progress.set_place(_sweep.place())
            ending.cell = work.run_cell(run)
    except Exception as error:  # caught here: Hydra would print a line of its own first
        known = diagnosis(error)
        if known is None and not several:
            raise
        shown = traceback.format_exc() if known is None or cfg.get("debug") is True else ""
        ending.error = shown + (f"error: {known.line}" if known else "")
        ending.exit_code = known.exit_code if known else EXIT_DEFECT
    job = progress.current_job()
    if job is None:
        _sweep.several = several
        _sweep.add(ending)
    else:
        ending.lines = job.lines
    return ending


def gather(
    jobs: Sequence[Sequence[str]],
    first: int,
    folder: Path,
    start: Callable[[Sequence[Path]], Arrivals],
    stopped: Callable[[], str],
) -> list[JobReturn]:
    """Waits for a launcher's jobs in other processes: one bar for all, and each one's ending told at once.

    Args:
        jobs: the overrides of each.
        first: the number of the first.
        folder: for files that go back and forth.
        start: starts the jobs, each with the path of its report.
        stopped: returns the line for a user who stops waiting.

    Returns: a formality; the sweep has what the jobs returned.
    """
    _sweep.several = True
    overrides = [tuple(filter_overrides(job)) for job in jobs]
    names = distinguish(overrides, overrides)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = Path(tempfile.mkdtemp(prefix="jobs-", dir=folder))
    reports = [files / str(at) for at in range(len(jobs))]
    try:
        with closing(progress.JobsBar(reports)) as bar, closing(start(reports)) as arrivals:
            for arrival in arrivals:
                if arrival is not None:
                    at, returned = arrival
                    ending = (
                        JobEnding(overrides[at], first + at, error=f"error: {returned}", exit_code=EXIT_DEFECT)
                        if isinstance(returned, str)
                        else returned.return_value
                    )
                    _sweep.add(ending, names[at])
                    bar.end(at)
                bar.refresh()
    except KeyboardInterrupt:
        progress.tell(stopped())
        raise
    finally:
        for report in reports:
            report.unlink(missing_ok=True)
        with suppress(OSError):  # logs of jobs that failed stay
            files.rmdir()
    return [JobReturn(overrides=job, status=JobStatus.COMPLETED) for job in jobs]


def failed_jobs(endings: Sequence[JobEnding]) -> list[str]:
    """Tells which jobs failed: a line for each error that several of them share, and one for all others."""
    places: dict[str, list[int]] = {}
    for at, ending in enumerate(endings):
        if ending.error:
            places.setdefault(ending.error, []).append(at)
    overrides = [e.overrides for e in endings]
    names = distinguish(overrides, overrides)
    lines = []
    for error, shared in places.items():
        if len(shared) > 1:
            which = "" if len(shared) == len(endings) else f": {_listed([names[at] for at in shared])}"
            what = f" ({_quoted(error.splitlines()[-1].removeprefix('error: '))})" if len(places) > 1 else ""
            lines.append(f"failed: {len(shared)} of {len(endings)} jobs with the same error{what}{which}")
    alone = [names[shared[0]] for shared in places.values() if len(shared) == 1]
    return [*lines, f"failed: {_listed(alone)}"] if alone else lines


def _quoted(text: str) -> str:
    """The beginning of a line that was told before."""
    return f"{text[:_QUOTED]} ..."


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return "; ".join(names[:_LISTED]) + (f"; and {more} more" if more > 0 else "")
