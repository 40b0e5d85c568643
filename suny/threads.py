"""Thread pools that leave the cores to each other.

A process has several pools: torch's (OpenMP), scikit-learn's (OpenMP too, of its own), and one of OpenBLAS for each of numpy,
scipy and opencv. After a piece of work their threads usually spin while they wait for the next one, on cores that another pool,
or another process, could use; and work that is cut among threads waits for the one that has no core. Two rules keep that small:

- Threads of OpenMP sleep while they wait (:func:`install`).
- Small dense algebra beside the network runs on one thread (:func:`one_thread`): a decomposition hands its work to the pool
  thousands of times, and each time waits for all of it. Its results don't depend on how many threads the machine has, either.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import lru_cache, wraps
from threading import RLock
from typing import ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

P = ParamSpec("P")
R = TypeVar("R")

_limiting = RLock()


def install() -> None:
    """Has the threads of OpenMP sleep while they wait, unless the user has set ``OMP_WAIT_POLICY``.

    The library reads it when it is loaded, so this comes before torch is imported; afterwards it does nothing.
    """
    if "torch" not in sys.modules:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def one_thread(work: Callable[P, R]) -> Callable[P, R]:
    """Decorates a function that runs with one thread in every pool, whatever library it calls.

    All pools, torch's too: where its ``linalg`` runs on the engine's threads instead of numpy's, it waits for them as well.
    OpenBLAS is limited for the whole process, so that one such function runs at a time; OpenMP for the calling thread alone.
    The libraries that the function calls have to be imported before it is called.
    """

    @wraps(work)
    def limited(*arguments: P.args, **keys: P.kwargs) -> R:
        torch = sys.modules.get("torch")  # not imported where nothing else needs it
        if torch is not None:
            torch.get_num_threads()  # the first call in a thread sets the number anew, which would undo the limit
        with _limiting, _pools(len(sys.modules)).limit(limits=1):
            return work(*arguments, **keys)

    return limited


@lru_cache(maxsize=1)
def _pools(_modules: int) -> ThreadpoolController:
    """The pools of the libraries that are loaded; finding them takes 10 ms, so they are sought again after imports only."""
    return ThreadpoolController()
