"""Maps that another tool has made are scored like any method's, without a line of code.

There is one file per image, named by its id (its path below the image folder, without suffix): ``<maps>/<id>.npy``, a 2-D array
over the network's input view (after resize and crop) of any resolution, or ``.npz`` as ``maps=true`` stores them.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.errors import UserError
from suny.explanation import SIDES, Explanation, MissingMap, upsample
from suny.images.dataset import refuse_id

_UNREADABLE = (OSError, ValueError, EOFError, KeyError, MemoryError, zipfile.BadZipFile, zlib.error)


@configured
class Precomputed:
    """Stored maps; no forward pass.

    A map of another resolution is upsampled bilinearly. One with negative values is shifted to start at 0, which keeps
    its order. A missing or misshapen one is counted as a failure.

    Args:
        name: stands in tables and folders; give the tool's own.
        maps: the folder of the maps.
    """

    name: str = "precomputed"
    maps: str | None = None

    @property
    def folder(self) -> Path:
        """The folder of the maps.

        Raises:
            UserError: none is given, or it is not there.
        """
        folder = Path(self.maps or "").expanduser()
        if not self.maps or not folder.is_dir():
            raise UserError(f"method.maps={self.maps} is no folder: give the folder with one .npy per image.")
        return folder

    @property
    def two_sided(self) -> bool:
        for path in sorted(self.folder.rglob("*.npz")):
            try:
                return set(SIDES) <= set(_read(path))
            except _UNREADABLE:
                continue
        return False

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Maps are asked for by image id (:meth:`load`).

        Raises:
            UserError: always.
        """
        raise UserError(f"method '{self.name}' only scores stored maps; it cannot explain an image.")

    def load(self, image: str, like: Tensor) -> Explanation:
        """See :class:`~suny.explanation.StoredMaps`."""
        path = self._file(image)
        if path is None:
            raise MissingMap(f"{self.folder / image}.npy is not there")
        try:
            arrays = _read(path)
        except _UNREADABLE as error:
            raise MissingMap(f"{path}: {error}") from error
        if "saliency" not in arrays or any(a.ndim != 2 or a.size == 0 or a.dtype.kind not in "fiub" for a in arrays.values()):
            raise MissingMap(f"{path} is no 2-D array of numbers")
        maps = {name: fitted(arrays[name], like) for name in SIDES if name in arrays}
        shifted = bool((arrays["saliency"] < 0).any())
        return Explanation(
            maps["saliency"], maps.get("necessity"), maps.get("sufficiency"), [{"shifted": True}] if shifted else []
        )

    def digest(self, images: Sequence[str]) -> str:
        digest = hashlib.sha256()
        for image in images:
            path = self._file(image)
            digest.update(f"{image} {hashlib.sha256(path.read_bytes()).hexdigest() if path else None}".encode())
        return digest.hexdigest()

    def _file(self, image: str) -> Path | None:
        refuse_id(image, f"maps of {self.folder}")  # the id may come from records that somebody else has written
        return next((p for s in (".npy", ".npz") if (p := self.folder / f"{image}{s}").is_file()), None)


def _read(path: Path) -> dict[str, Any]:
    stored = np.load(path, allow_pickle=False)
    if isinstance(stored, np.ndarray):
        return {"saliency": stored}
    with stored:
        return {name: stored[name] for name in SIDES if name in stored}


def fitted(array: Any, like: Tensor) -> Tensor:
    """A foreign map, an array (h, w), as a batch of one (1, H, W) of an image's size, on its device, >= 0."""
    maps = torch.from_numpy(np.asarray(array, dtype=np.float32))[None]
    low = maps[torch.isfinite(maps)].min() if bool(torch.isfinite(maps).any()) else torch.tensor(0.0)
    maps = maps - low.clamp(max=0)
    if maps.shape[1:] != like.shape[-2:]:
        maps = upsample(maps, like.shape[-2:])
    return maps.to(like.device)
