"""Coverage of the bands of fields: do the values of a much larger budget lie where a map says they do?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy import stats
from torch import Tensor

from experiments.benchmark.common import photograph
from experiments.store.records import writing
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.games.values import Floats
from suny.method.field import FieldExplainer

# the larger budget, over the usual one
LARGER = 10

# suny_semi with fewer coalitions, so that ten times as many are fitted in seconds.
EXPLAINER = FieldExplainer(name="suny_semi", coalitions=96)

_SIDES = ("necessity", "sufficiency")


@dataclass(frozen=True)
class Coverage:
    """A row of the table.

    Args:
        side: the map.
        images: how many were explained.
        tiles: in all of them.
        coalitions: the budget whose bands are judged.
        coverage: the share of tiles whose value with ten times the budget lies in the 95% band.
        band: half of the band's width, mean over tiles, as a fraction of the image's largest value.
    """

    side: str
    images: int
    tiles: int
    coalitions: int
    coverage: float
    band: float


@dataclass(frozen=True, eq=False)
class Tiles:
    """Both sides' tiles of one image, (2, k) each: values, errors, and the values of the larger budget."""

    value: Floats
    error: Floats
    settled: Floats

    @property
    def distance(self) -> Floats:
        """How far the settled values lie from the values, in errors."""
        return np.abs(self.settled - self.value) / self.error


def settled(explainer: FieldExplainer, engine: Engine, images: Iterable[tuple[Tensor, int, int]]) -> list[Tiles]:
    """Explains images with the usual budget and with a larger one, of other coalitions.

    Args:
        explainer: its budget is the usual one.
        engine: runs the network.
        images: each with its class and seed; those that the network gives no probability are left out.
    """
    large = replace(explainer, coalitions=LARGER * explainer.coalitions)
    found = []
    for image, target, seed in images:
        few, many = explainer.fields(engine, image, target, seed), large.fields(engine, image, target, seed + 1)
        if few is not None and many is not None:
            value, error = np.array([fit.drawn([0]) for fit in few.fits]).swapaxes(0, 1)
            found.append(Tiles(value, error, np.array([fit.drawn([0])[0] for fit in many.fits])))
    return found


def coverage(tiles: Sequence[Tiles], coalitions: int) -> list[Coverage]:
    """The rows of the table."""
    bound = stats.norm.ppf(0.975)
    rows = []
    for at, side in enumerate(_SIDES):
        inside = np.concatenate([one.distance[at] <= bound for one in tiles])
        width = float(np.mean([bound * one.error[at].mean() / np.abs(one.value[at]).max() for one in tiles]))
        rows.append(Coverage(side, len(tiles), len(inside), coalitions, float(inside.mean()), width))
    return rows


def draw(tiles: Sequence[Tiles], out: Path) -> None:
    """The share of tiles inside a band, by the probability that the band stands for."""
    figure, axis = plt.subplots(figsize=(4.4, 4.2), layout="constrained")
    levels = np.linspace(0.02, 0.995, 60)
    axis.plot([0, 1], [0, 1], color="tab:gray", linewidth=1, label="exact")
    for at, (side, colour) in enumerate(zip(_SIDES, ("tab:blue", "tab:orange"), strict=True)):
        distance = np.concatenate([one.distance[at] for one in tiles])
        axis.plot(levels, [(distance <= stats.norm.ppf(0.5 + level / 2)).mean() for level in levels], color=colour, label=side)
    axis.axvline(0.95, color="tab:gray", linestyle=":", linewidth=1)
    axis.set(xlabel="probability of the band", ylabel=f"tiles whose value with {LARGER} x the budget is inside")
    axis.legend()
    with writing(out.parent):
        figure.savefig(out, dpi=120)
    plt.close(figure)


def bands(classifier: Classifier, device: torch.device, photographs: int, out: Path | None) -> list[Coverage]:
    """The coverage of the bands on some of the demo's photographs, and its picture."""
    engine = Engine.of(classifier, device)
    images = (photograph(classifier, engine, at) for at in range(photographs))
    tiles = settled(EXPLAINER, engine, ((image[0], int(target), at) for at, (image, target) in enumerate(images)))
    if out is not None:
        draw(tiles, out)
    return coverage(tiles, EXPLAINER.coalitions)
