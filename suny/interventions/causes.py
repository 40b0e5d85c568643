"""An explanation can remove or keep causes, and asks for the class probability when it does.

An intervention do(S) keeps the causes S and removes the rest. Each kind of cause answers the same few questions; the
explainer asks no others.

- :class:`FeatureCauses`: feature maps as image masks; interventions on the input
- :class:`RegionCauses`: regions of the image; interventions on the input
- :class:`FilterCauses`: channels of the target layer; interventions on the activation, only the tail runs
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from suny.classifiers.engine import Engine, Output
from suny.classifiers.split import Carried
from suny.explanation import min_max, upsample
from suny.interventions.pixels import Substrate, blend, substrate

MaskRule = Literal["max", "noisy_or", "sum", "partition"]
Draw = Literal["feature_maps", "masks"]


class Causes(Protocol):
    """The causes of one image and class."""

    @property
    def count(self) -> int:
        """How many causes there are."""
        ...

    @property
    def complementary(self) -> bool:
        """Whether keeping some of all causes is the same intervention as removing the others."""
        ...

    def removed(self, players: Tensor, coalitions: Tensor) -> Tensor:
        """p_c when each coalition is removed and everything else is left.

        Args:
            players: the causes that play, int64 (k,).
            coalitions: bool (n, k), over the players.

        Returns: float32 (n,).
        """
        ...

    def kept(self, players: Tensor, coalitions: Tensor) -> Tensor:
        """p_c when each coalition is all that is kept; arguments as :meth:`removed`."""
        ...

    def project(self, players: Tensor, values: Tensor) -> Tensor:
        """The signed map (H, W) of the players' values, (k,)."""
        ...


class ImageCauses:
    """Causes that are masks of the image: remove is I * (1 - m), keep is I * m, with a substrate where it is taken away.

    Args:
        engine: runs the network.
        image: normalised, (3, H, W).
        target: the class c.
        fill: the substrate that replaces removed pixels.
        rule: the mask of a coalition from its members': their maximum; ``noisy_or`` 1 - prod(1 - m); ``sum``, min-max
            normalised; ``partition``: members' share of the sum over all players, so that all together cover everything.
    """

    def __init__(self, engine: Engine, image: Tensor, target: int, fill: Substrate, rule: MaskRule) -> None:
        self.engine = engine
        self.image = image
        self.target = target
        self.background = substrate(image, fill)
        self.rule: MaskRule = rule

    @property
    def complementary(self) -> bool:
        return self.rule == "partition"

    def masks(self, players: Tensor) -> Tensor:
        """m_f of the players, float32 (k, H, W) in [0, 1]."""
        raise NotImplementedError

    def removed(self, players: Tensor, coalitions: Tensor) -> Tensor:
        return self._score(players, coalitions, keep=False)

    def kept(self, players: Tensor, coalitions: Tensor) -> Tensor:
        return self._score(players, coalitions, keep=True)

    def _score(self, players: Tensor, coalitions: Tensor, keep: bool) -> Tensor:
        covers = self._covers(players, coalitions)

        def build(part: slice) -> Tensor:
            cover = covers(part)
            return blend(self.image, self.background, cover if keep else 1 - cover)

        return self.engine.score(len(coalitions), build, self.target)

    def _covers(self, players: Tensor, coalitions: Tensor) -> Callable[[slice], Tensor]:
        """A function of a slice of the coalitions, bool (n, k), that returns the cover of each: (n, H, W) in [0, 1]."""
        together = self.rule == "partition" or len(players) <= self.engine.batch_size
        ready = self.masks(players) if together else None
        if ready is not None and self.rule == "partition":
            ready = shares(ready)
        single = (coalitions.sum(1) == 1).cpu()  # asked once, as this waits for the device

        def covers(part: slice) -> Tensor:
            rows = coalitions[part]
            if ready is not None:
                return union(rows, ready, self.rule)
            if bool(single[part].all()):  # single causes are their own masks
                return self.masks(players[rows.int().argmax(1)])
            used = rows.any(0).nonzero()[:, 0]  # with many players only the masks that this batch needs are made
            return union(rows[:, used], self.masks(players[used]), self.rule)

        return covers


class FeatureCauses(ImageCauses):
    """Feature maps as image masks: m_f is the map upsampled bilinearly, min-max normalised to [0, 1] afterwards.

    Args:
        maps: one for each cause, (n, h, w): channels of the target layer, or groups of them.
        draw: how values become a map: the linear combination of the feature maps (published), or painted on the masks.

    The others are those of :class:`ImageCauses`.
    """

    def __init__(
        self,
        engine: Engine,
        image: Tensor,
        target: int,
        maps: Tensor,
        fill: Substrate = "zero",
        rule: MaskRule = "max",
        draw: Draw = "feature_maps",
    ) -> None:
        super().__init__(engine, image, target, fill, rule)
        self.maps = maps
        self.draw: Draw = draw

    @property
    def count(self) -> int:
        return len(self.maps)

    def masks(self, players: Tensor) -> Tensor:
        return min_max(upsample(self.maps[players], self.image.shape[-2:]))

    def project(self, players: Tensor, values: Tensor) -> Tensor:
        if self.draw == "masks":
            return (values.to(self.maps)[:, None, None] * self.masks(players)).sum(0)
        return combine_maps(self.maps[players], values, self.image.shape[-2:])


