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
"""

from __future__ import annotations

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

LENGTHS = (1.5, 2.0, 3.0)  # the covariance's choices, tiles
NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)  # variance of the noise, over the mean variance that the field gives a value
TREND = 10.0  # prior variance of c's coefficients, on the same scale: wide, so that the data decide
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
        fill: the substrate that replaces removed pixels (:func:`suny.interventions.pixels.substrate`).
        prior: the field's amplitude is ``flat``, or follows Grad-CAM (``cam``).
        floor: the smallest amplitude as a fraction of the largest, where it follows Grad-CAM.
        combine: the scalar map from N and S (:class:`~suny.method.explainer.SunyExplainer`).
    """

    name: str = "suny_semi"
    tiles: Annotated[int, Field(ge=2)] = 28
    block: Annotated[int, Field(ge=1)] = 4
    coalitions: Annotated[int, Field(ge=4, multiple_of=2)] = 480
    b_n: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 3.0
    b_s: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    fill: Substrate = "blur"
    prior: Literal["cam", "flat"] = "cam"
    floor: Annotated[float, Field(gt=0, le=1)] = 0.2
    combine: Combine = "mean"

    two_sided: ClassVar[bool] = True
    family: ClassVar[Family] = "own"

    @model_validator(mode="after")
    def _consistent(self) -> FieldExplainer:
        if self.block > self.tiles:
            raise ValueError(f"block={self.block} is larger than the image of tiles={self.tiles}")
        return self

    @property
    def needs_layer(self) -> bool:
        return self.prior == "cam"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        """Explains a batch (:class:`~suny.explanation.Explainer`); ``seeds`` draw the coalitions."""
        explained = [self._one(engine, x, c, seed) for x, c, seed in zip(images, targets.tolist(), seeds, strict=True)]
        n, s = (torch.stack([one[side] for one, _ in explained]) for side in (0, 1))
        return Explanation(combine(n, s, self.combine), n, s, [numbers for _, numbers in explained])

    def _one(self, engine: Engine, image: Tensor, target: int, seed: int) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """N and S map (H, W) of one image, and the numbers that its record carries."""
        size = int(image.shape[-2]), int(image.shape[-1])
        tiles = min(self.tiles, *size)
        clean = float(engine.score(1, lambda _: image[None], target))
        if clean <= 0:
            blank = torch.zeros(size, device=image.device)
            return (blank, blank), {"flags": ["p_c(I) is 0"]}
        regions = candidates.grid(size, tiles).to(image.device)
        causes = RegionCauses(engine, image, target, regions, self.fill)
        rows, q = draw_coalitions(tiles, min(self.block, tiles), self.coalitions, np.random.default_rng(seed))
        nothing = np.zeros((1, tiles**2), dtype=bool)
        asked = torch.from_numpy(np.concatenate([rows, nothing])).to(image.device)
        values = causes.kept(torch.arange(causes.count, device=image.device), asked).double().cpu().numpy() / clean
        amplitude = np.ones(tiles**2)
        if self.prior == "cam":
            cam = _grad_cam(engine, image, target, tiles)
            amplitude = self.floor + (1 - self.floor) * cam
        kernels = [amplitude[:, None] * near * amplitude for near in nearness(tiles)]
        trend = np.stack([np.ones_like(q), q, q * q], axis=1)
        fits = [
            fit_field(rows, values[:-1], trend, kernels, weight) for weight in (q ** (self.b_n - 1), (1 - q) ** (self.b_s - 1))
        ]
        maps = [_paint(fit.value, tiles, size).to(image.device) for fit in fits]
        empty = float(values[-1])
        numbers = {
            "E_N(F_N)": 1 - empty,
            "E_S(F_S)": 1.0,
            "E_S(empty)": empty,
            "flags": flags(1 - empty, empty, self.b_n == self.b_s == 1),
            "dual": True,
            "rank_correlation": float(stats.spearmanr(fits[0].value, fits[1].value).statistic),
            "standard_error": float(max(fit.error.max() for fit in fits)),
            "length": [fit.length for fit in fits],
            "noise": [fit.noise for fit in fits],
        }
        return (maps[0], maps[1]), numbers


