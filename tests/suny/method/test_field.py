"""Fields over tiles: the drawn coalitions, the fit against scikit-learn and scipy, values derived by hand, the explainer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.linear_model import Ridge
from torch.nn import functional as nnf

from suny.classifiers.engine import Engine
from suny.method.field import LENGTHS, NOISES, TREND, FieldExplainer, draw_coalitions, fit_field, nearness
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
    fit = fit_field(rows, values, trend, [np.eye(9)], weight)
    scale = (rows.sum(1)).mean()  # the mean variance that the field gives a value
    weight = weight / weight.mean()

    def ridge(noise: float) -> np.ndarray:
        features = np.c_[rows / np.sqrt(scale), np.sqrt(TREND) * trend]
        return Ridge(alpha=noise, fit_intercept=False, tol=1e-12).fit(features, values, weight).coef_[:9] / np.sqrt(scale)

    assert any(fit.value == pytest.approx(ridge(noise), rel=1e-7, abs=1e-9) for noise in NOISES)


def test_length_and_noise_have_the_largest_marginal_likelihood() -> None:
    rows, values, trend, weight = problem()
    kernels = nearness(3)
    fit = fit_field(rows, values, trend, kernels, weight)
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
        # the fit without a prior: weighted least squares, of which fit_field() is the penalised form
        values = np.linalg.lstsq(root[:, None] * np.c_[rows, trend], root * games[game], rcond=None)[0][:2]
        assert values == pytest.approx([expected] * 2, abs=0.02)


def test_standard_errors_shrink_with_the_coalitions() -> None:
    rows, values, trend, weight = problem(240)
    kernels = nearness(3)
    few = fit_field(rows[:30], values[:30], trend[:30], kernels, weight[:30])
    many = fit_field(rows, values, trend, kernels, weight)
    assert many.error.max() < few.error.max()
    assert (many.error > 0).all()


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
