"""The SUNY explainer.

For an image I, a class c and its probability p_c, with do(S) the intervention that keeps the causes S:

    E_N(S) = [p_c(I) - p_c(do(F \\ S))] / p_c(I)      necessity of S: what is lost when S is removed
    E_S(S) = p_c(do(S)) / p_c(I)                      sufficiency of S: what S alone retains

R_N and R_S are the Shapley values of these two games over the candidates F_N and F_S, subsets of the causes. The necessity
map is the linear combination of the feature maps with R_N, the sufficiency map with R_S; both keep the common unit of
p_c(I) and are never scaled separately. Negative parts of a map are cut to 0, as in every class activation map.

Xuan et al., arXiv 2303.00244. What the publication leaves open is a field here; the defaults are the faithful reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation
from suny.images.perturb import Substrate
from suny.method.causes import Causes, FeatureCauses
from suny.method.values import all_coalitions, shapley, singles

# Below/above these an explanation's N or S side rests on a change of p_c too small to read (a soft mask that removes
# nothing, or a class that needs no evidence): flagged in the record.
WEAK_NECESSITY = 0.5
HIGH_EMPTY_SUFFICIENCY = 0.1


@dataclass(frozen=True)
class Side:
    """One of the two games.

    Args:
        players: the candidates (cause indices), int64 (k,).
        single: single effects of the players, float64 (k,), E({f}) - E(empty).
        value: Shapley values, float64 (k,).
        empty, full: E(empty) and E(all candidates).
    """

    players: Tensor
    single: Tensor
    value: Tensor
    empty: float
    full: float


@configured
class Suny:
    """SUNY over input features (feature maps of the target layer as image masks).

    Args:
        name: as in ``method=NAME``.
        cause: ``feature``: interventions on the input image.
        k: candidates on each side, those with the largest single effects; 2^k coalitions are scored on each side.
        prescreen: how many channels have their single effects scored, by |pooled gradient * pooled activation|;
            None scores all.
        fill: what replaces removed pixels (:func:`suny.images.perturb.substrate`).
        combine: the scalar map: ``mean`` of the two sides, or one side alone.
    """

    name: str = "suny"
    cause: Literal["feature"] = "feature"
    k: Annotated[int, Field(ge=1, le=16)] = 8
    prescreen: Annotated[int, Field(ge=1)] | None = 128
    fill: Substrate = "zero"
    combine: Literal["mean", "necessity", "sufficiency"] = "mean"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); exact and deterministic, ``seeds`` are not used."""
        maps, diagnostics = [], []
        for image, target in zip(images, targets.tolist(), strict=True):
            necessity, sufficiency, numbers = self._explain_one(engine, image, target)
            maps.append(torch.stack([necessity, sufficiency]))
            diagnostics.append(numbers)
        necessity, sufficiency = torch.stack(maps).unbind(1)
        saliency = {
            "mean": (necessity + sufficiency) / 2,
            "necessity": necessity,
            "sufficiency": sufficiency,
        }[self.combine]
        return Explanation(saliency, necessity, sufficiency, diagnostics)

    def _explain_one(self, engine: Engine, image: Tensor, target: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        activation, gradient = engine.activation_gradient(image[None], torch.tensor([target]))
        causes = FeatureCauses(engine, image, target, activation[0], self.fill)
        clean = float(engine.score(1, lambda _: image[None], target))
        pool = prescreened(causes.varying(), activation[0], gradient[0], self.prescreen)
        blank = torch.zeros(engine.side, engine.side, device=image.device)
        if clean <= 0 or len(pool) == 0:
            why = "p_c(I) is 0" if clean <= 0 else "every feature map is constant"
            return blank, blank, {"flags": [why], "n_candidates": [], "s_candidates": []}
        necessity = self._side(causes, pool, clean, keep=False)
        sufficiency = self._side(causes, pool, clean, keep=True)
        maps = [causes.project(side.players, side.value).clamp(min=0) for side in (necessity, sufficiency)]
        return maps[0], maps[1], describe(necessity, sufficiency)

    def _side(self, causes: Causes, pool: Tensor, clean: float, keep: bool) -> Side:
        """One game: single effects of the pool, the best k as candidates, all their coalitions, Shapley values."""

        def effect(players: Tensor, coalitions: Tensor) -> Tensor:
            p = (causes.kept if keep else causes.removed)(players, coalitions).double().cpu()
            return p / clean if keep else (clean - p) / clean

        device = pool.device
        single = effect(pool, torch.eye(len(pool), dtype=torch.bool, device=device))
        chosen = torch.argsort(single, descending=True, stable=True)[: self.k]
        players = pool[chosen.to(device)]
        k = len(players)
        coalitions = torch.from_numpy(all_coalitions(k))
        table = torch.empty(2**k, dtype=torch.float64)
        sizes = coalitions.sum(1)
        table[1 << torch.arange(k)] = single[chosen]
        # nothing removed is the clean image; nothing kept has to be scored
        table[0] = effect(players, coalitions[:1].to(device))[0] if keep else 0.0
        table[sizes > 1] = effect(players, coalitions[sizes > 1].to(device))
        return Side(
            players=players,
            single=torch.from_numpy(singles(table.numpy())),
            value=torch.from_numpy(shapley(table.numpy())),
            empty=float(table[0]),
            full=float(table[-1]),
        )


def prescreened(varying: Tensor, activation: Tensor, gradient: Tensor, size: int | None) -> Tensor:
    """The channels whose single effects are worth scoring: the largest |pooled gradient * pooled activation|.

    Args:
        varying: candidate channels, int64 ascending.
        activation, gradient: (C, h, w).
        size: how many to keep; None keeps all.

    Returns: int64 (at most size,), ascending.
    """
    if size is None or len(varying) <= size:
        return varying
    strength = (gradient.mean((1, 2)) * activation.mean((1, 2))).abs()[varying]
    best = torch.argsort(strength, descending=True, stable=True)[:size]
    return varying[best].sort().values


def describe(necessity: Side, sufficiency: Side) -> dict[str, Any]:
    """What an explanation's record carries beside the maps; every number is a fraction of p_c(I)."""
    flags = []
    if necessity.full < WEAK_NECESSITY:
        flags.append(f"E_N(F_N) < {WEAK_NECESSITY}")
    if sufficiency.empty > HIGH_EMPTY_SUFFICIENCY:
        flags.append(f"E_S(empty) > {HIGH_EMPTY_SUFFICIENCY}")
    return {
        "E_N(F_N)": necessity.full,
        "E_S(F_S)": sufficiency.full,
        "E_S(empty)": sufficiency.empty,
        "flags": flags,
        "n_candidates": necessity.players.tolist(),
        "s_candidates": sufficiency.players.tolist(),
        "n_values": necessity.value.tolist(),
        "s_values": sufficiency.value.tolist(),
        "n_singles": necessity.single.tolist(),
        "s_singles": sufficiency.single.tolist(),
    }
