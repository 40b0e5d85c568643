"""Error of sampled Shapley values against exact ones."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from tabulate import tabulate
from tqdm import tqdm

from experiments.benchmark.common import network, photograph
from experiments.store.records import writing
from suny.classifiers.engine import Engine
from suny.games.estimators import Game, exact, sampled
from suny.method.explainer import SunyExplainer


def certificate(out: Path, device: torch.device, k: int = 8, photographs: int = 6, seeds: int = 10) -> str:
    """Error of sampled Shapley values against exact ones, by the number of coalitions that had to be evaluated.

    The games are both of the demo's photographs, by features and by filters. The error is relative, in L2; its median and
    quartiles are over photographs, games and seeds, for plain orders and for antithetic pairs.

    Returns: the medians as a table.
    """
    classifier = network("efficientnet_lite0")
    engine = Engine.of(classifier, device)
    rows = []
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained", sharey=True)
    causes: tuple[Literal["feature", "filter"], ...] = ("feature", "filter")
    for axis, cause in zip(axes, causes, strict=True):
        explainer = SunyExplainer(cause=cause, k=k, prescreen=64)
        games: list[Game] = []
        for at in tqdm(range(photographs), f"exact values, {cause} causes", leave=False):
            image, target = photograph(classifier, engine, at)
            games += explainer.games(engine, image[0], int(target))
        truth = [exact(game).value for game in games]
        for antithetic, colour in ((False, "tab:gray"), (True, "tab:blue")):
            label = "antithetic pairs" if antithetic else "plain orders"
            points = []
            for orders in (4, 8, 16, 32, 64):
                errors, asked = [], []
                for game, known in zip(games, truth, strict=True):
                    for seed in range(seeds):
                        again = Game(k, game)  # it counts for itself, and answers from the table
                        estimate = sampled(again, seed=seed, orders=orders, antithetic=antithetic).value
                        errors.append(np.linalg.norm(estimate - known) / np.linalg.norm(known))
                        asked.append(again.asked)
                points.append((np.mean(asked), *np.quantile(errors, (0.25, 0.5, 0.75))))
                rows.append((cause, label, orders, f"{points[-1][0]:.0f}", f"{points[-1][2]:.4f}"))
            x, low, middle, high = np.array(points).T
            axis.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
            axis.plot(x, middle, "o-", color=colour, label=label)
        axis.set(xscale="log", yscale="log", xlabel=f"coalitions evaluated (of {2**k})", title=f"{cause} causes, k = {k}")
    axes[0].set_ylabel("relative L2 error of the values")
    axes[0].legend()
    with writing(out.parent):
        figure.savefig(out, dpi=120)
    plt.close(figure)
    head = ["causes", "sampling", "orders", f"coalitions evaluated (of {2**k})", "median relative L2 error"]
    return tabulate(rows, head, tablefmt="github", disable_numparse=True)
