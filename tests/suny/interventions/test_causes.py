"""Causes and candidates: interventions by hand, groups that hold every channel, duality."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suny.errors import UserError
from suny.games.values import all_coalitions, shapley
from suny.interventions.causes import FeatureCauses, FilterCauses, RegionCauses, shares, union
from suny.method import candidates
from suny.method.explainer import SunyExplainer, combine
from tests.conftest import SmallNet, Weighted, engine_for, noise

ROWS = torch.tensor([[False, False], [True, False], [True, True]])
MASKS = torch.tensor([[[0.5, 1.0]], [[0.5, 0.0]]])


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("max", [[0, 0], [0.5, 1], [0.5, 1]]),
        ("noisy_or", [[0, 0], [0.5, 1], [0.75, 1]]),
        ("sum", [[0, 0], [0, 1], [0, 0]]),  # .5, 1 -> 0, 1; 1, 1 is constant
        ("partition", [[0, 0], [0.5, 1], [1, 1]]),  # shares .5, 1 and .5, 0
    ],
)
def test_masks_of_coalitions_by_hand(rule: str, expected: list[list[float]]) -> None:
    masks = shares(MASKS) if rule == "partition" else MASKS
    torch.testing.assert_close(union(ROWS, masks, rule)[:, 0], torch.tensor(expected, dtype=torch.float32))  # type: ignore[arg-type]


def test_shares_add_up_to_one_everywhere() -> None:
    masks = torch.rand(5, 6, 7)
    masks[:, 2, 3] = 0
    torch.testing.assert_close(shares(masks).sum(0), torch.ones(6, 7))
    assert torch.equal(shares(masks)[:, 2, 3], torch.full((5,), 0.2))


def sum_engine(side: int = 4) -> tuple[object, Tensor]:
    """p = mean of the red channel."""
    weights = torch.zeros(3, side, side)
    weights[0] = 1 / side**2
    return engine_for(Weighted(weights), side, "features"), torch.ones(3, side, side)


def test_regions_by_hand() -> None:
    engine, image = sum_engine()
    regions = torch.tensor([[0, 0, 1, 1]] * 3 + [[2, 2, 2, 2]])
    causes = RegionCauses(engine, image, 0, regions)  # type: ignore[arg-type]
    players = torch.arange(3)
    rows = torch.from_numpy(all_coalitions(3))
    expected = rows.float() @ torch.tensor([6.0, 6.0, 4.0]) / 16
    torch.testing.assert_close(causes.kept(players, rows), expected)
    torch.testing.assert_close(causes.removed(players, rows), 1 - expected)
    painted = causes.project(players, torch.tensor([0.5, -1.0, 2.0]))
    assert painted[0].tolist() == [0.5, 0.5, -1, -1]
    assert painted[3].tolist() == [2, 2, 2, 2]


def test_filters_by_hand() -> None:
    """An intervention on channels agrees with a hook on the plain network."""
    network = SmallNet().eval()
    engine = engine_for(network, 16, "relu")
    image = noise(1, 3, 16, 16)
    activation, carried = engine.activations(image)
    groups = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]], dtype=torch.bool)
    players, rows = torch.arange(3), torch.from_numpy(all_coalitions(3))
    for fill in ("zero", "mean"):
        causes = FilterCauses(engine, activation[0], carried, 1, (16, 16), groups, fill)  # type: ignore[arg-type]
        for keep in (True, False):
            got = (causes.kept if keep else causes.removed)(players, rows)
            for row, p in zip(rows, got, strict=True):
                touched = groups[row].any(0)
                stays = (touched if keep else ~touched)[None, :, None, None]

                def hook(_m: nn.Module, _i: object, out: Tensor, stays: Tensor = stays, fill: str = fill) -> Tensor:
                    gone = out.mean((2, 3), keepdim=True) if fill == "mean" else torch.zeros_like(out)
                    return torch.where(stays, out, gone)

                handle = network.relu.register_forward_hook(hook)
                with torch.inference_mode():
                    expected = network(image).softmax(1)[0, 1]
                handle.remove()
                torch.testing.assert_close(p, expected, rtol=0, atol=2e-6)
        assert causes.complementary
    values = torch.tensor([1.0, 2.0, 3.0])
    by_channel = (torch.tensor([1.0, 1, 2, 3, 3, 3])[:, None, None] * activation[0]).sum(0)
    expected_map = nn.functional.interpolate(by_channel[None, None], (16, 16), mode="bilinear")[0, 0]
    torch.testing.assert_close(causes.project(players, values), expected_map)


def test_values_painted_on_masks() -> None:
    engine = engine_for(SmallNet(), 16, "relu")
    maps = torch.rand(3, 4, 4)
    causes = FeatureCauses(engine, noise(3, 16, 16), 0, maps, draw="masks")
    players, values = torch.tensor([0, 2]), torch.tensor([2.0, -1.0])
    torch.testing.assert_close(causes.project(players, values), 2 * causes.masks(players)[0] - causes.masks(players)[1])


@pytest.mark.parametrize("by", ["nmf", "kmeans"])
def test_every_channel_belongs_to_one_group(by: str) -> None:
    torch.manual_seed(0)
    activation, gradient = torch.rand(40, 7, 7), torch.randn(40, 7, 7)
    activation[3] = 0
    groups = candidates.group_channels(activation, gradient, 5, by)
    assert groups.shape[0] <= 5
    assert (groups.sum(0) == 1).all()
    assert groups.any(1).all()
    assert torch.equal(groups, candidates.group_channels(activation, gradient, 5, by))
    total = candidates.group_maps(activation, gradient, groups).sum(0)
    torch.testing.assert_close(total, (gradient.mean((1, 2)).abs()[:, None, None] * activation).sum(0))


@pytest.mark.parametrize("by", ["nmf", "kmeans"])
def test_channels_that_fire_together_are_grouped(by: str) -> None:
    """Three patterns at different places, each in several channels of different strength."""
    patterns = torch.zeros(3, 6, 6)
    patterns[0, :2], patterns[1, 3:, :3], patterns[2, 3:, 4:] = 1, 1, 1
    which = torch.tensor([0, 1, 2, 1, 0, 2, 2, 0])
    activation = patterns[which] * torch.tensor([1.0, 2, 1, 3, 2, 2, 1, 1])[:, None, None]
    groups = candidates.group_channels(activation, torch.ones_like(activation), 3, by)
    assert {tuple(row.nonzero()[:, 0].tolist()) for row in groups} == {(0, 4, 7), (1, 3), (2, 5, 6)}


def test_grouping_nothing() -> None:
    groups = candidates.group_channels(torch.zeros(4, 3, 3), torch.zeros(4, 3, 3), 2, "nmf")
    assert (groups.sum(0) == 1).all()


def test_grids_and_superpixels_cover_the_image() -> None:
    grid = candidates.grid((224, 224), 7)
    assert torch.equal(torch.bincount(grid.flatten()), torch.full((49,), 32 * 32))
    assert grid[0, 0] == 0
    assert grid[0, -1] == 6
    assert grid[-1, 0] == 42
    assert len(candidates.grid((10, 11), 3).unique()) == 9
    segments = candidates.superpixels(noise(3, 64, 64), 16)
    assert torch.equal(segments.unique(), torch.arange(int(segments.max()) + 1))


@pytest.mark.parametrize(
    "settings",
    [
        {"cause": "filter", "candidates": "all"},
        {"cause": "filter", "candidates": "all", "estimator": "sampled", "orders": 6},
        {"cause": "region", "candidates": "grid", "k": 3},
        {"cause": "region", "candidates": "grid", "k": 4, "estimator": "sampled", "orders": 4},
        {"cause": "filter", "candidates": "kmeans", "k": 3},
        {"candidates": "all", "mask": "partition"},
    ],
)
def test_dual_games_coincide_and_say_so(settings: dict[str, object]) -> None:
    engine = engine_for(SmallNet(seed=2), 16, "relu")
    found = SunyExplainer(**settings).explain(engine, noise(1, 3, 16, 16), torch.tensor([1]), [3])  # type: ignore[arg-type]
    numbers = found.diagnostics[0]
    assert found.necessity is not None
    assert found.sufficiency is not None
    if settings.get("mask") == "partition":  # masks are of the maps that vary; a dead channel has none
        varying = len(numbers["n_candidates"])
        assert numbers["dual"] == (varying == 6)
        if varying < 6:
            return
    assert numbers["dual"]
    assert any("duals" in flag for flag in numbers["flags"])
    np.testing.assert_allclose(numbers["n_values"], numbers["s_values"], atol=1e-10)
    torch.testing.assert_close(found.necessity, found.sufficiency, rtol=1e-5, atol=1e-6)


def test_duality_is_broken_by_b() -> None:
    engine = engine_for(SmallNet(seed=2), 16, "relu")
    settings = {"cause": "filter", "candidates": "all", "b": 4.0}
    numbers = SunyExplainer(**settings).explain(engine, noise(1, 3, 16, 16), torch.tensor([1]), [0]).diagnostics[0]  # type: ignore[arg-type]
    assert numbers["dual"]
    assert not any("duals" in flag for flag in numbers["flags"])
    assert not np.allclose(numbers["n_values"], numbers["s_values"], atol=1e-3)


def test_subsets_of_the_causes_are_no_duals() -> None:
    engine = engine_for(SmallNet(seed=2), 16, "relu")
    numbers = SunyExplainer(k=3, cause="filter", prescreen=None).explain(
        engine, noise(1, 3, 16, 16), torch.tensor([1]), [0]
    ).diagnostics[0]  # fmt: skip
    assert not numbers["dual"]
    assert not np.allclose(sorted(numbers["n_values"]), sorted(numbers["s_values"]), atol=1e-3)


LOGIC = {
    "and": lambda a, b, _: a * b,  # two synergic filters, and a dead one
    "or": lambda a, b, _: a + b - a * b,  # two redundant filters, and a dead one
    "sum": lambda a, b, c: (a + 2 * b + 3 * c) / 6,
    "majority": lambda a, b, c: a * b + a * c + b * c - 2 * a * b * c,
}


class Synergy(nn.Module):
    """Three filters of an 8 x 8 image; p is known for every coalition: .1 + .8 * LOGIC."""

    def __init__(self, logic: str) -> None:
        super().__init__()
        self.logic = logic
        self.features = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        on = self.features(x.abs()).amax((2, 3)).clamp(0, 1)  # 1 where the filter is kept
        p = 0.1 + 0.8 * LOGIC[self.logic](*on.unbind(1))
        return torch.stack([p.log(), (1 - p).log()], 1)


@pytest.mark.parametrize("logic", ["and", "or"])
def test_filters_with_known_logic(logic: str) -> None:
    image = torch.ones(1, 3, 8, 8)
    engine = engine_for(Synergy(logic), 8, "features")
    settings = {"cause": "filter", "candidates": "all"}
    shapley_sides = SunyExplainer(**settings).sides(engine, image[0], 0, 0)  # type: ignore[arg-type]
    single_sides = SunyExplainer(**settings, b=float("inf")).sides(engine, image[0], 0, 0)  # type: ignore[arg-type]
    share = 0.8 / 0.9
    assert shapley_sides.n is not None
    assert shapley_sides.s is not None
    assert single_sides.n is not None
    assert single_sides.s is not None
    for side in (shapley_sides.n, shapley_sides.s):  # AND and OR alike
        np.testing.assert_allclose(side.estimate.value, [share / 2, share / 2, 0], atol=1e-6)
    needed, enough = ([share, share, 0], [0, 0, 0]) if logic == "and" else ([0, 0, 0], [share, share, 0])
    np.testing.assert_allclose(single_sides.n.estimate.value, needed, atol=1e-6)
    np.testing.assert_allclose(single_sides.s.estimate.value, enough, atol=1e-6)
    index = shapley_sides.s.estimate.interaction
    assert index is not None
    np.testing.assert_allclose(index[0, 1], share if logic == "and" else -share, atol=1e-6)
    np.testing.assert_allclose(index[2], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("logic", "expected"), [("sum", [1 / 6, 2 / 6, 3 / 6]), ("majority", [1 / 3] * 3), ("and", [0.5, 0.5, 0])]
)
@pytest.mark.parametrize("estimator", ["exact", "sampled"])
def test_filters_solved_by_hand(logic: str, expected: list[float], estimator: str) -> None:
    """p is .9 with all filters and .1 with none; the three players' values share the difference."""
    engine = engine_for(Synergy(logic), 8, "features")
    explainer = SunyExplainer(cause="filter", candidates="all", estimator=estimator, orders=24)  # type: ignore[arg-type]
    sides = explainer.sides(engine, torch.ones(3, 8, 8), 0, 0)
    for side in (sides.n, sides.s):
        assert side is not None
        within = 1e-6 if estimator == "exact" else 4 * float(side.estimate.error.max()) + 1e-6
        np.testing.assert_allclose(side.estimate.value, np.array(expected) * 0.8 / 0.9, atol=within)


