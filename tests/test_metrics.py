"""Metrics on networks solved by hand, and the numbers that the protocol states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from metrics.base import Case, Metric
from metrics.deletion_insertion import Deletion, Insertion, Overall, auc, curve, steps
from metrics.energy import EnergyProportion
from suny.images.geometry import Box

from .conftest import SmallNet, Weighted, engine_for, noise


def case(weights: list[list[float]], saliency: list[list[float]], image: Tensor | None = None) -> Case:
    """A one-image case on a network with p = sum of weights * red channel."""
    w = torch.tensor(weights)
    engine = engine_for(Weighted(torch.stack([w, torch.zeros_like(w), torch.zeros_like(w)])), len(weights), "features")
    ones = torch.ones(3, *w.shape)
    return Case(engine, ones if image is None else image, 0, torch.tensor(saliency))


@pytest.mark.parametrize(("points", "expected"), [(225, 0.0500), (29, 0.0521), (21, 0.0541), (11, 0.0657)])
def test_the_number_of_steps_is_part_of_the_number(points: int, expected: float) -> None:
    fractions = np.linspace(0, 1, points)
    assert auc(np.exp(-20 * fractions).tolist(), fractions.tolist()) == pytest.approx(expected, abs=5e-5)


def test_steps_of_rise() -> None:
    assert steps(224 * 224, 225) == [224 * i for i in range(225)]
    assert steps(224 * 224, 29) == [224 * 8 * i for i in range(29)]


def test_a_shorter_last_step_keeps_true_fractions() -> None:
    assert steps(299 * 299, 29)[-2:] == [27 * 3193, 299 * 299]
    assert len(steps(299 * 299, 29)) == 29
    assert steps(10, 4) == [0, 4, 8, 10]
    assert steps(3, 29) == [0, 1, 2, 3]
    assert steps(5, 2) == [0, 5]


def test_deletion_by_hand() -> None:
    # p = .7 + .3 of the two red pixels: removed in order of saliency 1, .3, 0
    c = case([[0.7, 0.3], [0.0, 0.0]], [[9.0, 5.0], [1.0, 0.0]])
    scores, fractions = curve(c, "deletion", "zero", 5)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.3, 0.0, 0.0, 0.0]))
    assert fractions == [0, 0.25, 0.5, 0.75, 1]
    assert Deletion(points=5).measure(c) == pytest.approx((0.5 + 0.3) / 4)


def test_insertion_by_hand() -> None:
    c = case([[0.7, 0.3], [0.0, 0.0]], [[9.0, 5.0], [1.0, 0.0]])
    assert Insertion(points=5, fill="zero").measure(c) == pytest.approx((0.7 + 1 + 1 + 0.5) / 4)
    assert c.notes["insertion_start"] == 0
    assert Overall(points=5, insertion_fill="zero").measure(c) == pytest.approx((3.2 - 0.8) / 4)


def test_the_last_step_is_weighed_by_its_width() -> None:
    c = case([[0.7, 0.3], [0.0, 0.0]], [[9.0, 5.0], [1.0, 0.0]])
    # three pixels a step, then one: p = 1, 0, 0 at 0, .75, 1
    assert Deletion(points=3).measure(case([[1.0, 0.0], [0.0, 0.0]], [[4.0, 3.0], [2.0, 1.0]])) == pytest.approx(0.25)
    scores, fractions = curve(c, "deletion", "zero", 4)
    assert fractions == [0, 0.5, 1]
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.0, 0.0]))


def test_ties_are_replaced_in_raster_order() -> None:
    scores, _ = curve(case([[0.1, 0.2], [0.3, 0.4]], [[0.0, 0.0], [0.0, 0.0]]), "deletion", "zero", 5)
    torch.testing.assert_close(scores, torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0]))


def test_insertion_starts_from_the_blurred_image() -> None:
    image = noise(3, 24, 24).abs()
    w = torch.full((3, 24, 24), 1 / (3 * 24 * 24 * 4))
    c = Case(engine_for(Weighted(w), 24, "features"), image, 0, torch.rand(24, 24))
    from suny.images.perturb import substrate

    scores, _ = curve(c, "insertion", "blur", 29)
    assert float(scores[0]) == pytest.approx(float((substrate(image, "blur") * w).sum()), abs=1e-6)
    assert float(scores[-1]) == pytest.approx(float((image * w).sum()), abs=1e-6)


def test_a_curve_is_run_once() -> None:
    c = case([[0.7, 0.3], [0.0, 0.0]], [[9.0, 5.0], [1.0, 0.0]])
    before = c.engine.cost
    for metric in (Deletion(points=5), Insertion(points=5), Overall(points=5), Deletion(points=5)):
        metric.measure(c)
    assert (c.engine.cost - before).forwards == 10
    Deletion(points=3).measure(c)  # another protocol is another curve
    assert (c.engine.cost - before).forwards == 13


def test_the_better_map_scores_better() -> None:
    network = SmallNet()
    engine = engine_for(network, 16, "relu")
    image = noise(3, 16, 16)
    target = int(engine.probabilities(image[None]).argmax())
    x = image.clone().requires_grad_()
    network(x[None])[0, target].backward()
    assert x.grad is not None
    gain = (x.grad * image).sum(0)
    good, bad = (Overall(points=29).measure(Case(engine, image, target, m - m.min())) for m in (gain, -gain))
    assert good > bad + 0.1


def energy(saliency: list[list[float]], *boxes: Box) -> float | None:
    c = case([[1.0, 0.0], [0.0, 0.0]], saliency)
    c.boxes = boxes
    return EnergyProportion().measure(c)


def test_energy_by_hand() -> None:
    saliency = [[1.0, 2.0], [3.0, 4.0]]
    assert energy(saliency, Box(0, 0, 1, 2)) == pytest.approx(0.4)  # the left column: x is the second axis
    assert energy(saliency, Box(0, 0, 2, 1)) == pytest.approx(0.3)  # the top row
    assert energy(saliency, Box(0, 0, 2, 1), Box(0, 0, 1, 2)) == pytest.approx(0.6)  # the union, not the sum
    assert energy(saliency, Box(0, 0, 2, 2)) == pytest.approx(1)
    assert energy(saliency, Box(0.6, 0, 2, 2)) == pytest.approx(0.6)  # pixel centres decide


def test_energy_is_not_defined_without_box_or_energy() -> None:
    assert energy([[1.0, 2.0], [3.0, 4.0]]) is None
    assert energy([[0.0, 0.0], [0.0, 0.0]], Box(0, 0, 1, 1)) is None


@pytest.mark.parametrize("metric", [Deletion(), Insertion(), Overall(), EnergyProportion()])
def test_the_contract(metric: Metric) -> None:
    assert isinstance(metric, Metric)
    assert metric.low < metric.high
    assert metric.version >= 1
    assert metric.reference
    engine = engine_for(SmallNet(), 16, "relu")
    for saliency in (torch.zeros(16, 16), torch.ones(16, 16), torch.rand(16, 16)):
        c = Case(engine, noise(3, 16, 16), 1, saliency.clone(), [Box(2, 2, 9, 9)])
        value = metric.measure(c)
        assert value is None or metric.low <= value <= metric.high
        assert torch.equal(c.saliency, saliency)
