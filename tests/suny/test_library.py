"""``from suny import Suny``: any classifier, no configuration, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

import suny
from suny import Suny, api
from suny.errors import UserError
from suny.method.explainer import SunyExplainer
from tests.conftest import SmallNet, engine_for, noise
from tests.suny.interventions.test_causes import Synergy


@pytest.mark.parametrize("cause", ["feature", "filter"])
def test_a_batch_is_its_images(cause: str) -> None:
    explain = Suny(SmallNet(), "relu", cause=cause, k=3, prescreen=None)
    images, targets = noise(3, 3, 16, 16), torch.tensor([0, 1, 2])
    together = explain(images, targets)
    assert together.saliency.shape == together.necessity.shape == together.sufficiency.shape == (3, 16, 16)
    assert together.n_values.shape == together.s_candidates.shape == together.n_errors.shape == (3, 3)
    for i in range(3):
        alone = explain(images[i : i + 1], targets[i : i + 1])
        for name in ("saliency", "necessity", "n_values", "s_values", "n_candidates", "s_singles"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i])
    assert together.forwards == together.cost.forwards + together.cost.tail_forwards > 3 * 2**3


def test_it_is_the_method_of_the_benchmark() -> None:
    network, image = SmallNet(), noise(1, 3, 16, 16)
    result = Suny(network, "relu", k=4)(image, torch.tensor([1]))
    expected = SunyExplainer(k=4).explain(engine_for(network, 16, "relu", batch_size=8), image, torch.tensor([1]), [0])
    torch.testing.assert_close(result.saliency, expected.saliency)
    assert result.n_candidates[0].tolist() == expected.diagnostics[0]["n_candidates"]
    assert result.flags == [expected.diagnostics[0]["flags"]]


def test_it_is_explain_with_values() -> None:
    """The maps bit for bit, with sampled orders too, and one prepared copy for both."""
    network, images = SmallNet(), noise(3, 3, 16, 16)
    settings = {"cause": "feature", "k": 4, "estimator": "sampled", "orders": 2, "prescreen": None}
    for seed, ids in ((0, None), (5, ["left", "right", "high"])):
        explain = Suny(network, "relu", seed=seed, **settings)
        result = explain(images, [0, 1, 2], ids)
        engine = api.opened(network, images, "relu").engine
        before = engine.cost
        found = suny.explain(network, images, [0, 1, 2], SunyExplainer(**settings), "relu", seed=seed, ids=ids)
        for side in ("saliency", "necessity", "sufficiency"):
            assert torch.equal(getattr(result, side), getattr(found, side))
        assert (engine.cost - before) == found.cost == result.cost
        assert api.opened(network, images, "relu").engine is engine
        # values are those of the diagnostics
        assert result.n_candidates.tolist() == [one["n_candidates"] for one in found.diagnostics]
    other = Suny(network, "relu", seed=5, **settings)(images, [0, 1, 2])  # other ids, other orders
    assert not torch.equal(other.n_values, result.n_values)
    assert len(api._kept[network]) == 1


def test_a_change_of_weights_is_seen() -> None:
    network, image = SmallNet(), noise(1, 3, 16, 16)
    explain = Suny(network, "relu", cause="filter", candidates="all")
    first = explain(image, 1)
    network.load_state_dict(SmallNet(seed=3).state_dict())
    expected = Suny(SmallNet(seed=3), "relu", cause="filter", candidates="all")(image, 1)
    second = explain(image, 1)
    assert torch.equal(second.saliency, expected.saliency)
    assert not torch.equal(second.saliency, first.saliency)


def test_a_network_that_was_opened_without_a_layer_still_has_none_to_explain() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.ReLU(), nn.Linear(4, 2))
    image = noise(1, 3, 8, 8)
    assert suny.explain(flat, image, 0, "center").saliency.shape == (1, 8, 8)
    with pytest.raises(UserError, match="layer"):
        Suny(flat, cause="filter")(image, 0)


def test_the_callers_network_is_left_alone() -> None:
    network = SmallNet().train()
    network.relu.register_forward_hook(lambda m, i, o: None)
    hooks = len(network.relu._forward_hooks)
    explain = Suny(network, "relu", k=2)
    images = noise(1, 3, 16, 16).requires_grad_()
    result = explain(images, torch.tensor([0]))
    assert network.training
    assert network.bn.training
    assert len(network.relu._forward_hooks) == hooks
    assert all(p.requires_grad and p.grad is None for p in network.parameters())
    assert images.grad is None
    assert not result.saliency.requires_grad
    assert torch.is_grad_enabled()


class Failing(SmallNet):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 2:
            raise RuntimeError("too large a batch")
        return super().forward(x)


def test_the_callers_network_is_left_alone_when_it_raises() -> None:
    network = Failing().train()
    with pytest.raises((RuntimeError, IndexError)):
        Suny(network, "relu", k=2)(noise(1, 3, 16, 16), torch.tensor([99]))
    assert network.training
    assert not network.relu._forward_hooks
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()


def test_any_image_size() -> None:
    explain = Suny(torchvision.models.resnet18(weights=None, num_classes=4), "layer4", cause="filter", k=2)
    assert explain(noise(1, 3, 64, 96), torch.tensor([0])).saliency.shape == (1, 64, 96)
    assert explain(noise(1, 3, 48, 48), torch.tensor([0])).saliency.shape == (1, 48, 48)


def test_every_channel_of_a_small_layer() -> None:
    result = Suny(SmallNet(), "relu", cause="filter", candidates="all", estimator="exact")(
        noise(2, 3, 16, 16), torch.tensor([0, 2])
    )
    assert result.n_candidates.tolist() == [list(range(6))] * 2
    assert not result.n_errors.any()


def test_rows_of_different_lengths_are_padded() -> None:
    class Half(SmallNet):
        """The second half of the channels is dead on dark images."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            alive = torch.arange(6) < 3
            bright = (x.mean((1, 2, 3)) > 0)[:, None, None, None]
            h = self.conv(x)
            return self.fc(self.relu(torch.where(bright | alive[None, :, None, None], h.abs(), -h.abs())).mean((2, 3)))

    images = torch.stack([noise(3, 16, 16) + 2, noise(3, 16, 16) - 2])
    result = Suny(Half(), "relu", candidates="all")(images, torch.tensor([0, 0]))
    assert result.n_candidates.tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, -1, -1, -1]]
    assert not result.n_values[1, 3:].any()


