"""Metrics on networks solved by hand, and the numbers that the protocol states."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy, spearmanr
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torchcam.metrics import ClassificationMetric, DeletionInsertionMetric

from experiments.command.configuration import CONF, make_target
from experiments.command.program import composed
from metrics.attack import SaliencyAttack
from metrics.base import BaseMetric, Case, Frame, Metric
from metrics.deletion_insertion import Deletion, Insertion, Overall, auc, curve, steps
from metrics.drop_keep import (
    AverageDrop,
    HarmonicMean,
    IncreaseInConfidence,
    Necessity,
    NecessityAt,
    Sufficiency,
    SufficiencyAt,
)
from metrics.energy import EnergyProportion, EnergyProportionMask
from metrics.localization import BoxAccuracy, PartHits, PointingGame, PointingGameMask, RegionIou, contour_boxes
from metrics.map_statistics import Entropy, HalfMassArea, Ties
from metrics.sanity import Sanity, similarity
from metrics.statistics import class_mean_interval, maximum_interval, mean_interval
from suny.classifiers.engine import Engine
from suny.configured import configured
from suny.images.geometry import Box
from suny.interventions.pixels import pixel_order
from tests.conftest import SmallNet, Weighted, engine_for, noise


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
    torch.testing.assert_close(torch.tensor(scores), torch.tensor([1.0, 0.3, 0.0, 0.0, 0.0]))
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
    torch.testing.assert_close(torch.tensor(scores), torch.tensor([1.0, 0.0, 0.0]))


def test_ties_are_replaced_in_raster_order() -> None:
    scores, _ = curve(case([[0.1, 0.2], [0.3, 0.4]], [[0.0, 0.0], [0.0, 0.0]]), "deletion", "zero", 5)
    torch.testing.assert_close(torch.tensor(scores), torch.tensor([1.0, 0.9, 0.7, 0.4, 0.0]))


def test_insertion_starts_from_the_blurred_image() -> None:
    image = noise(3, 24, 24).abs()
    w = torch.full((3, 24, 24), 1 / (3 * 24 * 24 * 4))
    c = Case(engine_for(Weighted(w), 24, "features"), image, 0, torch.rand(24, 24))
    from suny.interventions.pixels import substrate

    scores, _ = curve(c, "insertion", "blur", 29)
    assert float(scores[0]) == pytest.approx(float((substrate(image, "blur") * w).sum()), abs=1e-6)
    assert float(scores[-1]) == pytest.approx(float((image * w).sum()), abs=1e-6)


def test_a_curve_is_run_once() -> None:
    c = case([[0.7, 0.3], [0.0, 0.0]], [[9.0, 5.0], [1.0, 0.0]])
    before = c.engine.cost
    for metric in (Deletion(points=5), Insertion(points=5), Overall(points=5), Deletion(points=5)):
        metric.measure(c)
    # the clean image, three steps of each curve, and the two substrates
    assert (c.engine.cost - before).forwards == 1 + 2 * 4
    Deletion(points=3).measure(c)  # its points are among those of the longer curve
    assert (c.engine.cost - before).forwards == 9
    Deletion(points=5, ties="reverse").measure(c)  # another protocol is another curve
    assert (c.engine.cost - before).forwards == 12


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


# necessity and sufficiency


def test_both_sides_by_hand() -> None:
    """p = .4 + .3 + .1 + 0 of four pixels, of p(I) = .8; ranked 1, 3, 2, 4 by the map."""
    c = case([[0.4, 0.3], [0.1, 0.0]], [[9.0, 2.0], [5.0, 1.0]])
    removed, kept = [0, 0.5, 0.625, 1, 1], [0, 0.5, 0.625, 1, 1]  # the network is additive: the sides are one
    assert Necessity(points=5).measure(c) == pytest.approx(np.trapezoid(removed, dx=0.25), rel=1e-5)
    assert Sufficiency(points=5).measure(c) == pytest.approx(np.trapezoid(kept, dx=0.25), rel=1e-5)
    assert NecessityAt(q=25.0).measure(c) == pytest.approx(0.5, rel=1e-5)
    assert SufficiencyAt(q=50.0).measure(c) == pytest.approx(0.625, rel=1e-5)
    assert HarmonicMean(points=5).measure(c) == pytest.approx(np.trapezoid(kept, dx=0.25), rel=1e-5)


class Both(nn.Module):
    """p_0 = a * b of the first two pixels (AND): either one is needed, none alone suffices."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)[:, 0]
        p = (x[:, 0, 0] * x[:, 0, 1]).clamp(0, 1)
        return torch.stack([p.log(), (1 - p).log()], 1)


