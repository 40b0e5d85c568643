"""Nothing is ever written into a folder of data: pictures that lie there would be taken for the user's the next time.

Folders of data are those that a configuration or a card names, and those in which the images of a list lie. Whoever reads one
declares it, and :func:`experiments.store.records.writing`, through which all results pass, asks for every folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from suny.errors import UserError

if TYPE_CHECKING:
    from suny.images.dataset import Dataset, ImageList
    from suny.images.filecache import FileCache

# The keys of data sets that name folders.
_KEYS = ("root", "folder")

# The folders of data of this command, symbolic links resolved, by what names them; and those that were found to be none.
_declared: dict[Path, str] = {}
_free: set[Path] = set()


def begin() -> None:
    """A new command: no folder is declared yet."""
    _declared.clear()
    _free.clear()


def declare(folder: str | Path, name: str) -> None:
    """Declares a folder of data.

    Args:
        folder: which need not exist.
        name: what names it, for the message.
    """
    _declared.setdefault(Path(folder).expanduser().resolve(), name)
    _free.clear()


def declare_configured(dataset: Mapping[str, Any]) -> None:
    """Declares the folders that the keys of a data set name."""
    for key in _KEYS:
        if dataset.get(key):
            declare(str(dataset[key]), f"dataset.{key}={dataset[key]}")


def load(dataset: Dataset, cache: FileCache | None = None) -> ImageList:
    """The samples of a data set (:meth:`suny.images.dataset.Dataset.load`), whose folders are declared."""
    images = dataset.load(cache)
    folders = {s.path.parent for s in images.samples} | {s.path.resolve().parent for s in images.samples if s.path.is_symlink()}
    for folder in folders:
        declare(folder, f"the images of dataset '{dataset.name}'")
    return images


def refuse(folder: str | Path, key: str = "") -> None:
    """Raises UserError for a folder, to be written to, that is a folder of data or lies in one.

    Args:
        folder: which need not exist.
        key: that names it, for the message.
    """
    folder = Path(folder)
    if folder in _free:
        return
    place = folder.expanduser().resolve()
    for within in (place, *place.parents):
        if within in _declared:
            raise UserError(
                f"{key}{'=' * bool(key)}{folder} lies in the folder of the data, into which nothing is written "
                f"({_declared[within]}): give another {key or 'results_dir=DIR or out=FILE'}."
            )
    _free.add(folder)
