"""SUNY for any torch classifier, without configuration files or data sets.

from suny import Suny
result = Suny(model, target_layer="layer4", cause="filter")(images, targets)
result.saliency, result.necessity, result.sufficiency       # (B, H, W)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suny import entry
from suny.classifiers.engine import BatchSize, Cost, Engine, Precision
from suny.classifiers.layers import Reshape
from suny.classifiers.outputs import OutputKind, checked_kind
from suny.method.explainer import GameResult, SunyExplainer

# prepared copies of the network, one an image size and device
_KEPT = 2


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

    The network is copied in evaluation mode and float32 when it first meets an image size, so the caller's network keeps its
    mode, hooks and gradients whatever happens; after its weights have changed, make a new object.

    Args:
        model: maps (B, C, H, W) to class values (:func:`suny.classifiers.outputs.class_rows`).
        target_layer: the submodule with the feature maps, its name or itself; None: the last one whose output has places.
        batch_size, precision: of the scoring (:class:`suny.classifiers.engine.Engine`).
        seed: of sampled orders.
        output: what the network's outputs are (:mod:`suny.classifiers.outputs`): ``auto`` (logits of a softmax, or, of a single
            one, of the classes 0 and 1), ``softmax``, ``sigmoid``, ``probability`` or ``logit``.
        reshape: ``tokens``: the target layer may return tokens, which are put at their places.
        **settings: the keys of :class:`suny.method.explainer.SunyExplainer`: ``cause``, ``candidates``, ``k``, ``b``, ...

    Raises:
        UserError: no such layer, or a setting of these that does not exist.
        pydantic.ValidationError: an unknown or wrong setting of the explainer.
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
        self._engines: dict[tuple[torch.device, tuple[int, ...]], tuple[Engine, int]] = {}

    def __call__(self, images: Any, targets: Any = None) -> SunyResult:
        """Explains a batch; an image's explanation does not depend on its batch mates.

        Args:
            images: as the network takes them (normalised), float (B, C, H, W), or of a single one (C, H, W).
            targets: class indices (B,), or one for all; None: the class with the largest p of each image.

        Raises:
            UserError: wrong images or targets, a network or layer that can't be explained, or more players than can be
                enumerated; before any work, and in one line.
        """
        images = entry.checked_images(images)
        engine, classes = self._engine(images)
        chosen = entry.checked_targets(targets, len(images), classes)
        before = engine.cost
        with torch.no_grad():
            if chosen is None:
                chosen = engine.probabilities(images).argmax(1).tolist()
            sides = [
                self.explainer.sides(engine, image, target, self.seed) for image, target in zip(images, chosen, strict=True)
            ]
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

    def _engine(self, images: Tensor) -> tuple[Engine, int]:
        """The engine for images of this shape, and how many classes its network has."""
        key = (images.device, tuple(images.shape[1:]))
        if key not in self._engines:
            network = entry.Network(self.model, images[:1], self.output)
            layer, layout = network.layer(self.target_layer, self.reshape, needed=self.explainer.cause != "region")
            while len(self._engines) >= _KEPT:
                del self._engines[next(iter(self._engines))]
            engine = Engine(
                network.module,
                layer,
                (int(images.shape[-2]), int(images.shape[-1])),
                images.device,
                self.precision,
                self.batch_size,
                reading=network.reading,
                layout=layout,
                probe=network.probe,
            )
            self._engines[key] = engine, network.classes
        return self._engines[key]