def test_the_sides_differ_where_both_are_needed() -> None:
    c = Case(engine_for(Both(), 2, "features"), torch.ones(3, 2, 2), 0, torch.tensor([[4.0, 3.0], [2.0, 1.0]]))
    assert NecessityAt(q=25.0).measure(c) == pytest.approx(1)
    assert SufficiencyAt(q=25.0).measure(c) == pytest.approx(0)
    assert SufficiencyAt(q=50.0).measure(c) == pytest.approx(1)
    n, s = Necessity(points=5).measure(c), Sufficiency(points=5).measure(c)
    assert (n, s) == (pytest.approx(7 / 8), pytest.approx(5 / 8))
    assert HarmonicMean(points=5).measure(c) == pytest.approx(2 * n * s / (n + s))


def test_each_side_is_scored_with_its_own_map_and_crossed() -> None:
    c = case([[0.4, 0.3], [0.1, 0.0]], [[9.0, 2.0], [5.0, 1.0]])
    c.necessity, c.sufficiency = torch.tensor([[4.0, 3.0], [2.0, 1.0]]), torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert NecessityAt(q=25.0, side="necessity").measure(c) == pytest.approx(0.5, rel=1e-5)
    assert NecessityAt(q=25.0, side="sufficiency").measure(c) == pytest.approx(0, abs=1e-6)
    assert SufficiencyAt(q=50.0, side="sufficiency").measure(c) == pytest.approx(0.1 / 0.8, rel=1e-5)
    assert Necessity(side="necessity").needs == {"sides"}
    assert Necessity().needs == frozenset()


def test_forwards_are_shared_across_metrics() -> None:
    """With the points of the areas among those of the curve, deletion is free after necessity, insertion after sufficiency."""
    c = case([[0.4, 0.3], [0.1, 0.0]], [[9.0, 2.0], [5.0, 1.0]])
    for metric in (Necessity(points=5), Sufficiency(points=5), HarmonicMean(points=5)):
        metric.measure(c)
    before = c.engine.cost
    for metric in (Deletion(points=5), Insertion(points=5, fill="zero"), NecessityAt(q=50.0), Deletion(points=3)):
        metric.measure(c)
    assert (c.engine.cost - before).forwards == 0


def test_the_masked_image_by_hand() -> None:
    """The map from 0 to 1 is 1, 0, .5, .25; O = .4 + .05 of Y = .8."""
    c = case([[0.4, 0.3], [0.1, 0.0]], [[5.0, 1.0], [3.0, 2.0]])
    assert AverageDrop().measure(c) == pytest.approx((0.8 - 0.45) / 0.8, rel=1e-5)
    assert IncreaseInConfidence().measure(c) == 0
    negative = case([[0.4, -0.2], [0.1, 0.0]], [[5.0, 1.0], [3.0, 2.0]])  # O = .45 of Y = .3
    assert AverageDrop().measure(negative) == 0
    assert IncreaseInConfidence().measure(negative) == 1
    same = case([[0.4, 0.0], [0.0, 0.0]], [[5.0, 1.0], [3.0, 2.0]])  # O = Y: strictly more is asked for
    assert IncreaseInConfidence().measure(same) == 0
    constant = case([[0.4, 0.3], [0.1, 0.0]], [[2.0, 2.0], [2.0, 2.0]])
    assert AverageDrop().measure(constant) == pytest.approx(1)


