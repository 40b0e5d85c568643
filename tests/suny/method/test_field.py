"""Fields over tiles: the drawn coalitions, the fit against scikit-learn and scipy, values derived by hand, the explainer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, Kernel
from sklearn.linear_model import Ridge
from torch.nn import functional as nnf

from suny.classifiers.engine import Engine
from suny.explanation import Explanation
from suny.method import field
from suny.method.field import (
    LEAST_WEIGHT,
    LENGTHS,
    NOISES,
    RHOS,
    STEP,
    TREND,
    FieldExplainer,
    draw_coalitions,
    fit_fields,
    nearness,
    shared_out,
)
from tests.conftest import Weighted, engine_for, noise


@settings(max_examples=25)
@given(st.integers(2, 9), st.data(), st.integers(0, 2**31))
def test_coalitions_are_blocks_and_their_complements(tiles: int, data: st.DataObject, seed: int) -> None:
    block = data.draw(st.integers(1, tiles))
    rows, q = draw_coalitions(tiles, block, 8, np.random.default_rng(seed))
    assert rows.shape == (8, tiles**2)
    assert (rows[0::2] == ~rows[1::2]).all()
    assert q[0::2] + q[1::2] == pytest.approx(1)
    for row in rows.reshape(8, tiles, tiles):
        # a change along a line is at a border of blocks: all of one line lie a multiple of the block apart
        for along in (row, row.T):
            edges = np.flatnonzero((along[:, 1:] != along[:, :-1]).any(0))
            assert len(set(edges % block)) <= 1


def test_nearness_is_the_covariance_of_all_pairs() -> None:
    near = nearness(3)[0]
    assert near[0, 8] == pytest.approx(np.exp(-(2**2 + 2**2) / (2 * LENGTHS[0] ** 2)), rel=1e-12)
    assert near[1, 3] == pytest.approx(np.exp(-(1 + 1) / (2 * LENGTHS[0] ** 2)), rel=1e-12)
    assert (np.diag(near) == 1).all()


def problem(n: int = 60, k: int = 9) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    rows = rng.uniform(size=(n, k)) < 0.5
    q = rows.mean(1)
    values = rows @ rng.normal(size=k) + 0.3 + q**2 + 0.2 * rng.normal(size=n)
    return rows, values, np.stack([np.ones(n), q, q * q], 1), rng.uniform(0.5, 1.5, n)


def test_the_fit_is_ridge_regression_where_players_are_independent() -> None:
    rows, values, trend, weight = problem()
    fit = fit_fields(rows, values, trend, [np.eye(9)], weight)
    scale = (rows.sum(1)).mean()  # the mean variance that the field gives a value
    weight = weight / weight.mean()

    def ridge(noise: float) -> np.ndarray:
        features = np.c_[rows / np.sqrt(scale), np.sqrt(TREND) * trend]
        return Ridge(alpha=noise, fit_intercept=False, tol=1e-12).fit(features, values, weight).coef_[:9] / np.sqrt(scale)

    assert any(fit.value[0] == pytest.approx(ridge(noise), rel=1e-7, abs=1e-9) for noise in NOISES)


def test_length_and_noise_have_the_largest_marginal_likelihood() -> None:
    rows, values, trend, weight = problem()
    kernels = nearness(3)
    fit = fit_fields(rows, values, trend, kernels, weight)
    precision = weight / weight.mean()

    def best_of(at: int, noise: float) -> tuple[float, float]:
        gram = rows.astype(float) @ kernels[at] @ rows.T
        shape = gram / (np.trace(gram) / 60) + TREND * trend @ trend.T + noise * np.diag(1 / precision)
        scale = values @ np.linalg.solve(shape, values) / 60  # where the likelihood is largest
        return multivariate_normal(np.zeros(60), scale * shape).logpdf(values), np.sqrt(noise * scale)

    found = {(length, noise): best_of(at, noise) for at, length in enumerate(LENGTHS) for noise in NOISES}
    (length, _), (_, deviation) = max(found.items(), key=lambda item: item[1][0])
    assert fit.length == length
    assert fit.noise == pytest.approx(deviation, rel=1e-6)
    assert fit.likelihood == pytest.approx(max(one[0] for one in found.values()), rel=1e-9)


@pytest.mark.parametrize("b", [1.0, 3.0])
def test_necessity_and_sufficiency_of_and_and_or(b: float) -> None:
    """Of two players of an AND the other one has to be there: by the semivalue's weights with probability (b + 1) / (b + 3)
    where little is removed, 2 / (b + 3) where little is shown; of an OR the other one has to be missing."""
    rng = np.random.default_rng(0)
    q = rng.uniform(size=40000).repeat(2)
    q[1::2] = 1 - q[0::2]
    rows = rng.uniform(size=(len(q), 2)) < q[:, None]
    games = {"and": rows.all(1).astype(float), "or": rows.any(1).astype(float)}
    likely, unlikely = (b + 1) / (b + 3), 2 / (b + 3)
    want = {("and", "n"): likely, ("and", "s"): unlikely, ("or", "n"): unlikely, ("or", "s"): likely}
    trend = np.stack([np.ones_like(q), q, q * q], 1)
    for (game, side), expected in want.items():
        root = np.sqrt((q if side == "n" else 1 - q) ** (b - 1))
        # the fit without a prior: weighted least squares, of which fit_fields() is the penalised form
        values = np.linalg.lstsq(root[:, None] * np.c_[rows, trend], root * games[game], rcond=None)[0][:2]
        assert values == pytest.approx([expected] * 2, abs=0.02)


def test_standard_errors_shrink_with_the_coalitions() -> None:
    rows, values, trend, weight = problem(240)
    kernels = nearness(3)
    few = fit_fields(rows[:30], values[:30], trend[:30], kernels, weight[:30])
    many = fit_fields(rows, values, trend, kernels, weight)
    errors = [one.drawn([0])[1] for one in (few, many)]
    assert errors[1].max() < errors[0].max()
    assert (errors[1] > 0).all()


def test_one_fill_is_fitted_as_ever() -> None:
    """The fit of one field, written down without fills: the same numbers, bit for bit."""
    rows, values, trend, weight = problem()
    kernels = nearness(3)
    fit = fit_fields(rows, values, trend, kernels, weight)
    design, root = rows.astype(np.float64), np.sqrt(np.maximum(weight / weight.mean(), LEAST_WEIGHT))
    best = None
    for kernel in kernels:
        cross = design @ kernel
        gram = cross @ design.T
        mean = np.trace(gram) / len(values)
        spectrum, basis = np.linalg.eigh(root[:, None] * (gram / mean + TREND * trend @ trend.T) * root)
        power = (basis.T @ (root * values)) ** 2
        for variance in NOISES:
            spread = np.maximum(spectrum, 0) + variance
            scale = float((power / spread).mean())
            likelihood = -len(values) / 2 * np.log(scale) - np.log(spread).sum() / 2
            if best is None or likelihood > best[0]:
                best = likelihood, kernel, spread, scale, basis, (root[:, None] * cross / mean).T @ basis, mean
    assert best is not None
    _, kernel, spread, scale, basis, across, mean = best
    value, error = fit.drawn([0])
    assert np.array_equal(value, across @ ((basis.T @ (root * values)) / spread))
    assert np.array_equal(error, np.sqrt(np.maximum(np.diag(kernel) / mean - (across**2 / spread).sum(1), 0) * scale))
    assert fit.rho == 1


def fills_problem(n: int = 60) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Two fills whose games are alike: the same players, the second one's effects smaller, and trends apart."""
    rows, values, trend, weight = problem(n)
    fills = shared_out(n, [2, 1])
    values = np.where(fills == 0, values, 0.6 * values + 0.1)
    return rows, values, np.concatenate([(fills == a)[:, None] * trend for a in (0, 1)], 1), weight, fills


