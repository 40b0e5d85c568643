"""The files of an image beside its record: a picture, and its maps."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from experiments.store.records import write_atomically, writing
from suny.explanation import ERRORS, SIDES, Explanation

_ARRAYS = (*SIDES, "channels", *ERRORS)
_UNREADABLE = (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class ImageFiles:
    """The files of one image.

    Args:
        stored_maps: where its maps lie if they were ever stored.
        picture: where a picture is wanted; None where none is.
        maps: where maps are wanted; None where they are not.
    """

    stored_maps: Path
    picture: Path | None
    maps: Path | None

    @classmethod
    def of(cls, folder: Path, image: str, picture: bool, maps: bool) -> ImageFiles:
        """The files of an image in a cell's folder."""
        stored = folder / "maps" / f"{image}.npz"
        return cls(stored, folder / "pictures" / f"{image}.png" if picture else None, stored if maps else None)

    @property
    def missing(self) -> bool:
        """Whether one that is wanted is not there."""
        return any(path is not None and not path.exists() for path in (self.picture, self.maps))

    @property
    def has_channels(self) -> bool:
        """Whether values of the channels were stored with the maps."""
        try:
            with np.load(self.stored_maps, allow_pickle=False) as stored:
                return "channels" in stored
        except _UNREADABLE:
            return False

    def write(self, explanation: Explanation, draw: Callable[[Path], None], again: bool) -> None:
        """Writes what is wanted; files that are there stay, unless they are to be written ``again``.

        Args:
            explanation: of the image, a batch of one.
            draw: writes its picture to a file.
            again: whether files that are there are replaced.
        """
        if self.picture is not None and (again or not self.picture.exists()):
            with writing(self.picture.parent):
                self.picture.parent.mkdir(parents=True, exist_ok=True)
                draw(self.picture)
        if self.maps is not None and (again or not self.maps.exists()):
            with writing(self.maps.parent):
                self.maps.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(self.maps, pack_maps(explanation))

    def read_maps(self, diagnostics: dict[str, Any], device: torch.device) -> Explanation | None:
        """The explanation whose maps were stored, bit for bit; None where there is none that can be read.

        Args:
            diagnostics: the explanation's, which its record has.
            device: for its tensors.
        """
        try:
            with np.load(self.stored_maps, allow_pickle=False) as stored:
                arrays = {name: torch.from_numpy(stored[name])[None].to(device) for name in _ARRAYS if name in stored}
        except _UNREADABLE:
            return None
        return Explanation(**arrays, diagnostics=[diagnostics]) if "saliency" in arrays else None


def pack_maps(explanation: Explanation) -> bytes:
    """Maps (H, W) and channel values (2, C) of one image as they are stored: float32 as they were made, compressed."""
    arrays = {name: getattr(explanation, name) for name in _ARRAYS}
    content = io.BytesIO()
    np.savez_compressed(content, **{name: a[0].float().cpu().numpy() for name, a in arrays.items() if a is not None})
    return content.getvalue()
