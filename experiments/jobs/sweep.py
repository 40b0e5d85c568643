"""Jobs: one computes a cell or a shard of it, several are a sweep, in this process or in others that a launcher starts.

A job never raises what ends the others: what has become of it is told at once, and again at the end.
"""

from __future__ import annotations

import re
import tempfile
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
from experiments.command import progress
from experiments.command.options import dashed
from experiments.command.program import EXIT_DEFECT, EXIT_OK, diagnosis
from experiments.store.records import read_records, writing
from suny.errors import UserError

# Every command imports this module, those too that compute nothing: what needs torch is imported where something is computed.
if TYPE_CHECKING:
    from experiments.jobs.dry_run import Estimate, Estimator
    from experiments.store.reading import Result
    from metrics.base import Metric

# how a launcher's jobs end: a job's place, and what it returned, or in a few words why it returned nothing; None: not yet
Arrivals = Generator[tuple[int, JobReturn | str] | None, None, None]


@dataclass
class Ended:
    """What has become of a job.

    Args:
        overrides: its arguments.
        number: its place in the sweep.
        estimate: of a dry run.
        cell: None where it failed; in a sweep without the records, which lie on the disk.
        error: what failed, as it is told.
        lines: for the user, told in another process.
    """

    overrides: tuple[str, ...]
    number: int = 0
    results_dir: Path = Path()
    metrics: dict[str, Metric] = field(default_factory=dict)
    estimate: Estimate | None = None
    cell: FinishedCell | CellProgress | None = None
    error: str = ""
    exit_code: int = EXIT_OK
    lines: list[str] = field(default_factory=list)


@dataclass
class Sweep:
    """What has become of the jobs of one command."""

    several: bool = False
    ended: list[Ended] = field(default_factory=list)
    told: set[str] = field(default_factory=set)
    estimator: Estimator | None = None
    beginning: float = 0.0  # seconds that the program took to start, where that counts

    def add(self, ended: Ended, name: str = "") -> None:
        """Tells what has become of a job; a mistake that several jobs have is told once, and counted at the end.

        Args:
            ended: what has become of it.
            name: is said with an error of its own.
        """
        self.ended.append(ended)
        for line in ended.lines:  # many shards say the same
            if line not in self.told:
                progress.tell(line)
        self.told.update(ended.lines)
        if ended.error and ended.error not in self.told:
            progress.tell(f"{ended.error.rstrip()} [{name}]" if name else ended.error)
        self.told.add(ended.error)
        if ended.estimate:
            progress.tell(f"{ended.estimate.title}: {ended.estimate.seconds:.3g} s an image")
        if isinstance(ended.cell, FinishedCell):
            from experiments.store.reading import read_result
            from experiments.tables import cell_table

            if not self.several:
                tqdm.write(cell_table(read_result(ended.cell.folder, ended.cell.columns)))
                for note in ended.cell.notes:
                    tqdm.write(f"note: {note}")
                if (ended.cell.folder / "pictures").is_dir():
                    tqdm.write(f"pictures: {ended.cell.folder / 'pictures'}")
            line = f"results: {ended.cell.folder}"  # every shard that comes last may say so
            if line not in self.told:
                tqdm.write(line)
            self.told.add(line)
        elif ended.cell and not self.several:
            tqdm.write(f"the shard is complete; {ended.cell}")

    def close(self) -> int:
        """Tells what has become of all jobs.

        Returns: the exit code.
        """
        failed = [e for e in self.ended if e.error]
        estimates = [e.estimate for e in self.ended if e.estimate]
        if estimates:
            from experiments.jobs.dry_run import said

            print(said(estimates, self.beginning))
        if self.several:
            from experiments.jobs.after_sweep import after_sweep
            from experiments.tables import sweep_table

            ended = sorted(self.ended, key=lambda e: e.number)
            finished = {(e.cell.folder, *e.cell.columns.values()): e for e in ended if isinstance(e.cell, FinishedCell)}
            if finished:
                cells = _read(list(finished.values()))
                print(f"\n{sweep_table(cells)}")
                for note in dict.fromkeys(n for e in ended if isinstance(e.cell, FinishedCell) for n in e.cell.notes):
                    print(f"note: {note}")
                folder = next(e.results_dir for e in ended if e.cell)
                for text in after_sweep([cell for _, cell in cells], folder):
                    print(f"\n{text}")
            complete = {key[0] for key in finished}
            parts = {e.cell.folder: e.cell for e in ended if isinstance(e.cell, CellProgress) and e.cell.folder not in complete}
            for part in parts.values():
                now = replace(part, done=len({r["image"] for r in read_records(part.folder)}))
                progress.tell(f"incomplete: {now}; the same command continues.")
            for line in failed_jobs(ended):
                progress.tell(line)
        codes = [e.exit_code for e in failed]
        return EXIT_DEFECT if EXIT_DEFECT in codes else max(codes, default=EXIT_OK)