class Extractor:
    """What torch-cam's metrics ask of a CAM extractor: here a map that is given."""

    def __init__(self, model: nn.Module, maps: Tensor) -> None:
        self.model = model
        self.maps = maps

    def __call__(self, *_: object, **__: object) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


@pytest.mark.parametrize("seed", [0, 1])
def test_agreement_with_torch_cam_in_its_own_settings(seed: int) -> None:
    network, image = SmallNet().eval(), noise(3, 16, 16, seed=seed)
    saliency = (noise(16, 16, seed=seed + 10).clamp(min=0) * 4).round()  # with ties
    extractor = Extractor(network, saliency[None])
    theirs = DeletionInsertionMetric(extractor, lambda x: x.softmax(1))
    theirs.update(image[None], class_idx=1)
    c = Case(engine_for(network, 16, "relu"), image, 1, saliency)
    assert Deletion(points=21).measure(c) == pytest.approx(theirs.summary()["deletion_auc"], rel=1e-5)
    assert Insertion(points=21, fill="zero").measure(c) == pytest.approx(theirs.summary()["insertion_auc"], rel=1e-5)
    normalised = (saliency - saliency.min()) / (saliency.max() - saliency.min())
    classical = ClassificationMetric(Extractor(network, normalised[None]), lambda x: x.softmax(1))
    classical.update(image[None], class_idx=1)
    summary = classical.summary()
    assert AverageDrop().measure(c) == pytest.approx(summary["avg_drop"], rel=1e-4, abs=1e-6)
    assert IncreaseInConfidence().measure(c) == summary["conf_increase"]


def test_rises_order_of_ties() -> None:
    """numpy's flip(argsort) of values that its stable sort leaves in raster order."""
    saliency = torch.tensor([[1.0, 2.0, 1.0], [2.0, 0.0, 1.0]])
    flipped = np.flip(np.argsort(saliency.numpy().ravel(), kind="stable"))
    assert pixel_order(saliency, "reverse").tolist() == flipped.tolist() == [3, 1, 5, 2, 0, 4]
    assert pixel_order(saliency).tolist() == [1, 3, 0, 2, 5, 4]


# localization


def pointing(point: tuple[int, int], *boxes: Box, tolerance: int = 15, scale: float = 1.0) -> float | None:
    c = case([[0.0] * 40] * 40, [[0.0] * 40] * 40)
    c.saliency[point[1], point[0]] = 1.0
    c.boxes = [Box(0, 0, 40, 40)] if boxes else []  # what the crop has left of them
    c.frame = Frame(boxes, lambda x, y: (x / scale, y / scale))
    return PointingGame(tolerance=tolerance).measure(c)


def test_pointing_game_by_hand() -> None:
    box = Box(20, 20, 30, 30)  # pixels 20..29
    assert pointing((25, 25), box) == 1
    assert pointing((25, 6), box) == 1  # 14 pixels above the first row
    assert pointing((25, 5), box) == 0  # 15: strictly under is asked for
    assert pointing((10, 10), box) == 1  # 10, 10: 200 < 225
    assert pointing((9, 9), box) == 0  # 11, 11: 242
    assert pointing((9, 9), box, Box(0, 0, 2, 2)) == 1  # several boxes: the nearest
    assert pointing((20, 20), box, tolerance=0) == 1
    assert pointing((19, 20), box, tolerance=0) == 0
    assert pointing((5, 5), Box(50, 50, 60, 60), scale=0.1) == 1  # pixel 55 of the original
    assert pointing((5, 5)) is None


def pointing_at_mask(point: tuple[int, int], *inside: tuple[int, int], tolerance: int = 15, scale: float = 1.0) -> float | None:
    """The game on a mask of 40 x 40 pixels, of which a few (x, y) are inside."""
    c = case([[0.0] * 40] * 40, [[0.0] * 40] * 40)
    c.saliency[point[1], point[0]] = 1.0
    mask = np.zeros((40, 40), bool)
    for x, y in inside:
        mask[y, x] = True
    c.mask = torch.ones(40, 40, dtype=torch.bool) if inside else torch.zeros(40, 40, dtype=torch.bool)
    c.frame = Frame((), lambda x, y: (x / scale, y / scale), mask)
    return PointingGameMask(tolerance=tolerance).measure(c)


