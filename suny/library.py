"""SUNY for any torch classifier, without configuration files or data sets.

from suny import Suny
result = Suny(model, target_layer="layer4", cause="filter")(images, targets)
result.saliency, result.necessity, result.sufficiency       # (B, H, W)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from suny import entry
from suny.api import checked_ids, opened
from suny.classifiers.engine import BatchSize, Cost, Precision
from suny.classifiers.layers import Reshape
from suny.classifiers.outputs import OutputKind, checked_kind
from suny.method.explainer import GameResult, SunyExplainer
from suny.seeds import image_seed


@dataclass(frozen=True)
class SunyResult:
    """Explanations of a batch, on the device of the images, without gradients.

    Args:
        saliency, necessity, sufficiency: maps, float32 (B, H, W), >= 0; N and S in common units.
        n_values, s_values: R_N and R_S, float32 (B, k); fractions of p_c(I). Rows are as long as the longest; 0 beyond.
        n_singles, s_singles: single effects of the same causes.
        n_errors, s_errors: standard errors of the values; 0 where they are exact.
        n_interactions, s_interactions: pairwise Shapley interaction indices, (B, k, k); NaN where values were sampled.
            s > 0 (and n < 0) where a pair is needed together, s < 0 (and n > 0) where either will do.
        n_candidates, s_candidates: the channel, group or region behind each value, int64 (B, k); -1 beyond.
        flags: what a reader must know of each explanation.
        cost: passes through the network that the batch took.

    >>> import torch
    >>> from suny import Suny
    >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    >>> model = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 2))
    >>> result = Suny(model, "1", cause="filter", candidates="all")(torch.rand(1, 3, 32, 32), targets=0)
    >>> result.n_candidates.tolist(), result.forwards > 0
    ([[0, 1, 2, 3]], True)
    """

    saliency: Tensor
    necessity: Tensor
    sufficiency: Tensor
    n_values: Tensor
    s_values: Tensor
    n_singles: Tensor
    s_singles: Tensor
    n_errors: Tensor
    s_errors: Tensor
    n_interactions: Tensor
    s_interactions: Tensor
    n_candidates: Tensor
    s_candidates: Tensor
    flags: list[list[str]]
    cost: Cost

    @property
    def forwards(self) -> int:
        """Passes through the whole network and through its tail."""
        return self.cost.forwards + self.cost.tail_forwards


class Suny:
    """SUNY over a network's input features, filters, or image regions.

    The network is prepared, and the copy kept, as :func:`suny.explain` does it: both share one copy, and have the same maps bit
    for bit for the same settings, classes, seed and ids.

    Args:
        model: maps (B, C, H, W) to class values (:func:`suny.classifiers.outputs.class_rows`).
        target_layer: the submodule with the feature maps, its name or itself; None: the last one whose output has places.
        batch_size, precision: of the scoring (:class:`suny.classifiers.engine.Engine`).
        seed: of the run: sampled orders are drawn from this and the image's id.
        output: what the network's outputs are (:mod:`suny.classifiers.outputs`): ``auto`` (logits of a softmax, or, of a single
            one, of the classes 0 and 1), ``softmax``, ``sigmoid``, ``probability`` or ``logit``.
        reshape: ``tokens``: the target layer may return tokens, which are put at their places.
        **settings: the keys of :class:`suny.method.explainer.SunyExplainer`: ``cause``, ``candidates``, ``k``, ``b``, ...

    Raises:
        UserError: no such layer, or a setting of these that does not exist.
        pydantic.ValidationError: an unknown or wrong setting of the explainer.

    >>> import torch
    >>> from suny import Suny
    >>> from torch.nn import AdaptiveAvgPool2d, Conv2d, Flatten, Linear, ReLU, Sequential
    >>> model = Sequential(Conv2d(3, 4, 3), ReLU(), AdaptiveAvgPool2d(1), Flatten(), Linear(4, 2))
    >>> result = Suny(model, "1", cause="filter", candidates="all")(torch.rand(2, 3, 32, 32), targets=1)
    >>> result.necessity.shape, result.n_values.shape  # the value of each of the layer's four filters
    (torch.Size([2, 32, 32]), torch.Size([2, 4]))
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: str | nn.Module | None = None,
        *,
        batch_size: BatchSize = None,
        precision: Precision = "float32",
        seed: int = 0,
        output: OutputKind = "auto",
        reshape: Reshape | None = None,
        **settings: Any,
    ) -> None:
        self.explainer = SunyExplainer(**settings)
        self.model = entry.checked_network(model)
        self.target_layer = entry.layer_name(self.model, target_layer)
        self.batch_size = entry.checked_batch_size(batch_size)
        self.precision = entry.checked_precision(precision)
        self.seed = seed
        self.output = checked_kind(output)
        self.reshape = entry.checked_reshape(reshape)

    def __call__(self, images: Any, targets: Any = None, ids: Sequence[str] | None = None) -> SunyResult:
        """Explains a batch; an image's explanation does not depend on its batch mates.

        Args:
            images: as the network takes them (normalised), float (B, C, H, W), or of a single one (C, H, W).
            targets: class indices (B,), or one for all; None: the class with the largest p of each image.
            ids: of the images, for their seeds; None: "0", "1", ...

        Raises:
            UserError: wrong images or targets, a network or layer that can't be explained, or more players than can be
                enumerated; before any work, and in one line.
        """
        prepared = opened(
            self.model, images, self.target_layer, self.batch_size, self.precision, self.output, self.reshape,
            needed=self.explainer.cause != "region",
        )  # fmt: skip
        engine, images = prepared.engine, prepared.images
        seeds = [image_seed(self.seed, name) for name in checked_ids(ids, len(images))]
        before = engine.cost
        with torch.no_grad():
            work = zip(images, prepared.classes(targets), seeds, strict=True)
            sides = [engine.fitting(partial(self.explainer.sides, engine, *one)) for one in work]
        necessity = torch.stack([one.necessity_map for one in sides])
        sufficiency = torch.stack([one.sufficiency_map for one in sides])
        device = images.device

        def rows(games: list[GameResult | None], what: str) -> Tensor:
            values = [torch.from_numpy(getattr(g.estimate, what)).float() if g else torch.zeros(0) for g in games]
            return nn.utils.rnn.pad_sequence(values, batch_first=True).to(device)

        def pairs(games: list[GameResult | None]) -> Tensor:
            longest = max((len(g.players) for g in games if g), default=0)
            out = torch.zeros(len(games), longest, longest)
            for row, game in zip(out, games, strict=True):
                if game:
                    known, k = game.estimate.interaction, len(game.players)
                    row[:k, :k] = torch.nan if known is None else torch.from_numpy(known)
            return out.to(device)

        def players(games: list[GameResult | None]) -> Tensor:
            values = [g.players.cpu() if g else torch.zeros(0, dtype=torch.long) for g in games]
            return nn.utils.rnn.pad_sequence(values, batch_first=True, padding_value=-1).to(device)

        n, s = [one.n for one in sides], [one.s for one in sides]
        return SunyResult(
            saliency=torch.stack([one.saliency for one in sides]),
            necessity=necessity,
            sufficiency=sufficiency,
            n_values=rows(n, "value"),
            s_values=rows(s, "value"),
            n_singles=rows(n, "single"),
            s_singles=rows(s, "single"),
            n_errors=rows(n, "error"),
            s_errors=rows(s, "error"),
            n_interactions=pairs(n),
            s_interactions=pairs(s),
            n_candidates=players(n),
            s_candidates=players(s),
            flags=[one.flags for one in sides],
            cost=engine.cost - before,
        )
