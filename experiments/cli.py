"""What the command-line programs share: one line for a mistake, an exit code for each ending."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from experiments.config import CONF, dotted_keys, explain_hydra, register_torchvision
from suny.errors import UserError

# what a full or forbidden disk answers; Hydra itself writes below results_dir in a sweep
_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENOTDIR, errno.EEXIST}

EXIT_OK, EXIT_MISTAKE, EXIT_STOPPED = 0, 2, 130


def guarded(program: Callable[[], int]) -> int:
    """Runs a program and turns its ending into an exit code; a mistake of the user is one line on stderr."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing and exiting by itself
    register_torchvision(sys.argv[1:])
    try:
        return program()
    except UserError as error:
        complain(error)
        return EXIT_MISTAKE
    except (HydraException, OmegaConfBaseException) as error:
        complain(explain_hydra(error, dotted_keys(composed([]))))
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        return EXIT_STOPPED
    except OSError as error:
        if error.errno not in _DISK:
            raise
        complain(UserError(f"cannot write {error.filename or ''}: {error.strerror}; give another results_dir=DIR."))
        return EXIT_MISTAKE


def complain(error: UserError) -> None:
    print(f"error: {error}", file=sys.stderr, flush=True)


def composed(overrides: list[str]) -> DictConfig:
    """The configuration with overrides, outside a Hydra program."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides)