def test_pointing_game_on_masks_by_hand() -> None:
    corner = ((20, 20), (20, 21), (21, 20))  # the box of these has the pixel 21, 21 too
    assert pointing_at_mask((20, 20), *corner, tolerance=0) == 1
    assert pointing_at_mask((21, 21), *corner, tolerance=0) == 0
    assert pointing_at_mask((21, 21), *corner, tolerance=1) == 0  # 1: strictly under is asked for
    assert pointing_at_mask((21, 21), *corner, tolerance=2) == 1
    assert pointing_at_mask((20, 6), *corner) == 1  # 14 pixels above the first row
    assert pointing_at_mask((20, 5), *corner) == 0  # 15
    assert pointing_at_mask((10, 10), *corner) == 1  # 10, 10: 200 < 225
    assert pointing_at_mask((9, 9), *corner) == 0  # 11, 11: 242
    assert pointing_at_mask((9, 9), *corner, (0, 0)) == 1  # the nearest of several instances
    assert pointing_at_mask((39, 0), (39, 14)) == 1
    assert pointing_at_mask((5, 5), (11, 11), tolerance=0, scale=0.5) == 1  # 5.5 of the view is 11 of the original
    assert pointing_at_mask((5, 5), (10, 10), tolerance=0, scale=0.5) == 0
    assert pointing_at_mask((30, 30), (39, 39), scale=0.5) == 0  # 61 is no pixel of the original: 22 away
    assert pointing_at_mask((5, 5)) is None  # the crop has lost all of it
    assert PointingGameMask().measure(case([[0.0] * 2] * 2, [[1.0] * 2] * 2)) is None


def test_a_mask_that_is_a_box_gives_the_numbers_of_the_box() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        (x0, x1), (y0, y1) = (sorted(generator.choice(41, 2, replace=False)) for _ in range(2))
        x, y = (int(v) for v in generator.integers(0, 40, 2))
        inside = [(int(i), int(j)) for i in range(x0, x1) for j in range(y0, y1)]
        assert pointing_at_mask((x, y), *inside, tolerance=7) == pointing((x, y), Box(x0, y0, x1, y1), tolerance=7)


def test_energy_in_a_mask_by_hand() -> None:
    c = case([[0.0] * 3] * 3, [[1.0, 2.0, 3.0], [4.0, 0.0, 6.0], [0.0, 0.0, 4.0]])
    assert EnergyProportionMask().measure(c) is None
    c.mask = torch.tensor([[True, False, True], [False, True, False], [True, False, False]])
    assert EnergyProportionMask().measure(c) == 4 / 20
    c.mask = torch.zeros(3, 3, dtype=torch.bool)
    assert EnergyProportionMask().measure(c) is None
    c.saliency, c.mask = torch.zeros(3, 3), torch.ones(3, 3, dtype=torch.bool)
    assert EnergyProportionMask().measure(c) is None


def test_pointing_is_averaged_over_classes() -> None:
    """Two of three hit in one class, none of one in the other."""
    entry = PointingGame().summarise([1, 1, 0, 0], ["a", "a", "a", "b"])
    assert entry["mean"] == pytest.approx((2 / 3 + 0) / 2)
    assert (entry["n"], entry["classes"]) == (4, 2)
    # 4 images, 2 classes of 3 and 1: weights 4 / (2 * 3) and 4 / (2 * 1)
    each = PointingGame().each([1, 1, 0, 0], ["a", "a", "a", "b"])
    assert each == pytest.approx([2 / 3, 2 / 3, 0, 0])
    assert np.mean(each) == pytest.approx(entry["mean"])
    assert entry["ci95"][0] <= entry["mean"] <= entry["ci95"][1]
    assert class_mean_interval([], [])["mean"] is None
    one_class = class_mean_interval([0.0, 1.0, 1.0, 0.5], ["a"] * 4)
    assert one_class["ci95"] == pytest.approx(mean_interval([0.0, 1.0, 1.0, 0.5])["ci95"], abs=0.02)


