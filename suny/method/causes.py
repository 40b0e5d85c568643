"""Causes: what an explanation can remove or keep, and the class probability when it does.

An intervention do(S) keeps the causes S and removes the rest. Each kind of cause answers four questions; the explainer
asks no others.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.explanation import upsample
from suny.images.perturb import Substrate, blend, substrate


class Causes(Protocol):
    """The causes of one image and class."""

    @property
    def count(self) -> int:
        """How many causes there are."""
        ...

    def removed(self, players: Tensor, coalitions: Tensor) -> Tensor:
        """p_c when each coalition is removed and everything else is left.

        Args:
            players: which causes play, int64 (k,).
            coalitions: bool (n, k), over the players.

        Returns: float32 (n,).
        """
        ...

    def kept(self, players: Tensor, coalitions: Tensor) -> Tensor:
        """p_c when each coalition is all that is kept; arguments as :meth:`removed`."""
        ...

    def project(self, players: Tensor, values: Tensor) -> Tensor:
        """The signed map (H, W) of the players' values, float32 (k,)."""
        ...


class FeatureCauses:
    """Input features: each feature map A_f of the target layer is an image mask m_f; interventions are on the input.

    m_f is A_f upsampled bilinearly and min-max normalised to [0, 1] afterwards; the mask of a coalition is the maximum of
    its members'. Remove: I * (1 - m), keep: I * m, with a substrate where the image is taken away.

    Args:
        engine: runs the network.
        image: normalised, (3, H, W).
        target: the class c.
        activation: A, (C, h, w).
        fill: what replaces removed pixels.
    """

    def __init__(self, engine: Engine, image: Tensor, target: int, activation: Tensor, fill: Substrate) -> None:
        self.engine = engine
        self.image = image
        self.target = target
        self.activation = activation
        self.background = substrate(image, fill)

    @property
    def count(self) -> int:
        return len(self.activation)

    def varying(self) -> Tensor:
        """Indices of the feature maps that are not constant; the others have no mask. int64, ascending."""
        flat = self.activation.flatten(1)
        return torch.nonzero(flat.amax(1) > flat.amin(1))[:, 0]

    def masks(self, players: Tensor) -> Tensor:
        """m_f of the players, float32 (k, H, W) in [0, 1]."""
        maps = upsample(self.activation[players], self.engine.side)
        low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
        return (maps - low) / (high - low)

    def removed(self, players: Tensor, coalitions: Tensor) -> Tensor:
        return self._score(players, coalitions, keep=False)

    def kept(self, players: Tensor, coalitions: Tensor) -> Tensor:
        return self._score(players, coalitions, keep=True)

    def project(self, players: Tensor, values: Tensor) -> Tensor:
        weighted = (values.to(self.activation)[:, None, None] * self.activation[players]).sum(0)
        return upsample(weighted[None], self.engine.side)[0]  # upsampling is linear: the sum may come first

    def _score(self, players: Tensor, coalitions: Tensor, keep: bool) -> Tensor:
        few = len(players) <= self.engine.batch_size
        ready = self.masks(players) if few else None

        def build(part: slice) -> Tensor:
            rows = coalitions[part]
            if ready is None:  # many players: only the masks that this batch needs
                used = rows.any(0).nonzero()[:, 0]
                members, masks = rows[:, used], self.masks(players[used])
            else:
                members, masks = rows, ready
            cover = self.image.new_zeros(len(rows), *self.image.shape[1:])
            for column, mask in zip(members.unbind(1), masks, strict=True):
                cover[column] = torch.maximum(cover[column], mask)
            return blend(self.image, self.background, cover if keep else 1 - cover)

        return self.engine.score(len(coalitions), build, self.target)