def dense(
    rows: np.ndarray, trend: np.ndarray, kernel: np.ndarray, weight: np.ndarray, fills: np.ndarray, rho: float, noise: float
) -> tuple[np.ndarray, np.ndarray]:
    """Covariances, up to the scale, of the values (n, n), and of the tiles of both fills with the values (2 k, n): written
    down for all 2 k effects at once, of which the values are sums."""
    k = rows.shape[1]
    effects = np.kron([[1.0, rho], [rho, 1.0]], kernel)
    summed = np.zeros((len(rows), 2 * k))
    for at, fill in enumerate(fills):
        summed[at, fill * k : (fill + 1) * k] = rows[at]
    mean = np.trace(summed @ effects @ summed.T) / len(rows)
    of_values = summed @ effects @ summed.T / mean + TREND * trend @ trend.T + noise * np.diag(weight.mean() / weight)
    return of_values, effects @ summed.T / mean


def test_two_tiles_and_two_fills_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tile 1 alone under fill 0 is worth 1, tile 2 alone under fill 1 is worth 2, no trend; k = [[1, 0], [0, 1]], noise v = 1.
    The two values have the covariance B * K + v = [[2, 0], [0, 2]], as tiles 1 and 2 are independent. So R_0(1) = 1 / 2,
    R_1(1) = rho / 2, R_1(2) = 2 / 2, R_0(2) = 2 rho / 2, in units of s = mean(1 / 2, 4 / 2) = 5 / 4."""
    monkeypatch.setattr(field, "NOISES", (1.0,))
    fit = fit_fields(
        np.eye(2, dtype=bool), np.array([1.0, 2.0]), np.zeros((2, 1)), [np.eye(2)], np.ones(2), np.array([0, 1]), [0.6]
    )
    assert fit.value == pytest.approx(np.array([[0.5, 0.6], [0.3, 1.0]]))
    # variances: s (1 - 1 / 2) where a tile was seen, s (1 - rho^2 / 2) where the other fill saw it; covariances: s rho / 2
    assert np.diagonal(fit.covariance[:, :, 0]) == pytest.approx(np.array([0.5, 0.82]) * 1.25)
    assert np.diagonal(fit.covariance[:, :, 1]) == pytest.approx(np.array([0.82, 0.5]) * 1.25)
    assert fit.covariance[0, 1] == pytest.approx(np.array([0.3, 0.3]) * 1.25)
    value, error = fit.drawn([0, 1])
    assert value == pytest.approx(np.array([0.4, 0.8]))
    assert error == pytest.approx(np.sqrt(np.array([(0.5 + 0.82 + 2 * 0.3) / 4] * 2) * 1.25))
    # log N(1; 0, 2 s) + log N(2; 0, 2 s)
    assert fit.likelihood == pytest.approx(-np.log(2 * np.pi * 2.5) - (1 + 4) / (2 * 2.5))
    assert fit.noise == pytest.approx(np.sqrt(1.25))


def test_the_fit_of_two_fills_is_the_normal_distribution_s(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mean, covariance and likelihood against scipy's multivariate normal, conditioned by hand."""
    rows, values, trend, weight, fills = fills_problem()
    kernels = nearness(3)
    fit = fit_fields(rows, values, trend, kernels, weight, fills)

    def likelihood(length: float, rho: float, noise: float) -> float:
        shape, _ = dense(rows, trend, kernels[LENGTHS.index(length)], weight, fills, rho, noise)
        scale = values @ np.linalg.solve(shape, values) / len(values)
        return multivariate_normal(np.zeros(len(values)), scale * shape).logpdf(values)

    lengths = {(length, noise): likelihood(length, RHOS[0], noise) for length in LENGTHS for noise in NOISES}
    length = max(lengths, key=lambda key: lengths[key])[0]
    found = {(rho, noise): likelihood(length, rho, noise) for rho in RHOS for noise in NOISES}
    rho, noise = max(found, key=lambda key: found[key])
    assert (fit.length, fit.rho) == (length, rho)
    assert fit.likelihood == pytest.approx(found[rho, noise], rel=1e-9)
    kernel = kernels[LENGTHS.index(length)]
    shape, cross = dense(rows, trend, kernel, weight, fills, rho, noise)
    scale = values @ np.linalg.solve(shape, values) / len(values)
    assert fit.value.ravel() == pytest.approx(cross @ np.linalg.solve(shape, values), rel=1e-6, abs=1e-9)
    mean = np.trace(rows @ kernel @ rows.T.astype(float)) / len(rows)
    prior = np.kron([[1.0, rho], [rho, 1.0]], kernel) / mean
    posterior = scale * (prior - cross @ np.linalg.solve(shape, cross.T)).reshape(2, 9, 2, 9)
    for a in (0, 1):
        for b in (0, 1):
            assert fit.covariance[a, b] == pytest.approx(np.diagonal(posterior[a, :, b]), rel=1e-6, abs=1e-12)