def test_boxes_of_contours_are_the_references() -> None:
    mask = np.zeros((60, 60), bool)
    mask[10:20, 10:20] = True
    ((x0, y0, x1, y1),) = contour_boxes(mask, largest=True)
    assert (x0, y0, x1, y1) == (10, 10, 20, 20)
    # 10 x 10 pixels against the reference's 11 x 11: IoU .826
    assert 100 / ((x1 - x0 + 1) * (y1 - y0 + 1)) == pytest.approx(0.826, abs=5e-4)
    mask[40:44, 40:44] = True
    assert len(contour_boxes(mask, largest=True)) == 1
    assert len(contour_boxes(mask, largest=False)) == 2
    mask[:] = True
    assert contour_boxes(mask, largest=True).tolist() == [[0, 0, 59, 59]]  # the border ends a box
    assert contour_boxes(np.zeros((5, 5), bool), largest=True).shape == (0, 4)


def box_case(saliency: Tensor, *boxes: Box) -> Case:
    return Case(engine_for(SmallNet(), 16, "relu"), noise(3, 16, 16), 0, saliency, list(boxes))


def test_box_accuracy_by_hand() -> None:
    """A plateau of 1 in 0: its box is found at every threshold from 0 to .999."""
    saliency = torch.zeros(224, 224)
    saliency[50:110, 60:160] = 1.0
    found = BoxAccuracy().measure(box_case(saliency, Box(60, 50, 160, 110)))
    assert found == {"0.5": [[0, 1000]]}
    far = BoxAccuracy().measure(box_case(saliency, Box(0, 0, 50, 40)))
    assert far == {"0.5": []}
    assert BoxAccuracy().measure(box_case(saliency)) is None
    # IoU of 100 x 60 (101 x 61 as the reference counts) with 100 x 120 is about .51
    half = BoxAccuracy(ious=[0.3, 0.5, 0.7]).measure(box_case(saliency, Box(60, 50, 160, 170)))
    assert half == {"0.3": [[0, 1000]], "0.5": [[0, 1000]], "0.7": []}


def test_any_contour_or_the_largest() -> None:
    saliency = torch.zeros(224, 224)
    saliency[10:60, 10:60] = 1.0
    saliency[100:220, 100:220] = 1.0
    small = Box(10, 10, 60, 60)
    assert BoxAccuracy(largest=True).measure(box_case(saliency, small)) == {"0.5": []}
    assert BoxAccuracy(largest=False).measure(box_case(saliency, small)) == {"0.5": [[0, 1000]]}


def test_one_threshold_for_the_whole_data_set() -> None:
    """Each image is right somewhere, two of three at thresholds 500..599: never each image's own best."""
    values = [{"0.5": [[0, 600]]}, {"0.5": [[500, 700]]}, {"0.5": [[900, 1001]]}]
    entry = BoxAccuracy().summarise(values, [0, 0, 0])
    assert entry["mean"] == pytest.approx(2 / 3)
    assert entry["threshold"] == [500]
    assert entry["n"] == 3
    assert len(entry["curve"][0]) == 101
    assert entry["curve"][0][40:72:10] == pytest.approx([1 / 3, 2 / 3, 1 / 3, 0])  # at .4, .5, .6, .7
    assert BoxAccuracy().each(values, [0, 0, 0]) == [1, 1, 0]
    assert BoxAccuracy().each([], []) == []
    several = BoxAccuracy(ious=[0.5, 0.7]).summarise([v | {"0.7": []} for v in values], [0, 0, 0])
    assert several["mean"] == pytest.approx(1 / 3)
    assert BoxAccuracy(ious=[0.5, 0.7]).each([v | {"0.7": []} for v in values], [0, 0, 0]) == [0.5, 0.5, 0]