def test_a_wrong_layer() -> None:
    with pytest.raises(UserError, match=r"target_layer=layr4 is no module.*Did you mean 'layer4'"):
        Suny(torchvision.models.resnet18(weights=None), "layr4")
    with pytest.raises(UserError, match="does not return a feature map"):
        Suny(SmallNet(), "fc")(noise(1, 3, 16, 16), torch.tensor([0]))


def test_a_layer_without_places_and_a_network_without_convolutions() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"target_layer=1 returns maps of 1 x 1: it has no places left to explain"):
        Suny(network, "1")(noise(1, 3, 8, 8), torch.tensor([0]))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(UserError, match=r"target_layer=2 does not return a feature map"):
        Suny(flat, "2")(noise(1, 3, 8, 8), torch.tensor([0]))


def test_a_plain_sequential_network() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    assert Suny(network, "1", k=3)(noise(2, 3, 12, 12), torch.tensor([0, 1])).saliency.shape == (2, 12, 12)


@pytest.mark.parametrize(("logic", "sign"), [("and", 1), ("or", -1)])
def test_interactions_tell_both_from_either(logic: str, sign: int) -> None:
    """Two filters and p between .1 and .9: v(12) - v(1) - v(2) + v(0) is +-.8 / .9 in the sufficiency game."""
    result = Suny(Synergy(logic), "features", cause="filter", candidates="all", estimator="exact")(
        torch.ones(1, 3, 8, 8), torch.tensor([0])
    )
    assert result.s_interactions.shape == (1, 3, 3)
    assert float(result.s_interactions[0, 0, 1]) == pytest.approx(sign * 0.8 / 0.9, rel=1e-5)
    assert float(result.n_interactions[0, 0, 1]) == pytest.approx(-sign * 0.8 / 0.9, rel=1e-5)
    assert float(result.s_interactions[0, 0, 2]) == pytest.approx(0, abs=1e-6)  # the third channel is dead
    sampled = Suny(Synergy(logic), "features", cause="filter", candidates="all", estimator="sampled", orders=4)(
        torch.ones(1, 3, 8, 8), torch.tensor([0])
    )
    assert bool(sampled.n_interactions.isnan().all())


def test_the_games_can_be_asked_for_any_coalition() -> None:
    network, image = SmallNet(), noise(3, 16, 16)
    engine = engine_for(network, 16, "relu")
    explainer = SunyExplainer(k=3)
    n, s = explainer.games(engine, image, 1)
    sides = explainer.sides(engine, image, 1, 0)
    assert sides.n is not None
    assert sides.s is not None
    assert n(np.array([[True] * 3]))[0] == pytest.approx(sides.n.estimate.full)
    assert s(np.array([[False] * 3]))[0] == pytest.approx(sides.s.estimate.empty)
