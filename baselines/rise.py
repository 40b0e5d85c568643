"""RISE: the average of random masks, each weighted by p_c of the image that it leaves.

    map = 1 / (N p) * sum over i of  p_c(I * M_i) M_i

M_i: a grid of s x s cells, each 1 with probability p, upsampled bilinearly to (s + 1) cells and cropped at a random shift.
Petsiuk, Das, Saenko, "RISE: Randomized Input Sampling for Explanation of Black-box Models", BMVC 2018, eq. 6, section 3.2.
Our own: no library has it on batches of bounded memory with a seed for each image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as nnf

from suny.classifiers.engine import Engine, batches
from suny.configured import configured
from suny.explanation import Explanation
from suny.interventions.pixels import blend


@configured
class Rise:
    """RISE; ``masks`` forward passes per image.

    Args:
        name: the NAME of ``method=NAME``.
        masks: N; the paper has 4000 for VGG16, 8000 for ResNet50.
        cells: s.
        p: probability that a cell stays.
    """

    name: str = "rise"
    masks: Annotated[int, Field(ge=1)] = 4000
    cells: Annotated[int, Field(ge=1)] = 7
    p: Annotated[float, Field(gt=0, le=1)] = 0.5

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); ``seeds`` draw the masks."""
        maps = [
            self._map(engine, image, target, torch.Generator().manual_seed(seed))
            for image, target, seed in zip(images, targets.tolist(), seeds, strict=True)
        ]
        return Explanation(torch.stack(maps))

    def _map(self, engine: Engine, image: Tensor, target: int, generator: torch.Generator) -> Tensor:
        blank = torch.zeros_like(image)
        total = image.new_zeros(image.shape[-2:])
        size = int(image.shape[-2]), int(image.shape[-1])
        draws = draw_masks(self.masks, size, self.cells, self.p, generator)  # all at once, whatever the batch size
        for part in batches(self.masks, engine.batch_size):
            masks = grow_masks(draws[0][part].to(image.device), draws[1][part], size)
            masked = blend(image, blank, masks)
            scores = engine.score(len(masks), masked.__getitem__, target)
            total += torch.einsum("n,nhw->hw", scores, masks)
        return total / (self.masks * self.p)


def draw_masks(count: int, size: tuple[int, int], cells: int, p: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draws the random parts of RISE's masks: grids, bool (count, s, s), and shifts (y, x), int64 (count, 2).

    Args:
        size: (H, W).
        cells, p: see :class:`Rise`.
        generator: draws both.
    """
    grids = torch.rand(count, cells, cells, generator=generator) < p
    shifts = [torch.randint(-(-side // cells), (count,), generator=generator) for side in size]
    return grids, torch.stack(shifts, 1)


def grow_masks(grids: Tensor, shifts: Tensor, size: tuple[int, int]) -> Tensor:
    """The masks of grids: upsampled to s + 1 cells of ceil(side / s) pixels, cropped at the shifts; (n, H, W) in [0, 1]."""
    rows, columns = (
        _enlargement(grids.shape[-1], side, grids.device)[start[:, None] + torch.arange(side, device=grids.device)]
        for start, side in zip(shifts.to(grids.device).T, size, strict=True)
    )
    return rows @ grids.float() @ columns.mT


def _enlargement(cells: int, side: int, device: torch.device) -> Tensor:
    """The share of each pixel that each cell gives, ((s + 1) * ceil(side / s), s): bilinear upsampling has one such matrix
    per axis."""
    length = (cells + 1) * -(-side // cells)
    return nnf.interpolate(torch.eye(cells, device=device)[None], size=length, mode="linear", align_corners=False)[0].T
