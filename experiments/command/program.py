"""Runs a command: one line for a mistake, and an exit code for each way to end."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from traceback import walk_tb
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.command import data_folders
from experiments.command.configuration import (
    CONF,
    dotted_keys,
    explain_hydra,
    register_on_request,
    register_torchvision,
)
from experiments.command.folders import forget_own_folder, read_conf_files_here, search_path, take_own_folder
from suny.configured import named
from suny.errors import UserError

# A full disk raises these errors, which name no file.
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EIO}

EXIT_OK, EXIT_DEFECT, EXIT_MISTAKE, EXIT_STOPPED = 0, 1, 2, 130


def guarded(program: Callable[[], int], configuration: str = "config") -> int:
    """Runs a program and turns its ending into an exit code; a mistake of the user is one line on stderr.

    Args:
        program: returns the exit code.
        configuration: the file in ``conf`` whose keys it takes.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting by itself
    data_folders.begin()
    try:
        sys.argv[1:] = take_own_folder(sys.argv[1:])
        register_torchvision(sys.argv[1:])
        register_on_request(sys.argv[1:])
        code = program()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except BrokenPipeError:  # whoever reads the output has read enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing is left to be written at the end
        return EXIT_OK
    except Exception as error:
        known = diagnosis(error, configuration)
        if known is None:
            raise
        if "debug=true" in sys.argv[1:]:
            traceback.print_exc()
        complain(known.line)
        return known.exit_code
    finally:
        forget_own_folder()


@dataclass(frozen=True)
class Diagnosis:
    """An exception as one line, and the exit code that belongs to it."""

    line: str
    exit_code: int


def diagnosis(error: Exception, configuration: str = "config") -> Diagnosis | None:
    """Tells the user's mistake behind an exception, or the place in a class that a configuration names which raised it; None
    where the exception is a defect of what runs these."""
    if said := mistake(error, configuration):
        return Diagnosis(str(said), EXIT_MISTAKE)
    if theirs := in_named_class(error):
        return Diagnosis(theirs, EXIT_DEFECT)
    return None


def in_named_class(error: Exception) -> str | None:
    """Tells which class that a configuration names (a method, metric, data set, network) raised an exception, or called what
    did: the class, the file and the line; None where there is none, so that it is the engine, the store or a command that
    failed."""
    classes = named()
    files = {_file(cls): cls for cls in classes}
    found: Any = None
    place = ""
    for frame, line in walk_tb(error.__traceback__):
        file, made = frame.f_code.co_filename, type(frame.f_locals.get("self"))
        if made in classes:
            found = made
        elif file not in files:
            continue
        elif found is None or _file(found) != file:  # a function beside a class
            found = files[file]
        inherited = "" if _file(found) == file else f" of {_file(found)}"
        place = f"{inherited} ({file}, line {line})"
    if found is None:
        return None
    text = " ".join(str(error).split())
    kind = "class" if isinstance(found, type) else "function"
    return f"{kind} {found.__qualname__}{place}: {type(error).__name__}: {text[:300]}; debug=true shows the traceback."


def _file(cls: Any) -> str:
    return str(getattr(sys.modules[cls.__module__], "__file__", ""))


def mistake(error: Exception, configuration: str = "config") -> UserError | None:
    """An exception as the one line that tells the user's mistake; None where it is a defect of this project."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain_hydra(error, dotted_keys(composed([], configuration)))
    if isinstance(error, RuntimeError) and "Unknown plugin class" in str(error):
        return UserError('this hydra/launcher is not installed: pip install -e ".[cluster]".')
    if isinstance(error, ValueError) and "Config group override" in str(error):
        return UserError("a group cannot be null: choose method=NAME, dataset=NAME, model=NAME, metrics=NAME.")
    if isinstance(error, OSError) and (error.filename is not None or error.errno in _DISK):
        return UserError(f"cannot read or write {error.filename or 'a file'}: {error.strerror}.")
    from suny.classifiers.engine import out_of_memory  # not above: it needs torch, and the mistakes so far are told without it

    if out_of_memory(error):
        return UserError("there is too little memory: give a smaller batch_size=N, or device=cpu.")
    return None


def complain(error: UserError | str) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def composed(overrides: list[str], configuration: str = "config") -> DictConfig:
    """The configuration with overrides, beside a Hydra program that may be running."""
    read_conf_files_here()
    hydra = GlobalHydra.instance()
    running, hydra.hydra = hydra.hydra, None
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            return compose(configuration, [*overrides, *search_path()])
    finally:
        GlobalHydra.instance().hydra = running
