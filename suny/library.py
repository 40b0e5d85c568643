"""SUNY for any torch classifier, without configuration files or data sets.

from suny import Suny
result = Suny(model, target_layer="layer4", cause="filter")(images, targets)
result.saliency, result.necessity, result.sufficiency       # (B, H, W)
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from suny.classifiers.layers import CHANNELS_FIRST
from suny.classifiers.engine import BatchSize, Cost, Engine, Precision
from suny.errors import UserError, nearest
from suny.method.explainer import Side, SunyExplainer

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

    The network is copied in evaluation mode when it first meets an image size, so the caller's network keeps its mode,
    hooks and gradients whatever happens; after its weights have changed, make a new object.

    Args:
        model: maps (B, 3, H, W) to logits (B, K).
        target_layer: name of the submodule with the feature maps.
        batch_size, precision: of the scoring (:class:`suny.classifiers.engine.Engine`).
        seed: of sampled orders.
        **settings: the keys of :class:`suny.method.explainer.SunyExplainer`: ``cause``, ``candidates``, ``k``, ``b``, ...

    Raises:
        pydantic.ValidationError: an unknown or wrong setting.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: str,
        *,
        batch_size: BatchSize = None,
        precision: Precision = "float32",
        seed: int = 0,
        **settings: Any,
    ) -> None:
        self.explainer = SunyExplainer(**settings)
        self.model = model
        self.target_layer = target_layer
        self.batch_size = batch_size
        self.precision: Precision = precision
        self.seed = seed
        self._engines: dict[tuple[torch.device, tuple[int, int]], Engine] = {}
        names = [name for name, _ in model.named_modules()]
        if target_layer not in names:
            raise UserError(f"target_layer={target_layer} is no module of the network. {nearest(target_layer, names)}")

    def __call__(self, images: Tensor, targets: Tensor) -> SunyResult:
        """Explains a batch; an image's explanation does not depend on its batch mates.

        Args:
            images: as the network takes them (normalised), float (B, 3, H, W).
            targets: class indices (B,).

        Raises:
            UserError: the layer returns no feature map, or more players than can be enumerated.
        """
        engine = self._engine(images)
        before = engine.cost
        with torch.no_grad():
            sides = [
                self.explainer.sides(engine, image, int(target), self.seed)
                for image, target in zip(images.detach().float(), targets, strict=True)
            ]
        necessity = torch.stack([one.necessity_map for one in sides])
        sufficiency = torch.stack([one.sufficiency_map for one in sides])
        device = images.device

        def rows(games: list[Side | None], what: str) -> Tensor:
            values = [torch.from_numpy(getattr(g.estimate, what)).float() if g else torch.zeros(0) for g in games]
            return nn.utils.rnn.pad_sequence(values, batch_first=True).to(device)

        def pairs(games: list[Side | None]) -> Tensor:
            longest = max((len(g.players) for g in games if g), default=0)
            out = torch.zeros(len(games), longest, longest)
            for row, game in zip(out, games, strict=True):
                if game:
                    known, k = game.estimate.interaction, len(game.players)
                    row[:k, :k] = torch.nan if known is None else torch.from_numpy(known)
            return out.to(device)

        def players(games: list[Side | None]) -> Tensor:
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

    def _engine(self, images: Tensor) -> Engine:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        key = (images.device, size)
        if key not in self._engines:
            network = _frozen_copy(self.model)
            shapes = output_shapes(network, size)
            if self.target_layer not in shapes:
                raise UserError(f"target_layer={self.target_layer} does not return a feature map (B, C, h, w).")
            refuse_points(shapes[self.target_layer], f"target_layer={self.target_layer}")
            while len(self._engines) >= _KEPT:
                del self._engines[next(iter(self._engines))]
            self._engines[key] = Engine(network, self.target_layer, size, images.device, self.precision, self.batch_size)
        return self._engines[key]


def _frozen_copy(model: nn.Module) -> nn.Module:
    """A copy on the CPU, in evaluation mode, without gradients."""
    return copy.deepcopy(model).cpu().eval().requires_grad_(False)