@dataclass(frozen=True)
class Fit:
    """A fitted field.

    Args:
        value: R of every tile, float64 (k,), in the unit of the values.
        error: its posterior standard deviation, float64 (k,).
        length: the length of the covariance, tiles.
        noise: standard deviation of a value of average weight.
    """

    value: Floats
    error: Floats
    length: float
    noise: float


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
def fit_field(rows: NDArray[np.bool_], values: Floats, trend: Floats, kernels: Sequence[Floats], weight: Floats) -> Fit:
    """The additive game closest to coalition values, with a prior covariance of its players.

    Own code: scikit-learn's BayesianRidge decomposes k columns where the n coalitions would do, which costs as much as the
    passes.

    Args:
        rows: coalitions, bool (n, k).
        values: those of the coalitions, (n,).
        trend: columns (n, h) whose coefficients have a wide prior: they depend on the coalitions' size alone.
        kernels: prior covariances (k, k) to choose from, one for each of :data:`LENGTHS`.
        weight: the inverse of each coalition's noise, >= 0, (n,).

    Returns: the posterior under the kernel and noise with the largest marginal likelihood.
    """
    design = rows.astype(np.float64)
    root = np.sqrt(np.maximum(weight / weight.mean(), LEAST_WEIGHT))
    y = root * values
    best: tuple[float, int, float, float] | None = None
    crosses, scales, spectra = [], [], []
    for at, kernel in enumerate(kernels):
        crosses.append(design @ kernel)
        gram = crosses[-1] @ design.T
        scales.append(np.trace(gram) / len(y))
        spectra.append(np.linalg.eigh(root[:, None] * (gram / scales[-1] + TREND * trend @ trend.T) * root))
        spectrum, basis = spectra[-1]
        power = (basis.T @ y) ** 2
        for noise in NOISES:
            spread = np.maximum(spectrum, 0) + noise
            scale = float((power / spread).mean())  # the overall variance has a closed form
            likelihood = -len(y) / 2 * np.log(max(scale, np.finfo(float).tiny)) - np.log(spread).sum() / 2
            if best is None or likelihood > best[0]:
                best = likelihood, at, noise, scale
    assert best is not None
    _, at, noise, scale = best
    spectrum, basis = spectra[at]
    spread = np.maximum(spectrum, 0) + noise
    cross = (root[:, None] * crosses[at] / scales[at]).T @ basis  # (k, n)
    value = cross @ ((basis.T @ y) / spread)
    left = np.diag(kernels[at]) / scales[at] - (cross**2 / spread).sum(1)
    return Fit(value, np.sqrt(np.maximum(left, 0) * scale), LENGTHS[at], float(np.sqrt(noise * scale)))


def _grad_cam(engine: Engine, image: Tensor, target: int, tiles: int) -> Floats:
    """Grad-CAM of the target layer on tiles, float64 (k,) in [0, 1]; 1 everywhere where it is constant."""
    activation, gradient = (x[0] for x in engine.activation_gradient(image[None], torch.tensor([target])))
    cam = (gradient.mean((1, 2))[:, None, None] * activation).sum(0).clamp(min=0)
    on_tiles = min_max(upsample(cam[None], (tiles, tiles)))[0].double().cpu().numpy().ravel()
    return on_tiles if on_tiles.any() else np.ones_like(on_tiles)


def _paint(value: Floats, tiles: int, size: tuple[int, int]) -> Tensor:
    """The field as a map (H, W), >= 0: bicubic between the tiles' centres."""
    field = torch.from_numpy(value).float().reshape(1, 1, tiles, tiles)
    return nnf.interpolate(field, size=size, mode="bicubic", align_corners=False)[0, 0].clamp(min=0)
