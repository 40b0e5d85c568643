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
from suny.images.perturb import blend


@configured
class Rise:
    """RISE; ``masks`` forward passes an image.

    Args:
        name: as in ``method=NAME``.
        masks: N; the paper has 4000 for VGG16, 8000 for ResNet50.
        cells: s.
        p: probability that a cell stays.
    """

    name: str = "rise"
    masks: Annotated[int, Field(ge=1)] = 4000
    cells: Annotated[int, Field(ge=1)] = 7
    p: Annotated[float, Field(gt=0, le=1)] = 0.5

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); ``seeds`` are of the masks."""
        maps = [
            self._map(engine, image, target, torch.Generator().manual_seed(seed))
            for image, target, seed in zip(images, targets.tolist(), seeds, strict=True)
        ]
        return Explanation(torch.stack(maps))

    def _map(self, engine: Engine, image: Tensor, target: int, generator: torch.Generator) -> Tensor:
        blank = torch.zeros_like(image)
        total = image.new_zeros(image.shape[-2:])
        for part in batches(self.masks, engine.batch_size):
            count = part.stop - part.start
            masks = random_masks(count, (image.shape[-2], image.shape[-1]), self.cells, self.p, generator).to(image)
            masked = blend(image, blank, masks)
            scores = engine.score(count, masked.__getitem__, target)
            total += torch.einsum("n,nhw->hw", scores, masks)
        return total / (self.masks * self.p)


def random_masks(count: int, size: tuple[int, int], cells: int, p: float, generator: torch.Generator) -> Tensor:
    """RISE's masks, float32 (count, H, W) in [0, 1].

    Args:
        size: (H, W).
        cells, p: see :class:`Rise`.
        generator: of the grids and the shifts.
    """
    cell = [-(-side // cells) for side in size]
    grids = (torch.rand(count, 1, cells, cells, generator=generator) < p).float()
    large = nnf.interpolate(grids, size=[(cells + 1) * c for c in cell], mode="bilinear", align_corners=False)[:, 0]
    shifts = torch.stack([torch.randint(c, (count,), generator=generator) for c in cell], 1).tolist()
    return torch.stack([mask[y : y + size[0], x : x + size[1]] for mask, (y, x) in zip(large, shifts, strict=True)])
