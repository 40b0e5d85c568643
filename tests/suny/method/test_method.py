"""SUNY, against enumeration by a few plain lines and against networks whose answer is known."""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pydantic
import pytest
import torch
from torch import Tensor, nn

from suny.classifiers.engine import Engine
from suny.explanation import is_degenerate
from suny.interventions.causes import FeatureCauses
from suny.method.candidates import prescreen
from suny.method.explainer import SunyExplainer
from tests.conftest import SmallNet, engine_for, noise


def plain_masks(activation: Tensor, side: int) -> Tensor:
    up = nn.functional.interpolate(activation[None], size=(side, side), mode="bilinear", align_corners=False)[0]
    flat = up.flatten(1)
    low, high = flat.min(1).values[:, None, None], flat.max(1).values[:, None, None]
    return (up - low) / (high - low)


def plain_suny(network: nn.Module, layer: str, image: Tensor, target: int, k: int) -> dict[str, object]:
    """The published equations in plain lines: every channel scored, orders enumerated, no batches."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    network(image[None])
    handle.remove()
    activation = seen[-1][0]
    masks = plain_masks(activation, image.shape[-1])

    def p(x: Tensor) -> float:
        return float(network(x[None]).softmax(1)[0, target])

    def mask(members: frozenset[int]) -> Tensor:
        return torch.stack([torch.zeros_like(masks[0]), *(masks[f] for f in sorted(members))]).amax(0)

    clean = p(image)
    games = {
        "n": lambda s: (clean - p(image * (1 - mask(s)))) / clean,
        "s": lambda s: p(image * mask(s)) / clean,
    }
    out: dict[str, object] = {}
    for side, value in games.items():
        single = {f: value(frozenset([f])) for f in range(len(masks))}
        players = sorted(single, key=lambda f: -single[f])[:k]
        known = {frozenset(): value(frozenset())}
        total = dict.fromkeys(players, 0.0)
        for order in permutations(players):  # the Shapley value as the mean over all orders
            before: frozenset[int] = frozenset()
            for f in order:
                after = before | {f}
                if after not in known:
                    known[after] = value(after)
                total[f] += known[after] - known[before]
                before = after
        values = {f: v / math.factorial(k) for f, v in total.items()}
        weighted = sum(values[f] * activation[f] for f in players)
        up = nn.functional.interpolate(weighted[None, None], size=image.shape[-2:], mode="bilinear")[0, 0]
        out[side] = (players, [values[f] for f in players], up.clamp(min=0))
    return out


@pytest.mark.parametrize(("seed", "target", "k"), [(0, 0, 3), (1, 2, 4), (2, 1, 5)])
def test_agrees_with_the_equations_in_plain_lines(seed: int, target: int, k: int) -> None:
    network = SmallNet(seed=seed).eval()
    image = noise(3, 16, 16, seed=seed)
    with torch.inference_mode():
        expected = plain_suny(network, "relu", image, target, k)
    suny = SunyExplainer(k=k, prescreen=None)
    got = suny.explain(engine_for(network, 16, "relu"), image[None], torch.tensor([target]), [0])
    numbers = got.diagnostics[0]
    assert got.necessity is not None
    assert got.sufficiency is not None
    for side, drawn in (("n", got.necessity), ("s", got.sufficiency)):
        players, values, drawn_plainly = expected[side]  # type: ignore[misc]
        assert numbers[f"{side}_candidates"] == players
        np.testing.assert_allclose(numbers[f"{side}_values"], values, atol=2e-6)
        torch.testing.assert_close(drawn[0], drawn_plainly, rtol=1e-4, atol=2e-6)
    torch.testing.assert_close(got.saliency, (got.necessity + got.sufficiency) / 2)


class AndOr(nn.Module):
    """Two causes, the left and the right half of the image, seen by one feature map each (mean over the half).

    p = a b for AND, a + b - a b for OR, where a and b are the means of the halves.
    """

    def __init__(self, logic: str) -> None:
        super().__init__()
        self.logic = logic
        self.features = nn.Conv2d(3, 2, 4, stride=4, bias=False)
        with torch.no_grad():
            self.features.weight.fill_(1 / 48)
        halves = torch.zeros(2, 2, 2)
        halves[0, :, 0] = halves[1, :, 1] = 1
        self.register_buffer("halves", halves)
        self.seen = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        maps = self.seen(self.features(x) * self.halves)
        a, b = (maps.sum((2, 3)) / 2).clamp(0, 1).unbind(1)
        p = a * b if self.logic == "and" else a + b - a * b
        return torch.stack([p.log(), (1 - p).log()], 1)


@pytest.mark.parametrize("logic", ["and", "or"])
def test_a_network_with_two_causes(logic: str) -> None:
    """Every coalition's value follows from the halves' means under the masks, which are known: linear ramps."""
    engine = engine_for(AndOr(logic), 8, "seen")
    image = torch.ones(3, 8, 8)
    # bilinear from [1, 0] to 8 columns, half-pixel centres: the ramp of the left mask, min-max'd as it is
    ramp = torch.tensor([1, 1, 7 / 8, 5 / 8, 3 / 8, 1 / 8, 0, 0])
    left, right = ramp.expand(8, 8), ramp.flip(0).expand(8, 8)

    def p(keep: Tensor) -> float:
        a, b = float(keep[:, :4].mean()), float(keep[:, 4:].mean())
        return a * b if logic == "and" else a + b - a * b

    both = torch.maximum(left, right)
    n = [0, 1 - p(1 - left), 1 - p(1 - right), 1 - p(1 - both)]
    s = [p(0 * left), p(left), p(right), p(both)]

    def two(v: list[float]) -> list[float]:
        return [((v[1] - v[0]) + (v[3] - v[2])) / 2, ((v[2] - v[0]) + (v[3] - v[1])) / 2]

    numbers = SunyExplainer(k=2).explain(engine, image[None], torch.tensor([0]), [0]).diagnostics[0]
    np.testing.assert_allclose(numbers["n_values"], two(n), atol=1e-5)
    np.testing.assert_allclose(numbers["s_values"], two(s), atol=1e-5)
    np.testing.assert_allclose([numbers["E_N(F_N)"], numbers["E_S(F_S)"], numbers["E_S(empty)"]], [n[3], s[3], s[0]], atol=1e-5)
    # the single effects tell AND from OR, whatever the Shapley values say
    if logic == "and":
        assert min(numbers["n_singles"]) > max(numbers["s_singles"])
    else:
        assert max(numbers["n_singles"]) < min(numbers["s_singles"])


def test_efficiency(small_engine: Engine) -> None:
    for target in range(3):
        numbers = SunyExplainer(k=5).explain(small_engine, noise(1, 3, 16, 16), torch.tensor([target]), [0]).diagnostics[0]
        assert sum(numbers["n_values"]) == pytest.approx(numbers["E_N(F_N)"], abs=1e-12)
        assert sum(numbers["s_values"]) == pytest.approx(numbers["E_S(F_S)"] - numbers["E_S(empty)"], abs=1e-12)


def test_the_cost_is_what_the_conf_file_says(small_engine: Engine) -> None:
    before = small_engine.cost
    SunyExplainer(k=3, prescreen=4).explain(small_engine, noise(1, 3, 16, 16), torch.tensor([0]), [0])
    spent = small_engine.cost - before
    # activation, clean image, empty sufficiency; singles of 4 channels twice; coalitions of two and more twice
    assert spent.forwards == 3 + 2 * 4 + 2 * (2**3 - 3 - 1)
    assert spent.backwards == 1


def test_deterministic_and_independent_of_batch_mates() -> None:
    engine = engine_for(SmallNet(), 16, "relu")
    images, targets = noise(3, 3, 16, 16), torch.tensor([0, 1, 2])
    before = images.clone()
    together = SunyExplainer(k=4).explain(engine, images, targets, [0, 0, 0])
    for i in range(3):
        alone = SunyExplainer(k=4).explain(engine, images[i : i + 1], targets[i : i + 1], [5])
        assert torch.equal(alone.saliency[0], together.saliency[i])
        assert alone.diagnostics[0] == together.diagnostics[i]
    assert torch.equal(images, before)
    assert together.saliency.shape == (3, 16, 16)
    assert together.saliency.dtype == torch.float32
    assert float(together.saliency.min()) >= 0


def test_one_side_alone(small_engine: Engine) -> None:
    x, c = noise(1, 3, 16, 16), torch.tensor([1])
    both = SunyExplainer(k=3).explain(small_engine, x, c, [0])
    only_n = SunyExplainer(k=3, combine="necessity").explain(small_engine, x, c, [0])
    only_s = SunyExplainer(k=3, combine="sufficiency").explain(small_engine, x, c, [0])
    assert both.necessity is not None
    assert both.sufficiency is not None
    assert torch.equal(only_n.saliency, both.necessity)
    assert torch.equal(only_s.saliency, both.sufficiency)


def test_many_players_are_masked_as_few_are() -> None:
    """Above a batch of players the masks are made batch by batch; the values must not change."""
    network, image = SmallNet(), noise(3, 16, 16)
    small, large = (engine_for(network, 16, "relu", batch_size=b) for b in (2, 16))
    activation = small.activations(image[None])[0][0]
    players = torch.arange(6)
    coalitions = torch.rand(9, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    values = [FeatureCauses(e, image, 0, activation, "zero").kept(players, coalitions) for e in (small, large)]
    torch.testing.assert_close(values[0], values[1], rtol=0, atol=1e-6)


def test_fewer_channels_than_candidates(small_engine: Engine) -> None:
    numbers = (
        SunyExplainer(k=16, prescreen=None).explain(small_engine, noise(1, 3, 16, 16), torch.tensor([0]), [0]).diagnostics[0]
    )
    assert sorted(numbers["n_candidates"]) == list(range(len(numbers["n_candidates"])))
    assert len(numbers["n_candidates"]) <= 6


def test_prescreening_takes_the_strongest_and_skips_constant_maps() -> None:
    activation = torch.tensor([[0.0, 2.0], [1.0, 1.0], [4.0, 0.0], [0.0, 6.0]])[:, None]  # pooled: 1, 1, 2, 3
    gradient = torch.tensor([-5.0, 9.0, 1.0, 1.0])[:, None, None].expand(4, 1, 2)
    varying = torch.tensor([0, 2, 3])
    assert prescreen(varying, activation, gradient, 2).tolist() == [0, 3]  # strengths 5, 2, 3
    assert prescreen(varying, activation, gradient, None).tolist() == [0, 2, 3]
    assert prescreen(varying, activation, gradient, 9).tolist() == [0, 2, 3]


class Fixed(nn.Module):
    """Feature maps as given, whatever the image; logits as given."""

    def __init__(self, maps: Tensor, logits: Tensor) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.register_buffer("maps", maps)
        self.register_buffer("fixed", logits)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.features(self.maps.expand(len(x), -1, -1, -1) + 0 * x.mean())
        return self.fixed.expand(len(x), -1) + 0 * maps.sum()


@pytest.mark.parametrize(
    ("maps", "logits", "flag"),
    [
        (torch.zeros(4, 2, 2), torch.tensor([0.0, 1.0]), "every feature map is constant"),
        (torch.ones(4, 2, 2), torch.tensor([0.0, 1.0]), "every feature map is constant"),
        (torch.rand(4, 2, 2), torch.tensor([-1e4, 1e4]), "p_c(I) is 0"),
    ],
)
def test_nothing_to_explain_is_a_defined_result(maps: Tensor, logits: Tensor, flag: str) -> None:
    explanation = SunyExplainer(k=2).explain(
        engine_for(Fixed(maps, logits), 8, "features"), noise(1, 3, 8, 8), torch.tensor([0]), [0]
    )
    assert torch.equal(explanation.saliency, torch.zeros(1, 8, 8))
    assert explanation.diagnostics[0]["flags"] == [flag]
    assert is_degenerate(explanation.saliency[0])


def test_a_network_that_ignores_the_image_is_flagged() -> None:
    network = Fixed(torch.arange(16.0).reshape(4, 2, 2), torch.tensor([0.0, 0.0]))
    explanation = SunyExplainer(k=2).explain(engine_for(network, 8, "features"), noise(1, 3, 8, 8), torch.tensor([0]), [0])
    numbers = explanation.diagnostics[0]
    assert numbers["E_N(F_N)"] == 0
    assert numbers["E_S(empty)"] == 1
    assert numbers["flags"] == ["E_N(F_N) < 0.5", "E_S(empty) > 0.1"]


@pytest.mark.parametrize("keys", [{"k": 0}, {"k": 17}, {"k": "8"}, {"fill": "black"}, {"candidates": 3}, {"k": 2.5}])
def test_wrong_settings_are_refused(keys: dict[str, object]) -> None:
    with pytest.raises(pydantic.ValidationError):
        SunyExplainer(**keys)  # type: ignore[arg-type]
