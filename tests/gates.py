"""Gates: a test acts on another process at a known place of its work, however fast or busy the machine is.

The process stops before a call that it cannot make without leave; the test waits until it stands there, or has ended. No test
depends on a number of seconds.
"""

from __future__ import annotations

import itertools
import os
import pkgutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# seconds after which what neither answers nor ends is given up as hanging
HANG = 600


@dataclass(frozen=True)
class Gate:
    """A place that a process stops at.

    Args:
        folder: of the gate's own files; created. What starts the process gets it from the test as a path, so that any kind of
            process will do: a child, a job of a launcher, one on another node.
        place: the function before whose call it stops, as ``module:name`` or ``module:class.name``.
        passes: how many calls it makes before.
    """

    folder: Path
    place: str
    passes: int = 0

    def install(self) -> None:
        """Puts the gate into this process."""
        self.folder.mkdir(parents=True, exist_ok=True)
        where, name = self.place.replace(":", ".").rsplit(".", 1)
        owner = pkgutil.resolve_name(where)
        inner, calls = getattr(owner, name), itertools.count()

        def stopped(*arguments: Any, **keys: Any) -> Any:
            if next(calls) == self.passes:
                (self.folder / "arrived").touch()
                while not (self.folder / "opened").exists():
                    time.sleep(0.01)
            return inner(*arguments, **keys)

        setattr(owner, name, stopped)

    def environment(self, only: str = "") -> dict[str, str]:
        """This process's environment, but that every Python started in it has the gate.

        Args:
            only: ``NAME=VALUE``, an environment variable that such a process has to have.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        variable, _, value = only.partition("=")
        (self.folder / "sitecustomize.py").write_text(
            "import os\nfrom pathlib import Path\nfrom tests.gates import Gate\n"
            f"if os.environ.get({variable!r}, '') == {value!r}:\n"
            f"    Gate(Path({str(self.folder)!r}), {self.place!r}, {self.passes}).install()\n"
        )
        paths = [str(self.folder), str(ROOT), os.environ.get("PYTHONPATH")]
        return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def reached(self, running: Callable[[], bool]) -> bool:
        """Waits until a process stands before the gate.

        Args:
            running: whether it still runs.

        Returns: False where it ended without.
        """
        end = time.monotonic() + HANG
        while running():
            if (self.folder / "arrived").exists():
                return True
            assert time.monotonic() < end
            time.sleep(0.01)
        return False

    def open(self) -> None:
        """Gives leave to go on, to all who come."""
        (self.folder / "opened").touch()
