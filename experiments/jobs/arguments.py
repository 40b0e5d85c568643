"""The command line of run.py beside Hydra's own syntax, and the names of jobs by their arguments."""

from __future__ import annotations

import re
from collections.abc import Sequence

from hydra._internal.utils import get_args_parser

from experiments.command.options import dashed
from suny.errors import UserError

# With these arguments Hydra shows something and runs nothing.
_SHOWING = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "--shell-completion", "-sc"}


def is_dry(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for estimates only."""
    return any(re.fullmatch(r"\+*dry_run=true", a, re.IGNORECASE) for a in arguments)


def arguments_of(given: Sequence[str], elsewhere: str = "") -> list[str]:
    """The command line as Hydra takes it: ``shards=N`` becomes a sweep over N shards, and a launcher's jobs are a sweep.

    A dry run starts no jobs and writes nothing: it estimates whole cells, in this process.

    Args:
        given: the arguments.
        elsewhere: the folder for Hydra's own notes; empty: its usual one.

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
    notes = [f"hydra.sweep.dir={elsewhere}"] if elsewhere else []
    if is_dry(given):
        return [*(a for a in rest if not a.startswith("hydra/launcher=")), *notes]
    if _SHOWING & {a.partition("=")[0] for a in rest}:
        return rest
    rest += notes
    launched = any(a.startswith("hydra/launcher=") and a != "hydra/launcher=basic" for a in rest)
    if (count > 1 or launched) and not {"-m", "--multirun"} & set(rest):
        rest.insert(0, "-m")
    return [*rest, f"shard.count={count}", f"shard.index=range({count})"] if count > 1 else rest


def with_flags_last(given: Sequence[str]) -> list[str]:
    """The command line with Hydra's flags, and their values, behind all keys: Hydra reads keys in one piece only.

    Raises:
        UserError: a flag that Hydra does not have; keys have no dashes.
    """
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


def distinguish(all_jobs: Sequence[tuple[str, ...]], jobs: Sequence[tuple[str, ...]]) -> list[str]:
    """Names of jobs: their overrides without those that all jobs have."""
    common = set.intersection(*map(set, all_jobs)) if len(all_jobs) > 1 else set()
    return [", ".join(o for o in job if o not in common) for job in jobs]
