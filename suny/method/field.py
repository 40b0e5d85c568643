"""suny_semi: necessity and sufficiency as two fields over small tiles of the image, semivalues by regression.

Small players show where a cause is, but one of them changes p_c by nothing that can be measured, and sampled marginal
contributions need hundreds of passes per player. Many coalitions of the same image together can be fitted instead:

    E_S(S) ~ c(|S|) + sum over f in S of R(f),      R ~ normal with mean 0 and covariance K

the additive game closest to the coalition values (least-square values: Hammer, Holzman 1992; Ruiz, Valenciano, Zarzuelo
1998), where tiles that lie side by side are expected to have similar values. Coalitions are drawn as RISE draws masks:
blocks of tiles at a random offset, each kept with a probability q that is uniform in [0, 1] (Owen's multilinear form of the
Shapley value), and each coalition with its complement. Keeping S is removing all others, so that every value serves both
games; they weigh it by

    necessity     q^(b - 1)          little removed from the whole image
    sufficiency   (1 - q)^(b - 1)    little shown alone

and the fit by the variance q (1 - q) of a tile too, so that R is the semivalue whose coalition sizes are
beta-binomial(2, b + 1): (q of a necessary cause of an AND: (b + 1) / (b + 3), of an OR: 2 / (b + 3); sufficiency the other
way round). b = 1 on both sides makes them the same map (duality).

The covariance of tiles f and g is a_f a_g exp(-d^2 / 2 l^2), d their distance; the amplitude a is flat, or follows Grad-CAM
with a floor: the network's own evidence of where values may be large. Length l and noise are chosen by the largest
marginal likelihood (Rasmussen, Williams, Gaussian Processes for Machine Learning, 2006, section 5.4).

Several fills, one game. What stands where pixels are removed decides what a value says: blurred pixels keep much of a class,
mean-coloured ones nothing. The coalitions can be shared out among fills a, b, ..., each with a field of its own, and all fields
are fitted at once, since a tile that matters under one fill mostly matters under the other:

    E_a(S) ~ c_a(|S|) + sum over f in S of R_a(f),      cov(R_a(f), R_b(g)) = B_ab k(f, g),      B_aa = 1,  B_ab = rho

(the intrinsic coregionalisation model: Goovaerts, Geostatistics for Natural Resources Evaluation, 1997; Alvarez, Rosasco,
Lawrence, Kernels for Vector-Valued Functions, 2012). With X the coalitions as rows of 0 and 1, A the fill of each, T the
columns of the trends, W the weights, t the prior variance of a trend and v that of the noise, the values' covariance is

    C = s (B_AA * X K X' / m + t T T' + v W^-1),      m the mean of the diagonal of X K X'

(* is elementwise), so that a second fill costs one product on it and one on the covariance of tiles and values,
D_a = s / m B_aA * K X'. The posterior of R_a has the mean D_a C^-1 E, and that of R_a and R_b at one tile the covariance
s / m B_ab k(f, f) - D_a C^-1 D_b'. The overall variance s has a closed form; rho is taken from a grid by the same likelihood
as l and v. rho = 1 is one field with several trends, rho = 0 a fit for each fill alone, but for the common l, v and s.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as nnf

from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.explanation import Explanation, Family, min_max, upsample
from suny.games.values import Floats
from suny.interventions.causes import RegionCauses
from suny.interventions.pixels import Substrate
from suny.later import Later
from suny.method import candidates
from suny.method.explainer import Combine, combine, flags
from suny.threads import one_thread

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = Later("scipy.stats")

# the fill whose field a map is drawn from, or the mean of all fields
Source = Substrate | Literal["all"]

LENGTHS = (1.5, 2.0, 3.0)  # the covariance's choices, tiles
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)  # variance of the noise, over the mean variance that the field gives a value
RHOS = (0.8, 0.0, 0.4, 0.6, 0.95)  # correlation of two fills' fields; the length is chosen at the first one
TREND = 10.0  # prior variance of c's coefficients, on the same scale: wide, so that the data decide
STEP = 96  # coalitions between two looks at the error
LEAST_WEIGHT = 0.01  # a value weighs at least this, over the mean weight: its noise is at most 100 times the mean's


@configured
class FieldExplainer:
    """Two fields over tiles.

    Args:
        name: the NAME of ``method=NAME``.
        tiles: how many lie along a side of the image, one per pixel where it has fewer; the players are tiles x tiles.
        block: how many tiles lie along a side of a block, whose tiles enter and leave together.
        coalitions: how many are scored, in pairs of one and its complement.
        b_n, b_s: b of the semivalue of each side, >= 1.
        fill: the substrate that replaces removed pixels (:func:`suny.interventions.pixels.substrate`); a list of several: each
            has its share of the coalitions and a field of its own, fitted together.
        shares: of several fills, as whole numbers; None: equal.
        rho: correlation of two fills' fields; None: the one with the largest marginal likelihood.
        sides_from: the fill whose field the N and S maps are drawn from, or ``all``: the mean of all fields.
        scalar_from: the same for the scalar map.
        prior: the field's amplitude is ``flat``, or follows Grad-CAM (``cam``).
        floor: the smallest amplitude as a fraction of the largest, where it follows Grad-CAM.
        combine: the scalar map from N and S (:class:`~suny.method.explainer.SunyExplainer`).
        target_error: scoring ends once both sides are known so well: the root mean square of the tiles' posterior standard
            deviations, over that of the values as they may be. 1: nothing is known, 0: all. Asked for after every
            :data:`STEP` coalitions; None: all coalitions are scored.
    """

    name: str = "suny_semi"
    tiles: Annotated[int, Field(ge=2)] = 28
    block: Annotated[int, Field(ge=1)] = 4
    coalitions: Annotated[int, Field(ge=4, multiple_of=2)] = 480
    b_n: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    b_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    fill: Substrate | Annotated[list[Substrate], Field(min_length=1)] = "blur"
    shares: list[Annotated[int, Field(ge=1)]] | None = None
    rho: Annotated[float, Field(ge=0, le=1)] | None = None
    sides_from: Source = "all"
    scalar_from: Source = "all"
    prior: Literal["cam", "flat"] = "cam"
    floor: Annotated[float, Field(gt=0, le=1)] = 0.2
    combine: Combine = "mean"
    target_error: Annotated[float, Field(gt=0, lt=1)] | None = None

    two_sided: ClassVar[bool] = True
    family: ClassVar[Family] = "own"
    # a cell whose identity has none of these was explained with all of them at their defaults
    added: ClassVar[tuple[str, ...]] = ("shares", "rho", "sides_from", "scalar_from", "target_error")

    @model_validator(mode="after")
    def _consistent(self) -> FieldExplainer:
        if self.block > self.tiles:
            raise ValueError(f"block={self.block} is larger than the image of tiles={self.tiles}")
        if len(set(self.fills)) < len(self.fills):
            raise ValueError(f"fill={self.fill} names a fill twice")
        if self.shares is not None and len(self.shares) != len(self.fills):
            raise ValueError(f"shares={self.shares} are {len(self.shares)} for {len(self.fills)} fills: give one for each")
        first = self.coalitions if self.target_error is None else min(self.coalitions, STEP)
        for at in set(range(len(self.fills))) - set(self._fill_of_each(first).tolist()):
            raise ValueError(f"of {first} coalitions none is left for fill={self.fills[at]}: score more, or change the shares")
        for key, chosen in (("sides_from", self.sides_from), ("scalar_from", self.scalar_from)):
            if chosen != "all" and chosen not in self.fills:
                raise ValueError(f"{key}={chosen} is none of the fills: choose {', '.join(self.fills)} or all")
        return self

    @property
    def needs_layer(self) -> bool:
        return self.prior == "cam"

    @property
    def fills(self) -> list[Substrate]:
        """All fills, one or several."""
        return list(self.fill) if isinstance(self.fill, list) else [self.fill]

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); ``seeds`` draw the coalitions."""
        found = [self.fields(engine, x, c, seed) for x, c, seed in zip(images, targets.tolist(), seeds, strict=True)]
        size = int(images.shape[-2]), int(images.shape[-1])

        def maps(which: Source, at: int) -> tuple[Tensor, Tensor]:
            """N and S (at 0), or their errors (at 1), of every image, drawn from some fields."""
            drawn = [[fit.drawn(self._which(which))[at] for fit in one.fits] if one else [np.zeros(1)] * 2 for one in found]
            n, s = (torch.stack([_paint(sides[side], size) for sides in drawn]).to(images.device) for side in (0, 1))
            return n, s

        n, s = maps(self.sides_from, 0)
        n_error, s_error = maps(self.sides_from, 1)
        scalar = combine(*maps(self.scalar_from, 0), self.combine)
        return Explanation(scalar, n, s, [self._numbers(one) for one in found], n_error=n_error, s_error=s_error)

    def fields(self, engine: Engine, image: Tensor, target: int, seed: int) -> Fields | None:
        """The fitted fields of one image (3, H, W); None where p_c(I) is 0."""
        size = int(image.shape[-2]), int(image.shape[-1])
        tiles = min(self.tiles, *size)
        clean = float(engine.score(1, lambda _: image[None], target))
        if clean <= 0:
            return None
        regions = candidates.grid(size, tiles).to(image.device)
        rows, q = draw_coalitions(tiles, min(self.block, tiles), self.coalitions, np.random.default_rng(seed))
        fills = self._fill_of_each(len(rows))
        causes = [RegionCauses(engine, image, target, regions, fill) for fill in self.fills]
        everyone = torch.arange(tiles**2, device=image.device)

        def score(at: int, some: NDArray[np.bool_]) -> Floats:
            """E_S of coalitions under a fill."""
            return causes[at].kept(everyone, torch.from_numpy(some).to(image.device)).double().cpu().numpy() / clean

        amplitude = np.ones(tiles**2)
        if self.prior == "cam":
            amplitude = self.floor + (1 - self.floor) * _grad_cam(engine, image, target, tiles)
        kernels = [amplitude[:, None] * near * amplitude for near in nearness(tiles)]
        size_terms = np.stack([np.ones_like(q), q, q * q], axis=1)
        trend = np.concatenate([(fills == at)[:, None] * size_terms for at in range(len(causes))], axis=1)
        weights = q ** (self.b_n - 1), (1 - q) ** (self.b_s - 1)
        rhos = RHOS if self.rho is None else [self.rho]
        nothing = np.zeros((1, tiles**2), dtype=bool)
        values, empty = np.empty(len(rows)), np.empty(len(causes))
        step = len(rows) if self.target_error is None else STEP
        done = 0
        while True:
            start, done = done, min(done + step, len(rows))
            for at in range(len(causes)):
                new = start + np.flatnonzero(fills[start:done] == at)
                if start == 0:
                    found = score(at, np.concatenate([rows[new], nothing]))
                    values[new], empty[at] = found[:-1], found[-1]
                elif len(new):
                    values[new] = score(at, rows[new])
            n, s = (
                fit_fields(rows[:done], values[:done], trend[:done], kernels, weight[:done], fills[:done], rhos)
                for weight in weights
            )
            error = max(_unknown(*fit.drawn(self._which(self.sides_from))) for fit in (n, s))
            if done == len(rows) or (self.target_error is not None and error <= self.target_error):
                return Fields((n, s), empty, done)

    def _fill_of_each(self, count: int) -> NDArray[np.int64]:
        """The fill of each of so many coalitions, by its place in :attr:`fills`: pairs are not torn apart."""
        return shared_out(count // 2, self.shares or [1] * len(self.fills)).repeat(2)

    def _which(self, drawn_from: Source) -> list[int]:
        """The fields that a map is drawn from."""
        return list(range(len(self.fills))) if drawn_from == "all" else [self.fills.index(drawn_from)]

    def _numbers(self, found: Fields | None) -> dict[str, Any]:
        """The numbers that an image's record carries."""
        if found is None:
            return {"flags": ["p_c(I) is 0"]}
        own = self._which(self.sides_from)
        (n, n_error), (s, s_error) = (fit.drawn(own) for fit in found.fits)
        nothing = float(found.empty[own].mean())
        return {
            "E_N(F_N)": 1 - nothing,
            "E_S(F_S)": 1.0,
            "E_S(empty)": nothing,
            "flags": flags(1 - nothing, nothing, self.b_n == self.b_s == 1),
            "dual": True,
            "rank_correlation": float(stats.spearmanr(n, s).statistic),
            "standard_error": float(max(n_error.max(), s_error.max())),
            "length": [fit.length for fit in found.fits],
            "noise": [fit.noise for fit in found.fits],
            **({"rho": [fit.rho for fit in found.fits]} if len(self.fills) > 1 else {}),
            **({"forwards_saved": self.coalitions - found.coalitions} if self.target_error is not None else {}),
        }


@dataclass(frozen=True, eq=False)
class Fields:
    """The fitted fields of one image.

    Args:
        fits: of the necessity and of the sufficiency game.
        empty: E_S(empty) by fill, (m,).
        coalitions: how many were scored.
    """

    fits: tuple[Fit, Fit]
    empty: Floats
    coalitions: int


@dataclass(frozen=True)
class Fit:
    """Fitted fields, one for each of m fills.

    Args:
        value: R of every tile, float64 (m, k), in the unit of the values.
        covariance: of the fields of two fills at one tile, posterior, float64 (m, m, k).
        length: the length of the covariance, tiles.
        noise: standard deviation of a value of average weight.
        rho: correlation of two fills' fields, prior; 1 for one fill.
        likelihood: logarithm of the marginal likelihood.
    """

    value: Floats
    covariance: Floats
    length: float
    noise: float
    rho: float
    likelihood: float

    def drawn(self, fields: Sequence[int]) -> tuple[Floats, Floats]:
        """Values and their posterior standard deviations, (k,) each, of the mean of some fields."""
        variance = self.covariance[np.ix_(fields, fields)].mean((0, 1))
        return self.value[list(fields)].mean(0), np.sqrt(np.maximum(variance, 0))


def draw_coalitions(tiles: int, block: int, count: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], Floats]:
    """Coalitions of tiles, each followed by its complement.

    Args:
        tiles: how many lie along a side of the image.
        block: how many tiles lie along a side of a block; the blocks' offset is random.
        count: how many coalitions are drawn, even.

    Returns: bool (count, tiles * tiles) in raster order, and the probability with which a tile was in, (count,).
    """
    rows: list[NDArray[np.bool_]] = []
    q: list[float] = []
    blocks = -(-tiles // block) + 1
    for _ in range(count // 2):
        share = rng.uniform()
        y, x = rng.integers(0, block, 2)
        inside = (rng.uniform(size=(blocks, blocks)) < share).repeat(block, 0).repeat(block, 1)
        inside = inside[y : y + tiles, x : x + tiles].ravel()
        rows += [inside, ~inside]
        q += [share, 1 - share]
    return np.stack(rows), np.array(q)


def nearness(tiles: int) -> list[Floats]:
    """exp(-d^2 / 2 l^2) between all tiles for each of :data:`LENGTHS`, float64 (k, k)."""
    along = np.arange(tiles)
    square = (along[:, None] - along) ** 2
    lines = [np.exp(-square / (2 * length**2)) for length in LENGTHS]
    return [np.asarray(np.kron(line, line), dtype=np.float64) for line in lines]


@one_thread
def fit_fields(
    rows: NDArray[np.bool_],
    values: Floats,
    trend: Floats,
    kernels: Sequence[Floats],
    weight: Floats,
    fills: NDArray[np.int64] | None = None,
    rhos: Sequence[float] = RHOS,
) -> Fit:
    """The additive games closest to coalition values, one for each fill, with a prior covariance of players and fills.

    Own code: scikit-learn's BayesianRidge decomposes k columns where the n coalitions would do, which costs as much as the
    passes, and its Gaussian processes choose no noise that differs among values.

    Args:
        rows: coalitions, bool (n, k).
        values: those of the coalitions, (n,).
        trend: columns (n, h) whose coefficients have a wide prior: they depend on the coalitions' size alone, and on the fill.
        kernels: prior covariances (k, k) to choose from, one for each of :data:`LENGTHS`.
        weight: the inverse of each coalition's noise, >= 0, (n,).
        fills: the fill of each coalition, 0..m-1, each at least once, (n,); None: all have the same.
        rhos: correlations of two fills to choose from; kernels are compared at the first one.

    Returns: the posterior under the kernel, noise and correlation with the largest marginal likelihood.
    """
    which = np.zeros(len(rows), dtype=np.int64) if fills is None else fills
    count = int(which.max()) + 1
    design = rows.astype(np.float64)
    root = np.sqrt(np.maximum(weight / weight.mean(), LEAST_WEIGHT))
    y = root * values
    crosses = [design @ kernel for kernel in kernels]
    grams = [cross @ design.T for cross in crosses]

    def choice(at: int, rho: float) -> _Choice:
        """The best noise under a kernel and a correlation."""
        mixing = np.where(np.eye(count, dtype=bool), 1.0, rho)
        mean = np.trace(grams[at]) / len(y)
        gram = mixing[np.ix_(which, which)] * grams[at] / mean
        spectrum, basis = np.linalg.eigh(root[:, None] * (gram + TREND * trend @ trend.T) * root)
        power = (basis.T @ y) ** 2
        best: _Choice | None = None
        for noise in NOISES:
            spread = np.maximum(spectrum, 0) + noise
            scale = float((power / spread).mean())  # the overall variance has a closed form
            likelihood = -len(y) / 2 * np.log(max(scale, np.finfo(float).tiny)) - np.log(spread).sum() / 2
            if best is None or likelihood > best.likelihood:
                best = _Choice(float(likelihood), at, rho, noise, scale, mean, mixing, spread, basis)
        assert best is not None
        return best

    first, *others = rhos if count > 1 else [1.0]
    best = max((choice(at, first) for at in range(len(kernels))), key=lambda one: one.likelihood)
    best = max([best, *(choice(best.at, rho) for rho in others)], key=lambda one: one.likelihood)
    plain = root[:, None] * crosses[best.at] / best.mean
    across = [(best.mixing[a, which][:, None] * plain).T @ best.basis for a in range(count)]  # (k, n) each
    value = np.stack([cross @ ((best.basis.T @ y) / best.spread) for cross in across])
    prior = np.diag(kernels[best.at]) / best.mean
    left = [
        [best.mixing[a, b] * prior - (across[a] * across[b] / best.spread).sum(1) for b in range(count)] for a in range(count)
    ]
    return Fit(
        value,
        np.array(left) * best.scale,
        LENGTHS[best.at],
        float(np.sqrt(best.noise * best.scale)),
        best.rho,
        float(best.likelihood - len(y) / 2 * (np.log(2 * np.pi) + 1) + np.log(root).sum()),
    )


@dataclass(frozen=True, eq=False)
class _Choice:
    """A kernel, correlation and noise, their likelihood up to a constant, and what the posterior needs of them."""

    likelihood: float
    at: int
    rho: float
    noise: float
    scale: float
    mean: float
    mixing: Floats
    spread: Floats
    basis: Floats


def shared_out(count: int, shares: Sequence[int]) -> NDArray[np.int64]:
    """Which of some kinds each thing of a row is, int64 (count,), so that every beginning of the row has about the shares.

    >>> shared_out(6, [2, 1]).tolist()
    [0, 1, 0, 0, 1, 0]
    """
    whole = np.array(shares) / sum(shares)
    given = np.zeros(len(shares))
    kinds = np.empty(count, dtype=np.int64)
    for at in range(count):
        kinds[at] = int(np.argmax(whole * (at + 1) - given))
        given[kinds[at]] += 1
    return kinds


def _grad_cam(engine: Engine, image: Tensor, target: int, tiles: int) -> Floats:
    """Grad-CAM of the target layer on tiles, float64 (k,) in [0, 1]; 1 everywhere where it is constant."""
    activation, gradient = (x[0] for x in engine.activation_gradient(image[None], torch.tensor([target])))
    cam = (gradient.mean((1, 2))[:, None, None] * activation).sum(0).clamp(min=0)
    on_tiles = min_max(upsample(cam[None], (tiles, tiles)))[0].double().cpu().numpy().ravel()
    return on_tiles if on_tiles.any() else np.ones_like(on_tiles)


def _unknown(value: Floats, error: Floats) -> float:
    """The root mean square of the errors over that of the values as they may be, E[R^2] = value^2 + error^2; in [0, 1]."""
    power = float((value**2 + error**2).mean())
    return float(np.sqrt((error**2).mean() / power)) if power > 0 else 0.0


def _paint(value: Floats, size: tuple[int, int]) -> Tensor:
    """A field, (tiles * tiles,), as a map (H, W), >= 0: bicubic between the tiles' centres."""
    tiles = math.isqrt(len(value))
    field = torch.from_numpy(value).float().reshape(1, 1, tiles, tiles)
    return nnf.interpolate(field, size=size, mode="bicubic", align_corners=False)[0, 0].clamp(min=0)
