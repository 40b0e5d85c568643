"""Photographs of ImageNet's classes from two folders, cut once in three parts, so that what was chosen on some images is
measured on others.

Validation images of ILSVRC2012, with boxes, and a folder of class folders, without: a random order by seed, of which the
first are the screen (variants are tried on them), the next the confirmation (few candidates, looked at once), and the rest
a reserve that nobody has looked at.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from suny.configured import Seed, configured
from suny.errors import UserError
from suny.images.dataset import Dataset, ImageList, Sample
from suny.images.filecache import Store
from suny.images.ilsvrc2012 import Ilsvrc2012
from suny.images.imagefolder import ImageFolder


@configured
class Photographs(Dataset):
    """Photographs with ImageNet's labels; other keys as in :class:`~suny.images.dataset.Dataset`.

    Args:
        folder: the folder of class folders, named by WordNet ids; None: looked for below ``root``, as ILSVRC2012 is.
        part: ``screen``, ``confirm``, ``reserve``, or ``all``.
        screen, confirm: how many images these parts have.
        split_seed: of the order that is cut.
    """

    folder: str | None = None
    part: Literal["screen", "confirm", "reserve", "all"] = "screen"
    screen: Annotated[int, Field(ge=1)] = 30
    confirm: Annotated[int, Field(ge=1)] = 60
    split_seed: Seed = 0

    def read(self) -> ImageList:
        boxed = Ilsvrc2012(name=self.name, root=self.root).read()
        plain = ImageFolder(name=self.name, root=self.folder or self.root).read()
        if plain.label_space != "imagenet":
            raise UserError(f"dataset '{self.name}': the class folders of {self.folder or self.root} are no WordNet ids.")
        samples = sorted((*boxed.samples, *plain.samples), key=lambda s: s.image)
        order = np.random.default_rng(self.split_seed).permutation(len(samples))
        first, second = self.screen, self.screen + self.confirm
        cut = {"screen": order[:first], "confirm": order[first:second], "reserve": order[second:], "all": order}[self.part]
        if not len(cut):
            raise UserError(f"dataset '{self.name}' has {len(samples)} images: none is left for dataset.part={self.part}.")
        said = f"{len(cut)} of {len(samples)} photographs are the part '{self.part}', drawn by dataset.split_seed"
        notes = (*boxed.notes, *plain.notes, said)
        return replace(boxed, samples=tuple(samples[i] for i in sorted(cut)), notes=notes)

    def annotate(self, sample: Sample, files: Store) -> Sample:
        return Ilsvrc2012(name=self.name, root=self.root).annotate(sample, files) if sample.where else sample

    def _checked(self, sample: Sample, needs_box: bool, files: Store) -> Sample:
        return super()._checked(sample, needs_box and bool(sample.where), files)  # only ILSVRC2012's are annotated
