"""The SUNY explainer.

For an image I, a class c and its probability p_c, with do(S) the intervention that keeps the causes S:

    E_N(S) = [p_c(I) - p_c(do(F \\ S))] / p_c(I)      necessity of S: what is lost when S is removed
    E_S(S) = p_c(do(S)) / p_c(I)                      sufficiency of S: what S alone retains

R_N and R_S are the Shapley values of these two games over the candidates F_N and F_S, subsets of the causes. The necessity
map is the linear combination of the feature maps with R_N, the sufficiency map with R_S; both keep the common unit of
p_c(I) and are never scaled separately. Negative parts of a map are cut to 0, as in every class activation map.

Where all causes play on both sides and keeping S is the same intervention as removing the rest, the two games are duals:
v_S(S) = const - v_N(F \\ S). Their Shapley values then coincide and the two maps say the same; the record says so.

Xuan et al., arXiv 2303.00244. What the publication leaves open is a field here; the defaults are the faithful reading.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from suny.classifiers.engine import Engine, NoGradient
from suny.configured import configured
from suny.errors import UserError
from suny.explanation import Explanation, Family
from suny.games.estimators import EXACT_LIMIT, Coalitions, Estimate, Game, exact, sampled
from suny.games.values import Floats
from suny.interventions.causes import Causes, Draw, FeatureCauses, FilterCauses, MaskRule, RegionCauses, varying_channels
from suny.interventions.pixels import Substrate
from suny.later import Later
from suny.method import candidates

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")

# Below and above these an explanation's N or S side rests on a change of p_c that is too small to read (a soft mask that
# removes nothing, or a class that needs no evidence), and the record flags it.
WEAK_NECESSITY = 0.5
HIGH_EMPTY_SUFFICIENCY = 0.1

# Records list the values of so many players at most.
LISTED = 64

Combine = Literal["mean", "max", "product", "harmonic", "necessity", "sufficiency"]
_CANDIDATES = {
    "feature": ("topk", "nmf", "kmeans", "all"),
    "filter": ("topk", "nmf", "kmeans", "all"),
    "region": ("grid", "slic"),
}


@dataclass(frozen=True)
class GameResult:
    """One of the two games: its players (cause indices, int64 (k,)), and their values."""

    players: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class Sides:
    """Both games of one image and their maps.

    Args:
        saliency: the scalar map (H, W), >= 0.
        necessity_map, sufficiency_map: (H, W), >= 0, fractions of p_c(I) times the unit of the maps or masks that they combine.
        n, s: the games; None where there is nothing to explain.
        dual: whether the two games are duals by construction.
        flags: phrases that a reader must know.
        channels: N and S value of every channel, (2, C), where causes are filters.
    """

    saliency: Tensor
    necessity_map: Tensor
    sufficiency_map: Tensor
    n: GameResult | None
    s: GameResult | None
    dual: bool = False
    flags: list[str] = field(default_factory=list)
    channels: Tensor | None = None


@configured
class SunyExplainer:
    """SUNY over input features, filters or image regions.

    Args:
        name: the NAME of ``method=NAME``.
        cause: ``feature``: feature maps are masks, interventions on the input; ``filter``: channels of the target layer,
            interventions on the activation; ``region``: regions of the image, interventions on the input.
        candidates: ``topk``: the k channels with the largest single effects on each side; ``nmf``, ``kmeans``: all channels
            in k groups; ``all``: every channel; regions: ``grid`` of k x k cells, or about k ``slic`` superpixels.
        k: how many candidates there are: see there.
        prescreen: for ``topk``, how many channels have their single effects scored, by
            |pooled gradient * pooled activation|; None scores all.
        mask: the mask of a coalition of features (:class:`suny.interventions.causes.ImageCauses`).
        fill: the substrate that replaces removed pixels (:func:`suny.interventions.pixels.substrate`); filters are replaced
            by ``zero`` or the channel's ``mean``.
        b: the semivalue: 1 is Shapley (published), inf the single effects.
        estimator: ``exact``: all 2^k coalitions, k <= 16; ``sampled``: random orders in antithetic pairs.
        orders, budget, target_error: when sampling stops (:func:`suny.games.estimators.sampled`).
        draw: values drawn by the linear combination of ``feature_maps``, or painted on the players' ``masks``.
        combine: the scalar map from N and S: ``mean``, ``max``, ``product`` (its square root, to keep the unit),
            ``harmonic`` mean, one side alone, or ``shapley``: the mean of what the two maps would be with b = 1, from the same
            coalitions.
    """

    name: str = "suny"
    cause: Literal["feature", "filter", "region"] = "feature"
    candidates: Literal["topk", "nmf", "kmeans", "all", "grid", "slic"] = "topk"
    k: Annotated[int, Field(ge=1)] = 8
    prescreen: Annotated[int, Field(ge=1)] | None = 128
    mask: MaskRule = "max"
    fill: Substrate = "zero"
    b: Annotated[float, Field(gt=0)] = 1.0
    estimator: Literal["exact", "sampled"] = "exact"
    orders: Annotated[int, Field(ge=2)] = 32
    budget: Annotated[int, Field(ge=1)] | None = None
    target_error: Annotated[float, Field(gt=0)] | None = None
    draw: Draw = "feature_maps"
    combine: Combine | Literal["shapley"] = "mean"

    two_sided: ClassVar[bool] = True
    family: ClassVar[Family] = "own"

    @model_validator(mode="after")
    def _consistent(self) -> SunyExplainer:
        fitting = _CANDIDATES[self.cause]
        if self.candidates not in fitting:
            raise ValueError(f"candidates={self.candidates} do not go with cause={self.cause}; choose {' or '.join(fitting)}")
        if self.cause == "filter" and self.fill not in ("zero", "mean"):
            raise ValueError(f"fill={self.fill} is for images; a filter is replaced by zero or its mean")
        players = self.k**2 if self.candidates == "grid" else self.k
        if self.estimator == "exact" and self.candidates != "all" and players > EXACT_LIMIT:
            raise ValueError(f"{players} players are too many for estimator=exact (at most {EXACT_LIMIT}): use sampled")
        return self

    @property
    def needs_layer(self) -> bool:
        return self.cause != "region"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); ``seeds`` draw the orders, where they are sampled."""
        explained = [
            self.sides(engine, image, target, seed) for image, target, seed in zip(images, targets.tolist(), seeds, strict=True)
        ]
        necessity = torch.stack([one.necessity_map for one in explained])
        sufficiency = torch.stack([one.sufficiency_map for one in explained])
        saliency = torch.stack([one.saliency for one in explained])
        channels = [one.channels for one in explained if one.channels is not None]
        return Explanation(
            saliency,
            necessity,
            sufficiency,
            [describe(one) for one in explained],
            torch.stack(channels) if len(channels) == len(explained) else None,
        )

    def sides(self, engine: Engine, image: Tensor, target: int, seed: int) -> Sides:
        """Both games of one image (3, H, W).

        Raises:
            UserError: more players than can be enumerated.
        """
        clean = float(engine.score(1, lambda _: image[None], target))
        if not math.isfinite(clean):
            raise UserError(f"{self.name}: the network returns NaN or infinite outputs for an image.")
        causes, pool = self._causes(engine, image, target)
        if clean <= 0 or len(pool) == 0:
            blank = torch.zeros(image.shape[-2:], device=image.device)
            not_positive = f"p_c(I) is {'0' if clean == 0 else 'negative'}"
            why = not_positive if clean <= 0 else "every feature map is constant"
            return Sides(blank, blank, blank, None, None, flags=[why])
        players, games, dual = self._games(causes, pool, clean)
        sides = [GameResult(who, self._estimate(game, seed)) for who, game in zip(players, games, strict=True)]

        def project(what: str) -> tuple[Tensor, Tensor]:
            n, s = (causes.project(x.players, torch.from_numpy(getattr(x.estimate, what))).clamp(min=0) for x in sides)
            return n, s

        maps = project("value")
        saliency = combine(*project("shapley"), "mean") if self.combine == "shapley" else combine(*maps, self.combine)
        channels = None
        if isinstance(causes, FilterCauses):
            channels = torch.stack([causes.of_channels(x.players, torch.from_numpy(x.estimate.value)) for x in sides])
        notes = flags(sides[0].estimate.full, sides[1].estimate.empty, dual and self.b == 1)
        return Sides(saliency, *maps, sides[0], sides[1], dual, notes, channels)

    def games(self, engine: Engine, image: Tensor, target: int) -> tuple[Game, Game]:
        """The necessity and the sufficiency game of one image (3, H, W), to be asked for any coalition of the players."""
        clean = float(engine.score(1, lambda _: image[None], target))
        return self._games(*self._causes(engine, image, target), clean)[1]

    def _causes(self, engine: Engine, image: Tensor, target: int) -> tuple[Causes, Tensor]:
        """The causes of an image, and which of them may become candidates."""
        size = (int(image.shape[-2]), int(image.shape[-1]))
        causes: Causes
        if self.cause == "region":
            regions = candidates.grid(size, self.k) if self.candidates == "grid" else candidates.superpixels(image, self.k)
            causes = RegionCauses(engine, image, target, regions.to(image.device), self.fill)
            return causes, torch.arange(causes.count, device=image.device)
        activation, gradient = self._activation_gradient(engine, image, target)
        in_groups = self.candidates in ("nmf", "kmeans")
        groups = (
            candidates.group_channels(activation, gradient, self.k, self.candidates)
            if in_groups
            else torch.eye(len(activation), dtype=torch.bool, device=image.device)
        )
        if self.cause == "feature":
            maps = candidates.group_maps(activation, gradient, groups) if in_groups else activation
            causes = FeatureCauses(engine, image, target, maps, self.fill, self.mask, self.draw)
            pool = varying_channels(maps)
        else:
            raw, carried = engine.activations(image[None])
            fill: Literal["zero", "mean"] = "mean" if self.fill == "mean" else "zero"
            causes = FilterCauses(engine, raw[0], carried, target, size, groups, fill)
            pool = torch.arange(causes.count, device=image.device)
        if self.candidates == "topk":
            pool = candidates.prescreen(pool, activation, gradient, self.prescreen)
        return causes, pool

    def _activation_gradient(self, engine: Engine, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
        """The target layer's activation and the gradient by which candidates are chosen, (C, h, w) each.

        Raises:
            NoGradient: the network passes none, and the choice depends on it.
        """
        batch, which = image[None], torch.tensor([target])
        try:
            activation, gradient = (x[0] for x in engine.activation_gradient(batch, which))
        except NoGradient:
            activation = engine.activations(batch)[0][0].float()
            if self.candidates in ("nmf", "kmeans") or self._prescreens(len(activation)):
                raise
            return activation, torch.zeros_like(activation)
        if self._prescreens(len(activation)) and not bool(gradient.any()):
            # the class's logit is fixed, as that of the class 0 of [0, z]: its probability is not
            gradient = engine.activation_gradient(batch, which, "log_probability")[1][0]
        return activation, gradient

    def _prescreens(self, channels: int) -> bool:
        return self.candidates == "topk" and self.prescreen is not None and channels > self.prescreen

    def _players(self, causes: Causes, pool: Tensor, clean: float, keep: bool) -> tuple[Tensor, Floats | None]:
        """The candidates of one side and, where they were needed to find them, their single effects."""
        if self.candidates != "topk":
            return pool, None
        single = effects(causes, pool, clean, keep)(np.eye(len(pool), dtype=bool))
        best = candidates.strongest(torch.from_numpy(single), self.k)
        return pool[best.to(pool.device)], single[best.numpy()]

    def _games(self, causes: Causes, pool: Tensor, clean: float) -> tuple[tuple[Tensor, Tensor], tuple[Game, Game], bool]:
        """Players of both sides, the two games, and whether these are duals, which share every coalition they score."""
        (n_players, n_single), (s_players, s_single) = (self._players(causes, pool, clean, keep) for keep in (False, True))
        players = n_players, s_players
        dual = causes.complementary and len(n_players) == len(s_players) == causes.count
        k = len(s_players)
        sufficiency = Game(k, effects(causes, s_players, clean, keep=True))
        if dual:
            sufficiency.know(np.ones((1, k), dtype=bool), np.ones(1))  # everything kept is the clean image
            return players, (Game(k, lambda c: 1 - sufficiency(~c)), sufficiency), dual
        necessity = Game(len(n_players), effects(causes, n_players, clean, keep=False))
        necessity.know(np.zeros((1, len(n_players)), dtype=bool), np.zeros(1))  # nothing removed is the clean image
        for game, single in ((necessity, n_single), (sufficiency, s_single)):
            if single is not None:
                game.know(np.eye(game.k, dtype=bool), single)
        return players, (necessity, sufficiency), dual

    def _estimate(self, game: Game, seed: int) -> Estimate:
        if self.estimator == "exact":
            if game.k > EXACT_LIMIT:
                raise UserError(
                    f"{self.name}: {game.k} players are too many for estimator=exact (at most {EXACT_LIMIT}): use sampled."
                )
            return exact(game, self.b)
        return sampled(game, self.b, seed=seed, orders=self.orders, budget=self.budget, target_error=self.target_error)


def effects(causes: Causes, players: Tensor, clean: float, keep: bool) -> Any:
    """E_S (keep) or E_N of coalitions of the players, as a function of bool (n, k)."""

    def value(coalitions: Coalitions) -> Floats:
        rows = torch.from_numpy(coalitions).to(players.device)
        p = (causes.kept if keep else causes.removed)(players, rows).double().cpu().numpy()
        return p / clean if keep else (clean - p) / clean

    return value


def combine(n: Tensor, s: Tensor, how: Combine) -> Tensor:
    """The scalar map from the two sides, both >= 0 and in common units; 0 stays 0 in every combination."""
    if how == "necessity":
        return n
    if how == "sufficiency":
        return s
    if how == "max":
        return torch.maximum(n, s)
    if how == "product":
        return (n * s).sqrt()
    if how == "harmonic":
        total = n + s
        return torch.where(total > 0, 2 * n * s / total.clamp(min=torch.finfo(n.dtype).tiny), torch.zeros_like(total))
    return (n + s) / 2


def flags(necessity: float, empty: float, same: bool) -> list[str]:
    """Phrases that a reader of an explanation must know.

    Args:
        necessity: E_N(F_N), the effect of all candidates together.
        empty: E_S(empty).
        same: whether N and S are the same values.
    """
    phrases = []
    if necessity < WEAK_NECESSITY:
        phrases.append(f"E_N(F_N) < {WEAK_NECESSITY}")
    if empty > HIGH_EMPTY_SUFFICIENCY:
        phrases.append(f"E_S(empty) > {HIGH_EMPTY_SUFFICIENCY}")
    if same:
        phrases.append("the two games are duals: N and S have the same values")
    return phrases


def describe(sides: Sides) -> dict[str, Any]:
    """The numbers that an explanation's record carries beside the maps; effects and values are fractions of p_c(I)."""
    n, s = sides.n, sides.s
    if n is None or s is None:
        return {"flags": sides.flags}
    numbers: dict[str, Any] = {
        "E_N(F_N)": n.estimate.full,
        "E_S(F_S)": s.estimate.full,
        "E_S(empty)": s.estimate.empty,
        "flags": sides.flags,
        "dual": sides.dual,
        "rank_correlation": rank_correlation(n, s),
        "standard_error": float(max(n.estimate.error.max(), s.estimate.error.max())),
        "efficiency_residual": max(n.estimate.residual, s.estimate.residual, key=abs),
        "orders": n.estimate.orders,
    }
    for side, one in (("n", n), ("s", s)):
        if len(one.players) <= LISTED:
            numbers[f"{side}_candidates"] = one.players.tolist()
            numbers[f"{side}_values"] = one.estimate.value.tolist()
            numbers[f"{side}_singles"] = one.estimate.single.tolist()
        if one.estimate.interaction is not None and len(one.players) > 1:
            pairs = np.triu_indices(len(one.players), 1)
            numbers[f"{side}_interaction"] = float(one.estimate.interaction[pairs].mean())
    return numbers


def rank_correlation(n: GameResult, s: GameResult) -> float | None:
    """Spearman correlation of the N and S values over the causes that play on both sides; None for fewer than three."""
    of_n = dict(zip(n.players.tolist(), n.estimate.value, strict=True))
    of_s = dict(zip(s.players.tolist(), s.estimate.value, strict=True))
    shared = sorted(set(of_n) & set(of_s))
    values = [[of_n[c] for c in shared], [of_s[c] for c in shared]]
    if len(shared) < 3 or any(len(set(v)) == 1 for v in values):
        return None
    return float(stats.spearmanr(*values).statistic)