# arguments with which Hydra shows something and runs nothing
_SHOWING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}

# the names of failed jobs that one line lists, and the characters of an error that it repeats
_LISTED, _QUOTED = 12, 60

# Hydra gives what a job returns to nobody
_sweep = Sweep()


def begin() -> Sweep:
    """The jobs of a new command."""
    global _sweep
    _sweep = Sweep()
    return _sweep


def compute(cfg: DictConfig) -> Ended:
    """One job, as Hydra and its launchers call it. A mistake is told; in a sweep the other jobs go on, after a defect too."""
    hydra = HydraConfig.get()
    several = hydra.mode == RunMode.MULTIRUN
    ended = Ended(tuple(hydra.overrides.task), hydra.job.num if several else 0)
    try:
        run = config.read(cfg)
        ended.metrics, ended.results_dir = run.metrics, Path(run.settings.results_dir).expanduser()
        if run.settings.dry_run:
            from experiments.jobs.dry_run import Estimator
            from experiments.jobs.machine import process_age

            _sweep.estimator = _sweep.estimator or Estimator()
            _sweep.beginning = _sweep.beginning or process_age()
            ended.estimate = _sweep.estimator.estimate(run)
        else:
            from experiments.cell.cell import run_cell

            ended.cell = run_cell(run)
    except Exception as error:  # caught here: Hydra would print a line of its own first
        known = diagnosis(error)
        if known is None and not several:
            raise
        shown = traceback.format_exc() if known is None or cfg.get("debug") is True else ""
        ended.error = shown + (f"error: {known.line}" if known else "")
        ended.exit_code = known.exit_code if known else EXIT_DEFECT
    job = progress.current_job()
    if job is None:
        _sweep.several = several
        _sweep.add(ended)
        return ended
    ended.lines = job.lines
    return ended


def gather(
    jobs: Sequence[Sequence[str]],
    first: int,
    folder: Path,
    start: Callable[[Sequence[Path]], Arrivals],
    stopped: Callable[[], str],
) -> list[JobReturn]:
    """What a launcher of other processes does with its jobs: one bar for all, and each one's ending told at once.

    Args:
        jobs: the overrides of each.
        first: number of the first.
        folder: for files that go back and forth.
        start: starts the jobs, each with the path of its report.
        stopped: what the user is told who stops waiting.

    Returns: a formality; the sweep has what the jobs returned.
    """
    _sweep.several = True
    overrides = [tuple(filter_overrides(job)) for job in jobs]
    names = _telling(overrides, overrides)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        files = Path(tempfile.mkdtemp(prefix="jobs-", dir=folder))
    reports = [files / str(at) for at in range(len(jobs))]
    try:
        with closing(progress.Jobs(reports)) as bar, closing(start(reports)) as arrivals:
            for arrival in arrivals:
                if arrival is not None:
                    at, what = arrival
                    ended = (
                        Ended(overrides[at], first + at, error=f"error: {what}", exit_code=EXIT_DEFECT)
                        if isinstance(what, str)
                        else what.return_value
                    )
                    _sweep.add(ended, names[at])
                    bar.ended(at)
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


def with_flags_last(given: Sequence[str]) -> list[str]:
    """The command line with Hydra's flags, and their values, behind all keys: Hydra reads keys in one piece only.

    Raises:
        UserError: a flag that Hydra does not have; keys have no dashes.
    """
    from hydra._internal.utils import get_args_parser

    known = {flag: action for action in get_args_parser()._actions for flag in action.option_strings}
    keys: list[str] = []
    flags: list[str] = []
    left = list(given)
    while left:
        argument = left.pop(0)
        action = known.get(argument.partition("=")[0])
        if not argument.startswith("-"):
            keys.append(argument)
        elif action is None:
            raise dashed(argument, left, known)
        else:
            flags.append(argument)
            # a flag with a choice of values may stand alone
            takes = action.nargs is None or (action.nargs == "?" and left[:1] and left[0] in (action.choices or ()))
            if takes and "=" not in argument and left:
                flags.append(left.pop(0))
    return [*keys, *flags]