def test_sampling_all_channels_is_near_the_enumeration() -> None:
    engine = engine_for(SmallNet(seed=4), 16, "relu")
    settings = {"cause": "filter", "candidates": "all"}
    x, c = noise(1, 3, 16, 16), torch.tensor([0])
    whole = SunyExplainer(**settings).explain(engine, x, c, [0]).diagnostics[0]  # type: ignore[arg-type]
    some = SunyExplainer(**settings, estimator="sampled", orders=60).explain(engine, x, c, [0]).diagnostics[0]  # type: ignore[arg-type]
    np.testing.assert_allclose(some["n_values"], whole["n_values"], atol=4 * some["standard_error"] + 1e-9)
    assert some["orders"] == 60
    assert abs(some["efficiency_residual"]) < 1e-12


def test_permuting_the_channels_permutes_the_values() -> None:
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    network, other = SmallNet(seed=1).eval(), SmallNet(seed=1).eval()
    with torch.no_grad():
        for name in ("conv.weight", "conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"):
            other.state_dict()[name].copy_(network.state_dict()[name][order])
        other.fc.weight.copy_(network.fc.weight[:, order])
    settings = {"cause": "filter", "candidates": "all"}
    x, c = noise(1, 3, 16, 16), torch.tensor([2])
    values = [
        SunyExplainer(**settings).explain(engine_for(n, 16, "relu"), x, c, [0]).diagnostics[0]["n_values"]  # type: ignore[arg-type]
        for n in (network, other)
    ]
    np.testing.assert_allclose(values[1], np.array(values[0])[order.numpy()], atol=2e-6)


