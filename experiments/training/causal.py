"""Training of the networks that know the rules of a world of causal shapes.

The command is :mod:`experiments.train_causal`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as nnf
from tqdm import tqdm

from suny.classifiers.causal_networks import SIDE, VIEW, causal_cnn
from suny.games.values import all_coalitions
from suny.images.scenes import Scene, World, compose, draw_scene

CHECKED = 2000
BATCH = 64
_RATE = 3e-3

# A shape is there if at least this share of its pixels is in sight, and gone if at most this share is.
_THERE, _GONE = 0.6, 0.2


@dataclass(frozen=True)
class Scenes:
    """Many scenes as tensors.

    Args:
        image, background: uint8 (n, 3, side, side).
        owner: index of the shape at each pixel, 0 for none; int64 (n, side, side).
        counts: of shapes, (n,).
        labels: class of each coalition of shapes, int64 (n, 2^most); bit i of the column is shape i.
    """

    image: Tensor
    background: Tensor
    owner: Tensor
    counts: Tensor
    labels: Tensor

    @property
    def most(self) -> int:
        """The largest number of shapes."""
        return int(self.counts.max())

    def label(self, rows: Tensor, there: Tensor) -> Tensor:
        """Classes of scenes (n,) with only some of their shapes there, bool (n, most)."""
        return self.labels[rows, (there.long() << torch.arange(self.most)).sum(1)]


def drawn(world: World, count: int, seed: int, title: str) -> Scenes:
    """Scenes of all classes, of ``none`` twice as many as of each rule."""
    rules = [*world.rules, None, None]
    scenes: list[Scene] = []
    for index in tqdm(range(count), desc=title, unit="scene"):
        rng = np.random.default_rng([seed, index])
        scenes.append(draw_scene(world, compose(world, rules[index % len(rules)], rng), SIDE, rng))
    most = max(len(s.kinds) for s in scenes)
    labels = np.array([_labels(world, s.kinds, most) for s in scenes])

    def pixels(which: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(s, which) for s in scenes])).permute(0, 3, 1, 2).contiguous()

    return Scenes(
        pixels("image"),
        pixels("background"),
        torch.from_numpy(np.stack([s.owner for s in scenes])).long(),
        torch.tensor([len(s.kinds) for s in scenes]),
        torch.from_numpy(labels),
    )


def _labels(world: World, kinds: tuple[str, ...], most: int) -> NDArray[np.int64]:
    """Class of each coalition; shapes that a scene does not have change nothing."""
    of = [world.label(k for k, there in zip(kinds, row, strict=True) if there) for row in all_coalitions(len(kinds))]
    return np.tile(np.array(of, dtype=np.int64), 2 ** (most - len(kinds)))


def shown(scenes: Scenes, rows: Tensor, there: Tensor) -> Tensor:
    """Normalised images of scenes with only some of their shapes, float32 (n, 3, side, side)."""
    visible = torch.cat([torch.ones(len(rows), 1, dtype=torch.bool), there], 1)
    keep = visible.gather(1, scenes.owner[rows].flatten(1)).reshape(len(rows), 1, SIDE, SIDE)
    pixels = torch.where(keep, scenes.image[rows], scenes.background[rows]).float() / 255
    return (pixels - VIEW.mean[0]) / VIEW.std[0]


def intervened(scenes: Scenes, rows: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A training batch: images of which shapes were taken, and of which parts are covered; their classes."""
    n, most = len(rows), scenes.most
    exists = torch.arange(most) < scenes.counts[rows][:, None]
    chance = torch.rand(n, generator=generator)[:, None]
    one = (torch.rand(n, generator=generator) * scenes.counts[rows]).long()[:, None] == torch.arange(most)
    some = torch.rand(n, most, generator=generator) < 0.5
    there = exists & torch.where(chance < 0.3, True, torch.where(chance < 0.75, ~one, torch.where(chance < 0.85, one, some)))
    images = shown(scenes, rows, there)

    cover = _covers(n, generator)
    owner = scenes.owner[rows].flatten(1)
    hidden, size = (torch.zeros(n, most + 1).scatter_add_(1, owner, x.flatten(1)) for x in (cover, torch.ones_like(cover)))
    sight = 1 - (hidden / size.clamp(min=1))[:, 1:]
    surely, perhaps = (scenes.label(rows, there & (sight >= limit)) for limit in (_THERE, _GONE))
    covered = (surely == perhaps) & (torch.rand(n, generator=generator) < 0.4)
    fill = torch.where(
        torch.rand(n, 1, generator=generator) < 0.5, torch.zeros(n, 3), torch.randn(n, 3, generator=generator) * 0.5
    )
    mixed = torch.lerp(images, fill[:, :, None, None].expand_as(images), cover[:, None])
    labels = torch.where(covered, surely, scenes.label(rows, there))
    return torch.where(covered[:, None, None, None], mixed, images), labels


def _covers(n: int, generator: torch.Generator) -> Tensor:
    """Random masks (n, side, side) in [0, 1]: coarse cells that are covered or not, half of them with soft edges."""
    cells = int(torch.randint(3, 9, (1,), generator=generator))
    share = torch.rand(n, 1, 1, 1, generator=generator)
    coarse = (torch.rand(n, 1, cells, cells, generator=generator) < share).float()
    hard = nnf.interpolate(coarse, size=(SIDE, SIDE), mode="nearest")[:, 0]
    soft = nnf.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear", align_corners=False)[:, 0]
    return torch.where(torch.rand(n, 1, 1, generator=generator) < 0.5, hard, soft)


def train(world: World, scenes: Scenes, epochs: int, seed: int) -> nn.Module:
    """A network of a world, in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    network = causal_cnn(len(world.classes), seed).train()
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), _RATE, weight_decay=1e-3)
    steps = len(scenes.image) // BATCH
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=max(epochs * steps, 1))
    with tqdm(total=epochs * steps, desc="training", unit="step") as bar:
        for _ in range(epochs):
            order = torch.randperm(len(scenes.image), generator=generator)
            for rows in order[: steps * BATCH].split(BATCH):
                images, labels = intervened(scenes, rows, generator)
                loss = nnf.cross_entropy(network(images.to(memory_format=torch.channels_last)), labels, label_smoothing=0.005)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                bar.update()
            bar.set_postfix(loss=f"{float(loss.detach()):.3f}")
    return network.eval().requires_grad_(False)


@torch.inference_mode()
def accuracy(network: nn.Module, scenes: Scenes) -> dict[str, tuple[int, int]]:
    """Right images, and how many there are: whole scenes, each shape erased alone, each shape kept alone."""
    one = torch.eye(scenes.most, dtype=torch.bool)
    found = {"clean": (0, 0), "one shape erased": (0, 0), "one shape kept": (0, 0)}
    for rows in torch.arange(len(scenes.image)).split(BATCH):
        exists = torch.arange(scenes.most) < scenes.counts[rows][:, None]
        cases = [("clean", exists, torch.ones(len(rows), dtype=torch.bool))]
        for i in range(scenes.most):
            cases.append(("one shape erased", exists & ~one[i], exists[:, i]))
            cases.append(("one shape kept", exists & one[i], exists[:, i]))
        for name, there, valid in cases:
            if not bool(valid.any()):
                continue
            predicted = network(shown(scenes, rows[valid], there[valid])).argmax(1)
            right = int((predicted == scenes.label(rows[valid], there[valid])).sum())
            found[name] = found[name][0] + right, found[name][1] + int(valid.sum())
    return found