def test_the_interval_of_a_maximum() -> None:
    right = np.zeros((1, 40, 3), bool)
    right[0, :30, 1] = True
    low, high = maximum_interval(right)["ci95"]
    assert low < 0.75 < high
    # a share of 40 independent images: its standard error is .068
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.75 * 0.25 / 40), rel=0.25)


def test_the_interval_of_a_maximum_by_hand() -> None:
    """Five maps, each right at two of five thresholds. At any one of these two are right, so that a resample has Binomial(5,
    2/5) of five: 0 with a probability of .078, at most 3 with .913, at most 4 with .990."""
    right = np.zeros((1, 5, 5), bool)
    for image in range(5):
        right[0, image, [image, (image + 1) % 5]] = True
    found = maximum_interval(right)
    assert (found["mean"], found["n"], found["threshold"]) == (pytest.approx(0.4), 5, [0])
    assert found["ci95"] == pytest.approx([0, 0.8])
    both = maximum_interval(np.concatenate([right, np.ones_like(right)]))  # a second criterion that always holds
    assert (both["mean"], both["ci95"]) == (pytest.approx(0.7), pytest.approx([0.5, 0.9]))
    assert maximum_interval(right[:, :1])["ci95"] == [None, None]
    assert maximum_interval(right[:, :0]) == {"mean": None, "ci95": [None, None], "n": 0}


def test_the_interval_of_a_maximum_covers_the_best_share() -> None:
    """An image is right from a threshold in [0, .5) to one in [.2, 1), each uniform: of all images a share of
    min(2 t, 1) min(1.25 (1 - t), 1) is right at t, at most .625, where t is .5."""
    rng, thresholds = np.random.default_rng(0), np.arange(101) / 100
    covered = []
    for _ in range(200):
        first, last = rng.uniform(0, 0.5, (60, 1)), rng.uniform(0.2, 1, (60, 1))
        low, high = maximum_interval(((first <= thresholds) & (thresholds < last))[None])["ci95"]
        covered.append(low <= 0.625 <= high)
    assert 0.90 <= np.mean(covered) <= 0.99


def test_iou_by_hand() -> None:
    saliency = torch.zeros(4, 4)
    saliency[0, :] = torch.tensor([1.0, 0.5, 0.4, 0.0])
    c = case([[0.0] * 4] * 4, saliency.tolist())
    c.boxes = [Box(1, 0, 3, 1)]
    assert RegionIou().measure(c) == pytest.approx(1 / 3)  # found 0, 1; inside 1, 2
    c.saliency = torch.ones(4, 4)
    assert RegionIou().measure(c) == 0  # a constant map finds nothing
    c.boxes = []
    assert RegionIou().measure(c) is None


def test_parts_by_hand() -> None:
    saliency = torch.zeros(10, 10)
    saliency[2, 3], saliency[7, 7] = 5.0, 4.0
    c = case([[0.0] * 10] * 10, saliency.tolist())
    c.parts = [("beak", 3.9, 2.0), ("tail", 7.0, 7.0), ("crown", 0.0, 0.0)]
    assert PartHits(q=2.0).measure(c) == pytest.approx(2 / 3)
    assert c.notes["part_hits"] == ["beak", "tail"]
    assert PartHits(q=1.0).measure(c) == pytest.approx(1 / 3)
    c.necessity = saliency.flip(0)
    assert PartHits(name="part_hits_n", q=2.0, side="necessity").measure(c) == 0
    c.parts = []
    assert PartHits().measure(c) is None


# attack, statistics, sanity