def test_combinations_by_hand() -> None:
    n, s = torch.tensor([0.0, 1.0, 4.0, 0.0]), torch.tensor([0.0, 3.0, 1.0, 5.0])
    expected = {
        "mean": [0, 2, 2.5, 2.5],
        "max": [0, 3, 4, 5],
        "product": [0, 3**0.5, 2, 0],
        "harmonic": [0, 1.5, 1.6, 0],
        "necessity": [0, 1, 4, 0],
        "sufficiency": [0, 3, 1, 5],
    }
    for how, values in expected.items():
        torch.testing.assert_close(combine(n, s, how), torch.tensor(values, dtype=torch.float32))  # type: ignore[arg-type]


def test_the_exact_table_is_the_shapley_value_of_the_network() -> None:
    """Region values against the closed form: p is the mean of the kept pixels, so each region has its share."""
    engine, image = sum_engine(8)
    sides = SunyExplainer(cause="region", candidates="grid", k=2).sides(engine, image, 0, 0)  # type: ignore[arg-type]
    assert sides.n is not None
    np.testing.assert_allclose(sides.n.estimate.value, [0.25] * 4, atol=1e-6)
    additive = all_coalitions(4).sum(1) / 4
    np.testing.assert_allclose(shapley(additive), sides.n.estimate.value, atol=1e-6)


def test_too_many_channels_to_enumerate() -> None:
    engine = engine_for(nn.Sequential(nn.Conv2d(3, 20, 2), nn.ReLU(), nn.Flatten(), nn.Linear(180, 2)), 4, "1")
    with pytest.raises(UserError, match="20 players are too many for estimator=exact"):
        SunyExplainer(cause="filter", candidates="all").explain(engine, noise(1, 3, 4, 4), torch.tensor([0]), [0])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"cause": "region"}, "candidates=topk do not go with cause=region; choose grid or slic"),
        ({"candidates": "grid"}, "candidates=grid do not go with cause=feature"),
        ({"cause": "filter", "fill": "blur"}, "fill=blur is for images"),
        ({"k": 17}, "17 players are too many for estimator=exact"),
        ({"cause": "region", "candidates": "grid", "k": 5}, "25 players are too many"),
    ],
)
def test_settings_that_do_not_go_together(keys: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        SunyExplainer(**keys)  # type: ignore[arg-type]