class Coalitions(Kernel):
    """Scikit-learn's kernel of (fill, coalition): the sum over their tiles of its own RBF kernel, times B."""

    def __init__(self, rho: float, mean: float, length: float) -> None:
        self.rho, self.mean, self.length = rho, mean, length

    def __call__(self, x: np.ndarray, y: np.ndarray | None = None, eval_gradient: bool = False) -> np.ndarray:
        y = x if y is None else y
        places = np.array([[i, j] for i in range(3) for j in range(3)])
        mixing = np.where(x[:, :1] == y[:, 0], 1.0, self.rho)
        return mixing * (x[:, 1:] @ RBF(self.length)(places) @ y[:, 1:].T) / self.mean

    def diag(self, x: np.ndarray) -> np.ndarray:
        return np.diagonal(self(x))

    def is_stationary(self) -> bool:
        return False


def test_the_fit_of_two_fills_is_a_gaussian_process_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, values, _, weight, fills = fills_problem()
    monkeypatch.setattr(field, "NOISES", (0.3,))
    fit = fit_fields(rows, values, np.zeros((60, 1)), nearness(3)[:1], weight, fills, [0.65])
    mean = np.trace(rows @ nearness(3)[0] @ rows.T.astype(float)) / 60
    seen = np.c_[fills, rows].astype(float)
    tiles = np.concatenate([np.c_[np.full(9, fill), np.eye(9)] for fill in (0, 1)])
    noise = 0.3 * weight.mean() / weight
    scale = values @ np.linalg.solve(Coalitions(0.65, mean, LENGTHS[0])(seen) + np.diag(noise), values) / 60
    kernel = ConstantKernel(scale) * Coalitions(0.65, mean, LENGTHS[0])
    process = GaussianProcessRegressor(kernel, alpha=scale * noise, optimizer=None).fit(seen, values)
    value, deviation = process.predict(tiles, return_std=True)
    assert fit.value.ravel() == pytest.approx(value, rel=1e-6, abs=1e-9)
    assert np.sqrt([fit.covariance[0, 0], fit.covariance[1, 1]]).ravel() == pytest.approx(deviation, rel=1e-5)
    assert fit.likelihood == pytest.approx(process.log_marginal_likelihood_value_, rel=1e-9)