def test_the_attack_changes_only_what_it_may() -> None:
    network, image = SmallNet(), noise(3, 16, 16)
    engine = engine_for(network, 16, "relu")
    seen: list[Tensor] = []
    engine.network.register_forward_pre_hook(lambda _m, inputs: seen.append(inputs[0].detach().clone()))
    saliency = torch.arange(256.0).reshape(16, 16)
    c = Case(engine, image, 1, saliency)
    value = SaliencyAttack(q=25.0, epsilon=0.2, steps=4).measure(c)
    most, least = seen[-1]
    changed = (most - image).abs().amax(0) > 0
    assert float((most - image).abs().max()) <= 0.2 + 1e-6
    assert not bool(changed[:12].any())
    assert bool(changed[12:].any())
    assert not bool(((least - image).abs().amax(0) > 0)[4:].any())
    assert value is not None
    assert c.notes["attack_drop_most_salient"] > 0
    expected = c.notes["attack_drop_most_salient"] / max(c.notes["attack_drop_least_salient"], 1e-3)
    assert value == pytest.approx(expected)
    assert SaliencyAttack(q=25.0, epsilon=0.2, steps=4).measure(Case(engine, image, 1, saliency)) == value


def test_the_attack_by_hand() -> None:
    """p = .05 of each of ten pixels, all colours together; epsilon .2 takes .2 of what two pixels give."""
    weights = torch.full((3, 1, 10), 0.05 / 3)
    engine = engine_for(Weighted(weights.expand(3, 10, 10) / 10), 10, "features")
    c = Case(engine, torch.ones(3, 10, 10), 0, torch.arange(100.0).reshape(10, 10))
    assert SaliencyAttack(q=20.0, epsilon=0.2).measure(c) == pytest.approx(1, rel=1e-4)
    assert c.notes["attack_drop_most_salient"] == pytest.approx(0.2 * 0.2, rel=1e-4)


def test_map_statistics_by_hand() -> None:
    c = case([[0.0, 0.0], [0.0, 0.0]], [[4.0, 2.0], [1.0, 1.0]])
    assert Ties().measure(c) == 0.5
    assert HalfMassArea().measure(c) == 0.25
    assert Entropy().measure(c) == pytest.approx(entropy([4, 2, 1, 1]) / np.log(4))
    flat = case([[0.0, 0.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 3.0]])
    assert (Ties().measure(flat), HalfMassArea().measure(flat)) == (1, 0.5)
    assert Entropy().measure(flat) == pytest.approx(1)
    zero = case([[0.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]])
    assert Entropy().measure(zero) is None
    assert HalfMassArea().measure(zero) is None


def test_similarity_is_scipys_and_scikit_images() -> None:
    a, b = noise(16, 16).abs(), noise(16, 16, seed=1).abs()
    rank, structure = similarity(a, b)
    assert rank == pytest.approx(spearmanr(a.flatten(), b.flatten()).statistic)
    scaled = [((x - x.min()) / (x.max() - x.min())).double().numpy() for x in (a, b)]
    assert structure == pytest.approx(structural_similarity(*scaled, data_range=1.0), rel=1e-4)
    assert similarity(a, 3 * a + 1)[0] == pytest.approx(1)
    assert similarity(a, torch.ones(16, 16)) == (None, None)


def test_sanity_randomises_from_the_output_down(small_engine: Engine) -> None:
    stages = list(small_engine.cascade(3, seed=0))
    assert [name for name, _ in stages] == ["fc", "bn", "conv"]
    states = [engine.source.state_dict() for _, engine in stages]
    own = small_engine.source.state_dict()
    changed = [{k.split(".")[0] for k in own if not torch.equal(own[k], state[k])} for state in states]
    assert changed == [{"fc"}, {"fc", "bn"}, {"fc", "bn", "conv"}]
    assert torch.equal(states[0]["fc.weight"], states[2]["fc.weight"])  # cumulative: a layer keeps its random weights
    assert small_engine.randomised(0) is stages[2][1]
    other = next(small_engine.cascade(3, seed=1))[1]
    assert not torch.equal(other.source.state_dict()["fc.weight"], states[0]["fc.weight"])