def is_dry(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for estimates only."""
    return any(re.fullmatch(r"\+*dry_run=true", a, re.IGNORECASE) for a in arguments)


def arguments_of(given: Sequence[str], elsewhere: str = "") -> list[str]:
    """The command line as Hydra takes it: ``shards=N`` becomes a sweep over N shards, and a launcher's jobs are a sweep.

    A dry run, for which ``elsewhere`` is given, starts no jobs and writes nothing: it estimates whole cells, in this process,
    and Hydra's notes go there.

    Raises:
        UserError: shards= is no number, or given twice, or beside a single shard.
    """
    asked = [a.removeprefix("shards=") for a in given if a.startswith("shards=")]
    rest = [a for a in given if not a.startswith("shards=")]
    count = 1
    if asked:
        if len(asked) > 1 or any(a.startswith(("shard.count=", "shard.index=")) for a in rest):
            raise UserError("shards=N computes all of N shards, shard.count=N shard.index=I one of them: give one of the two.")
        if not (asked[0].isdecimal() and 0 < int(asked[0]) < 10**5):
            raise UserError(f"shards={asked[0]}: give how many shards a cell is split into, e.g. shards=8.")
        count = int(asked[0])
    if elsewhere:
        return [*(a for a in rest if not a.startswith("hydra/launcher=")), f"hydra.sweep.dir={elsewhere}"]
    if _SHOWING & {a.partition("=")[0] for a in rest}:
        return rest
    launched = any(a.startswith("hydra/launcher=") and a != "hydra/launcher=basic" for a in rest)
    if (count > 1 or launched) and not {"-m", "--multirun"} & set(rest):
        rest.insert(0, "-m")
    return [*rest, f"shard.count={count}", f"shard.index=range({count})"] if count > 1 else rest


def _read(finished: Sequence[Ended]) -> list[tuple[str, Result]]:
    """The finished cells of a sweep, each with the name of its row: the method, and the keys that are not the same in all.

    One cell is read at a time, and only numbers of it are kept: all records of a sweep would not fit into memory.
    """
    from experiments.jobs.after_sweep import compared_numbers
    from experiments.store.reading import read_result, without_records

    overrides = [e.overrides for e in finished]
    cells: list[tuple[str, Result]] = []
    for ended, name in zip(finished, _telling(overrides, overrides), strict=True):
        assert isinstance(ended.cell, FinishedCell)
        result = read_result(ended.cell.folder, ended.cell.columns)
        # data, network and method have places of their own, and shards and metrics make no other cell
        keys = [k for k in name.split(", ") if k and not re.match(r"(method|dataset|model|metrics|shard\.\w+)=", k)]
        row = f"{result.method} ({', '.join(k.removeprefix('method.') for k in keys)})" if keys else result.method
        cells.append((row, without_records(result, compared_numbers(result))))
    places = [(row, r.dataset, r.model) for row, r in cells]
    return [(f"{row} {r.digest}" if places.count(p) > 1 else row, r) for (row, r), p in zip(cells, places, strict=True)]


def failed_jobs(jobs: Sequence[Ended]) -> list[str]:
    """Which jobs failed: a line for each error that several of them share, and one for all others."""
    places: dict[str, list[int]] = {}
    for at, job in enumerate(jobs):
        if job.error:
            places.setdefault(job.error, []).append(at)
    names = _telling([j.overrides for j in jobs], [j.overrides for j in jobs])
    lines = []
    for error, shared in places.items():
        if len(shared) > 1:
            which = "" if len(shared) == len(jobs) else f": {_listed([names[at] for at in shared])}"
            what = f" ({error.splitlines()[-1].removeprefix('error: ')[:_QUOTED]} ...)" if len(places) > 1 else ""
            lines.append(f"failed: {len(shared)} of {len(jobs)} jobs with the same error{what}{which}")
    alone = [names[shared[0]] for shared in places.values() if len(shared) == 1]
    return [*lines, f"failed: {_listed(alone)}"] if alone else lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return "; ".join(names[:_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _telling(all_jobs: Sequence[tuple[str, ...]], jobs: Sequence[tuple[str, ...]]) -> list[str]:
    """The names of jobs: their overrides without those that all jobs have."""
    common = set.intersection(*map(set, all_jobs)) if len(all_jobs) > 1 else set()
    return [", ".join(o for o in job if o not in common) for job in jobs]