def test_fields_that_are_one_are_fitted_as_one() -> None:
    rows, values, trend, weight = problem()
    one = fit_fields(rows, values, trend, nearness(3), weight)
    two = fit_fields(rows, values, trend, nearness(3), weight, shared_out(60, [2, 1]), [1.0])
    assert two.value[0] == pytest.approx(one.value[0], rel=1e-9)
    assert two.value[1] == pytest.approx(one.value[0], rel=1e-9)
    assert two.drawn([0, 1])[1] == pytest.approx(one.drawn([0])[1], rel=1e-6)
    assert (two.likelihood, two.noise, two.length) == (pytest.approx(one.likelihood), pytest.approx(one.noise), one.length)


def test_fields_that_have_nothing_in_common_are_fitted_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same coalitions of both fills, so that the normalisation is the same too."""
    monkeypatch.setattr(field, "NOISES", (0.3,))
    rows, values, trend, weight = problem()
    other = np.random.default_rng(8).normal(size=60)
    apart = [fit_fields(rows, v, trend, nearness(3)[:1], weight) for v in (values, other)]
    twice, fills = np.r_[rows, rows], np.repeat([0, 1], 60)
    trends = np.concatenate([(fills == a)[:, None] * np.r_[trend, trend] for a in (0, 1)], 1)
    both = fit_fields(twice, np.r_[values, other], trends, nearness(3)[:1], np.r_[weight, weight], fills, [0.0])
    for a in (0, 1):
        assert both.value[a] == pytest.approx(apart[a].value[0], rel=1e-6, abs=1e-10)
    assert both.covariance[0, 1] == pytest.approx(np.zeros(9), abs=1e-12)


@given(st.integers(1, 60), st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_every_beginning_of_a_row_has_the_shares(count: int, shares: list[int]) -> None:
    kinds = shared_out(count, shares)
    for at in range(1, count + 1):
        for kind, share in enumerate(shares):
            assert abs((kinds[:at] == kind).sum() - at * share / sum(shares)) <= len(shares) - 1
    whole = count // sum(shares) * sum(shares)
    assert [(kinds[:whole] == kind).sum() * sum(shares) for kind in range(len(shares))] == [whole * share for share in shares]


METHOD = FieldExplainer(name="field", tiles=8, block=2, coalitions=64)


def test_the_cost_is_what_the_conf_file_says(small_engine: Engine) -> None:
    before = small_engine.cost
    found = METHOD.explain(small_engine, noise(1, 3, 16, 16), torch.tensor([0]), [0])
    cost = small_engine.cost - before
    assert (cost.forwards, cost.backwards) == (64 + 3, 1)  # the clean image, the empty coalition, Grad-CAM
    assert found.saliency.shape == (1, 16, 16)
    assert float(found.saliency.min()) >= 0
    assert found.necessity is not None
    assert found.sufficiency is not None
    assert torch.equal(found.saliency, (found.necessity + found.sufficiency) / 2)


def test_an_additive_network_gets_its_own_weights() -> None:
    """p = sum of w * image, so that with removed pixels at 0 every tile is worth the sum of its own pixels, over p."""
    along = torch.exp(-((torch.arange(8.0) - 3) ** 2) / 8)
    low = (along[:, None] * along)[None, None]  # as smooth as a field is expected to be
    weights = low.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(1, 3, 16, 16)
    weights = weights / weights.sum() * 0.9
    engine = engine_for(Weighted(weights), 16, "features")
    method = FieldExplainer(name="field", tiles=8, block=1, coalitions=512, fill="zero", prior="flat")
    found = method.explain(engine, torch.ones(1, 3, 16, 16), torch.tensor([0]), [0])
    want = low[0, 0] / low.sum()
    for maps in (found.necessity, found.sufficiency):
        assert maps is not None
        got = nnf.adaptive_avg_pool2d(maps, 8)[0]
        assert got == pytest.approx(want.numpy(), abs=0.05 * float(want.max()))


def test_the_seed_decides(small_engine: Engine) -> None:
    images, targets = noise(2, 3, 16, 16), torch.tensor([0, 1])
    first = METHOD.explain(small_engine, images, targets, [5, 6])
    again = METHOD.explain(small_engine, images, targets, [5, 6])
    other = METHOD.explain(small_engine, images, targets, [7, 8])
    assert torch.equal(first.saliency, again.saliency)
    assert not torch.equal(first.saliency, other.saliency)


def test_b_of_one_on_both_sides_is_one_map(small_engine: Engine) -> None:
    method = FieldExplainer(name="field", tiles=8, block=2, coalitions=64, b_n=1.0, b_s=1.0)
    found = method.explain(small_engine, noise(1, 3, 16, 16), torch.tensor([0]), [0])
    assert found.necessity is not None
    assert found.sufficiency is not None
    assert torch.equal(found.necessity, found.sufficiency)
    assert "the two games are duals: N and S have the same values" in found.diagnostics[0]["flags"]


def test_an_image_of_fewer_pixels_than_tiles_has_a_tile_a_pixel(small_engine: Engine) -> None:
    image, target = noise(1, 3, 16, 16), torch.tensor([0])
    many, few = (FieldExplainer(name="field", tiles=t, block=2, coalitions=16) for t in (99, 16))
    assert torch.equal(
        many.explain(small_engine, image, target, [0]).saliency, few.explain(small_engine, image, target, [0]).saliency
    )


def test_a_block_larger_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="block=9 is larger than the image of tiles=8"):
        FieldExplainer(name="field", tiles=8, block=9)


TWO = FieldExplainer(name="two", tiles=8, block=2, coalitions=60, fill=["zero", "blur"], shares=[2, 1])


def test_a_fill_that_is_a_list_of_one_is_that_fill(small_engine: Engine) -> None:
    image, target = noise(1, 3, 16, 16), torch.tensor([0])
    one, other = (FieldExplainer(tiles=8, block=2, coalitions=16, fill=fill) for fill in ("blur", ["blur"]))
    assert torch.equal(
        one.explain(small_engine, image, target, [0]).saliency, other.explain(small_engine, image, target, [0]).saliency
    )


def test_two_fills_share_the_coalitions(small_engine: Engine) -> None:
    before = small_engine.cost
    found = TWO.explain(small_engine, noise(1, 3, 16, 16), torch.tensor([0]), [0])
    # the coalitions, the clean image, Grad-CAM, and the empty coalition of each fill
    assert (small_engine.cost - before).forwards == 60 + 2 + 2
    assert all(0 <= rho <= 1 for rho in found.diagnostics[0]["rho"])


def test_maps_are_drawn_from_the_fields_that_are_asked_for(small_engine: Engine) -> None:
    """Each map of one explanation is that of another one which draws all maps from that field."""
    image, target = noise(1, 3, 16, 16, seed=1), torch.tensor([0])

    def maps(**drawn: Any) -> Any:
        return dataclasses.replace(TWO, rho=0.3, prior="flat", **drawn).explain(small_engine, image, target, [3])

    mixed = maps(sides_from="zero", scalar_from="blur")
    zero, blur, both = (maps(sides_from=fill, scalar_from=fill) for fill in ("zero", "blur", "all"))
    assert torch.equal(mixed.necessity, zero.necessity)
    assert torch.equal(mixed.sufficiency, zero.sufficiency)
    assert torch.equal(mixed.saliency, blur.saliency)
    assert not torch.equal(zero.necessity, blur.necessity)
    assert torch.equal(maps(sides_from="zero", scalar_from="all").saliency, both.saliency)
    assert zero.diagnostics[0]["E_S(empty)"] != blur.diagnostics[0]["E_S(empty)"]
    empty = [one.diagnostics[0]["E_S(empty)"] for one in (zero, blur, both)]
    assert empty[2] == pytest.approx((empty[0] + empty[1]) / 2)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"fill": ["blur", "blur"]}, "names a fill twice"),
        ({"fill": ["zero", "blur"], "shares": [1]}, r"shares=\[1\] are 1 for 2 fills"),
        ({"shares": [2, 1]}, r"shares=\[2, 1\] are 2 for 1 fills"),
        ({"fill": ["zero", "blur"], "sides_from": "mean"}, "sides_from=mean is none of the fills: choose zero, blur or all"),
        ({"scalar_from": "zero"}, "scalar_from=zero is none of the fills"),
        ({"fill": ["zero", "blur", "mean"], "coalitions": 4}, "of 4 coalitions none is left for fill=mean: score more"),
        ({"fill": ["zero", "blur"], "shares": [200, 1], "target_error": 0.5}, "of 96 coalitions none is left for fill=blur"),
    ],
)
def test_settings_of_fills_that_do_not_fit_are_refused(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        FieldExplainer(**keys)


def test_the_errors_are_the_posterior_s_of_the_drawn_field(small_engine: Engine) -> None:
    """With a tile a pixel, a pixel of the map is its tile: the value where it is not negative, and its error."""
    method = dataclasses.replace(TWO, tiles=16, prior="flat", sides_from="zero")
    images, targets, seeds = noise(2, 3, 16, 16), torch.tensor([0, 1]), [4, 5]
    found = method.explain(small_engine, images, targets, seeds)
    for at in (0, 1):
        fields = method.fields(small_engine, images[at], int(targets[at]), seeds[at])
        assert fields is not None
        for fit, maps, errors in zip(
            fields.fits, (found.necessity, found.sufficiency), (found.n_error, found.s_error), strict=True
        ):
            value, error = fit.drawn([0])
            assert maps is not None
            assert errors is not None
            assert maps[at].flatten().numpy() == pytest.approx(np.maximum(value, 0), rel=1e-5, abs=1e-8)
            assert errors[at].flatten().numpy() == pytest.approx(error, rel=1e-5)


def test_a_class_without_probability_has_blank_maps_and_no_band() -> None:
    engine = engine_for(Weighted(torch.zeros(1, 3, 16, 16)), 16, "features")
    found = METHOD.explain(engine, torch.ones(1, 3, 16, 16), torch.tensor([0]), [0])
    for maps in (found.saliency, found.necessity, found.sufficiency, found.n_error, found.s_error):
        assert maps is not None
        assert maps.shape == (1, 16, 16)
        assert not maps.any()
    assert found.diagnostics == [{"flags": ["p_c(I) is 0"]}]


LARGE = dataclasses.replace(METHOD, coalitions=400)


def forwards(engine: Engine, method: FieldExplainer) -> tuple[Explanation, int]:
    before = engine.cost
    found = method.explain(engine, noise(1, 3, 16, 16), torch.tensor([0]), [0])
    return found, (engine.cost - before).forwards


def test_scoring_ends_when_the_bands_are_tight(small_engine: Engine) -> None:
    """What was scored is the beginning of what all of it would have been: the maps are those of so many coalitions."""
    _, all_of_them = forwards(small_engine, LARGE)
    early, spent = forwards(small_engine, dataclasses.replace(LARGE, target_error=0.99))
    again, _ = forwards(small_engine, dataclasses.replace(LARGE, target_error=0.99))
    assert torch.equal(early.saliency, again.saliency)
    assert all_of_them == 400 + 3
    assert spent == STEP + 3
    assert early.diagnostics[0]["forwards_saved"] == all_of_them - spent
    few, _ = forwards(small_engine, dataclasses.replace(LARGE, coalitions=STEP))
    assert early.saliency.numpy() == pytest.approx(few.saliency.numpy(), rel=1e-4, abs=1e-6)


def test_scoring_goes_on_to_the_budget_while_they_are_not(small_engine: Engine) -> None:
    whole, spent = forwards(small_engine, LARGE)
    late, at_most = forwards(small_engine, dataclasses.replace(LARGE, target_error=1e-6))
    assert spent == at_most
    assert late.diagnostics[0]["forwards_saved"] == 0
    assert late.saliency.numpy() == pytest.approx(whole.saliency.numpy(), rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("target", [0.7, 0.8, 0.9])
def test_scoring_ends_at_the_first_look_at_which_both_sides_are_known(small_engine: Engine, target: float) -> None:
    """The error of every budget that is looked at, from explanations without a target."""
    image, looks = noise(1, 3, 16, 16)[0], [96, 192, 288, 384, 400]

    def error(coalitions: int) -> float:
        fields = dataclasses.replace(METHOD, coalitions=coalitions).fields(small_engine, image, 0, 0)
        assert fields is not None
        sides = [fit.drawn([0]) for fit in fields.fits]
        return max(float(np.sqrt((error**2).sum() / (value**2 + error**2).sum())) for value, error in sides)

    expected = next((n for n in looks if error(n) <= target), looks[-1])
    stopped = dataclasses.replace(LARGE, target_error=target).fields(small_engine, image, 0, 0)
    assert stopped is not None
    assert stopped.coalitions == expected
