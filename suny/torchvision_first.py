"""Lets ``import torchvision`` come before ``import suny``: ``python -m suny.torchvision_first``, once in an environment.

Where torchvision's extension does not load beside this torch (:mod:`suny.torchvision_guard`), a file is put into the
environment's ``site-packages`` that Python reads when it starts (0.1 ms). It imports nothing by itself: when torchvision is
first imported, it has the guard called before. Where ``import torchvision`` works already, nothing is written. Delete the file
to undo it.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

from suny.errors import UserError

FILE = "suny_torchvision.pth"

# One line, as Python wants it: asked for torchvision, it lets suny's guard find it, as long as suny is there.
_LINE = (
    "import sys; sys.meta_path.insert(0, type('_SunyTorchvision', (), {'find_spec': staticmethod(lambda name, path=None, "
    "target=None: __import__('suny.torchvision_guard', fromlist=['find']).find(name, path, target) if name == 'torchvision' "
    "and __import__('importlib.util', fromlist=['find_spec']).find_spec('suny') else None)}))\n"
)


def mend(folder: Path) -> str:
    """Puts the file into a folder that Python reads when it starts, if torchvision can't be imported without it.

    Returns: what was done, in one line.

    Raises:
        UserError: the folder can't be written, or torchvision can't be imported for another reason.
    """
    file = folder / FILE
    if file.exists() and file.read_text(encoding="utf-8") == _LINE:
        return f"{file} is there: torchvision can be imported before suny."
    said = _complaint()
    if not said:
        return "torchvision can be imported before suny: there is nothing to do."
    if "torchvision::nms" not in said:
        raise UserError(f"torchvision can't be imported, and not for want of its extension: {said[-300:]}")
    try:
        file.write_text(_LINE, encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot write {file}: {error.strerror}; import suny before torchvision.") from error
    return f"{file} is written: torchvision can be imported before suny. Delete it to undo this."


def _complaint() -> str:
    """What a new interpreter says when it imports torchvision; nothing where it can."""
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def main() -> int:
    try:
        print(mend(Path(sysconfig.get_path("purelib"))))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