class RegionCauses(ImageCauses):
    """Regions that partition the image; values are painted on them.

    Args:
        regions: index of each pixel's region, int64 (H, W), 0..n-1.

    The others are those of :class:`ImageCauses`.
    """

    def __init__(self, engine: Engine, image: Tensor, target: int, regions: Tensor, fill: Substrate = "zero") -> None:
        super().__init__(engine, image, target, fill, "max")
        self.regions = regions
        self.count = int(regions.max()) + 1

    @property
    def complementary(self) -> bool:
        return True

    def masks(self, players: Tensor) -> Tensor:
        return (self.regions[None] == players[:, None, None]).to(self.image.dtype)

    def _covers(self, players: Tensor, coalitions: Tensor) -> Callable[[slice], Tensor]:
        column = torch.full((self.count,), len(players), device=players.device)  # each region's place among the players
        column[players] = torch.arange(len(players), device=players.device)
        of_pixel = column[self.regions]
        rows = torch.cat([coalitions, coalitions.new_zeros(len(coalitions), 1)], 1)  # the last one: no player
        return lambda part: rows[part][:, of_pixel].to(self.image.dtype)

    def project(self, players: Tensor, values: Tensor) -> Tensor:
        of_region = self.image.new_zeros(self.count)
        of_region[players] = values.to(of_region)
        return of_region[self.regions]


class FilterCauses:
    """Channels of the target layer, or groups of them; interventions on the activation run the tail only.

    Args:
        engine: runs the network.
        activation: A, (C, h, w).
        carried: all else that the tail needs of this image.
        target: the class c.
        size: (H, W) of the map.
        groups: bool (n, C): the channels that each cause holds; none is in two groups.
        fill: a removed channel is replaced by 0, or by its own mean.
        output: a coalition is worth p_c, or the class's logit.
    """

    def __init__(
        self,
        engine: Engine,
        activation: Tensor,
        carried: Carried,
        target: int,
        size: tuple[int, int],
        groups: Tensor,
        fill: Literal["zero", "mean"] = "zero",
        output: Output = "probability",
    ) -> None:
        self.engine = engine
        self.activation = activation
        self.carried = carried
        self.target = target
        self.size = size
        self.output: Output = output
        self.groups = groups
        self.owner = torch.where(groups.any(0), groups.int().argmax(0), -1)  # the cause that holds each channel
        self.gone = activation.mean((1, 2), keepdim=True).expand_as(activation) if fill == "mean" else None

    @property
    def count(self) -> int:
        return len(self.groups)

    @property
    def complementary(self) -> bool:
        return bool((self.owner >= 0).all())

    def removed(self, players: Tensor, coalitions: Tensor) -> Tensor:
        return self._score(players, coalitions, keep=False)

    def kept(self, players: Tensor, coalitions: Tensor) -> Tensor:
        return self._score(players, coalitions, keep=True)

    def project(self, players: Tensor, values: Tensor) -> Tensor:
        activation = self.activation.float()  # in bf16 nearly all pixels of a sum would tie
        return combine_maps(activation, self.of_channels(players, values).to(activation), self.size)

    def of_channels(self, players: Tensor, values: Tensor) -> Tensor:
        """The players' values by channel, float32 (C,); 0 where none holds it."""
        held = self.groups[players]
        return (values.to(held.device, torch.float32)[:, None] * held).sum(0)

    def _score(self, players: Tensor, coalitions: Tensor, keep: bool) -> Tensor:
        column = torch.full((self.count + 1,), -1, device=players.device)  # each cause's place among the players
        column[players] = torch.arange(len(players), device=players.device)
        column = column[self.owner]

        def build(part: slice) -> Tensor:
            touched = coalitions[part][:, column] & (column >= 0)  # (n, C)
            stays = (touched if keep else ~touched)[:, :, None, None]
            return self.activation * stays if self.gone is None else torch.where(stays, self.activation, self.gone)

        return self.engine.score_tail(len(coalitions), build, self.carried, self.target, self.output)


def varying_channels(activation: Tensor) -> Tensor:
    """Channels of A (C, h, w) that are not constant; the others have no mask. int64, ascending."""
    flat = activation.flatten(1)
    return torch.nonzero(flat.amax(1) > flat.amin(1))[:, 0]


def union(rows: Tensor, masks: Tensor, rule: MaskRule) -> Tensor:
    """Masks of coalitions.

    Args:
        rows: bool (n, k).
        masks: those of the members, (k, H, W) in [0, 1]; for ``partition`` their shares.
        rule: see :class:`ImageCauses`.

    Returns: (n, H, W) in [0, 1]; the empty coalition covers nothing.
    """
    if rule in ("sum", "partition"):
        cover = torch.einsum("nk,khw->nhw", rows.to(masks.dtype), masks)
        return min_max(cover) if rule == "sum" else cover.clamp(0, 1)
    inside = rows.to(masks.dtype)[:, :, None, None]
    if rule == "noisy_or":
        clear = masks.new_ones(len(rows), *masks.shape[1:])
        for member, mask in zip(inside.unbind(1), masks, strict=True):
            clear *= 1 - member * mask
        return 1 - clear
    cover = masks.new_zeros(len(rows), *masks.shape[1:])
    for member, mask in zip(inside.unbind(1), masks, strict=True):
        torch.maximum(cover, member * mask, out=cover)
    return cover


def shares(masks: Tensor) -> Tensor:
    """A partition of unity from masks (k, H, W): each one's share of their sum; equal shares where all are 0."""
    total = masks.sum(0)
    return torch.where(total > 0, masks / total.clamp(min=1e-12), masks.new_tensor(1 / len(masks)))


def combine_maps(maps: Tensor, values: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
    """The linear combination of upsampled maps (H, W); upsampling is linear, so the sum comes first."""
    return upsample((values.to(maps)[:, None, None] * maps).sum(0)[None], size)[0]