def test_sanity_of_a_map_that_ignores_the_weights_and_of_one_that_does_not(small_engine: Engine) -> None:
    from baselines.controls import Edges, Random
    from baselines.gradient_cams import GradientCam

    image, target = noise(3, 16, 16), 1
    found = {}
    for explainer in (Edges(), GradientCam(), Random()):

        def explain(engine: Engine, seed: int, explainer: Any = explainer) -> Tensor:
            return explainer.explain(engine, image[None], torch.tensor([target]), [seed]).saliency[0]

        c = Case(small_engine, image, target, explain(small_engine, 5), seed=5, explain=explain)
        found[explainer.name] = Sanity(stages=3).measure(c)
    assert all(pair[0] == pytest.approx(1) for pair in found["edges"].values())
    assert found["gradcam"]["identical"][0] == pytest.approx(1)
    assert found["gradcam"]["conv"][0] is None or found["gradcam"]["conv"][0] < 0.9
    assert found["random"]["identical"][0] == pytest.approx(1)  # the same seed
    assert abs(found["random"]["other seed"][0]) < 0.3  # its noise floor
    by_hand = {"identical": [1, 1], "other seed": [1, 1], "fc": [0.4, 0.9], "conv": [None, 0.9], "bn": [0.2, 0.9]}
    assert Sanity().each([by_hand, {"identical": [1, 1], "fc": [None, None]}], [0, 0]) == [pytest.approx(0.3), None]
    entry = Sanity(stages=3).summarise([found["edges"], found["edges"]], [0, 0])
    assert entry["mean"] == pytest.approx(1)
    assert list(entry["stages"]) == ["identical", "other seed", "fc", "bn", "conv"]


# the contract


def all_metrics() -> dict[str, Metric]:
    found = {}
    files = sorted(path.stem for path in (CONF / "metrics").glob("*.yaml"))
    for name, node in composed([f"metrics=[{','.join(files)}]"])["metrics"].items():
        keys = {k: list(v) if k == "ious" else v for k, v in node.items()}
        found[name] = make_target(keys, name, Metric)
    return found


METRICS = all_metrics()


def test_a_metric_states_only_what_is_its_own() -> None:
    @configured
    class MapMean(BaseMetric):
        name = "map_mean"
        higher_is_better = None
        unit = "that of the map"
        reference = "here"

        power: int = 1

        def measure(self, case: Case) -> float:
            return float(case.saliency.mean() ** self.power)

    metric = MapMean(power=2)
    assert isinstance(metric, Metric)
    assert asdict(metric) == {"power": 2}  # what the base says is no setting
    assert (metric.label, metric.low, metric.high, metric.version) == ("map mean", 0, 1, 1)
    assert (metric.needs, metric.has_curve) == (frozenset(), False)


def test_a_metric_without_a_unit_is_none() -> None:
    @configured
    class Unitless(BaseMetric):
        name = "unitless"
        higher_is_better = True
        reference = "here"

        def measure(self, case: Case) -> float:
            return 0.0

    assert not isinstance(Unitless(), Metric)


@pytest.mark.parametrize("name", sorted(METRICS))
def test_the_contract(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.low < metric.high
    assert metric.version >= 1
    assert metric.reference
    assert metric.unit
    assert metric.label
    engine = engine_for(SmallNet(), 16, "relu")

    def explain(other: Engine, seed: int) -> Tensor:
        return torch.rand(16, 16, generator=torch.Generator().manual_seed(seed))

    for saliency in (torch.zeros(16, 16), torch.ones(16, 16), torch.rand(16, 16)):
        c = Case(
            engine,
            noise(3, 16, 16),
            1,
            saliency.clone(),
            [Box(2, 2, 9, 9)],
            [("beak", 3.0, 4.0)],
            saliency.clone(),
            saliency.clone(),
            Frame([Box(2, 2, 9, 9)], lambda x, y: (x, y)),
            explain=explain,
            mask=torch.rand(16, 16) > 0.5,
        )
        value = metric.measure(c)
        assert value is None or isinstance(value, dict) or metric.low <= value <= metric.high
        assert torch.equal(c.saliency, saliency)
        if hasattr(metric, "summarise") and value is not None:
            entry = metric.summarise([value, value], [0, 0])
            assert entry["n"] in (0, 2)
            assert entry["mean"] is None or metric.low <= entry["mean"] <= metric.high
