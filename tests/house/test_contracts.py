"""What classes of one's own give is checked where it comes in: maps, numbers, samples, and how classes describe themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.command.configuration import make_metric
from metrics.base import BaseMetric, Case, measure
from suny.classifiers.engine import Engine
from suny.configured import configured, make_target
from suny.errors import UserError
from suny.explanation import Explainer, Explanation, explained
from suny.images.dataset import Dataset, ImageList, Sample
from suny.images.geometry import Box


@configured
class Maps:
    """Returns what it is given."""

    make: Callable[[Tensor], Any]
    name: str = "maps"

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Any) -> Any:
        return self.make(images)


@configured
class Given(BaseMetric):
    """Returns what it is given."""

    higher_is_better = True
    unit = "none"
    reference = "none"

    name: str = "given"
    value: Any = 0.0

    def measure(self, case: Case) -> Any:
        return self.value


class Nameless(BaseMetric):
    higher_is_better = True


def explain(small_engine: Engine, make: Callable[[Tensor], Any]) -> Explanation:
    return explained(Maps(make=make), small_engine, torch.zeros(2, 3, 16, 16), torch.tensor([0, 1]), [0, 1])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: x[:, 0], "a Tensor, no suny.explanation.Explanation"),
        (lambda x: Explanation([]), "a saliency map of list"),
        (lambda x: Explanation(x[:, 0, :4, :4]), "shape (2, 4, 4), not torch.float32, shape (2, 16, 16)"),
        (lambda x: Explanation(x[:1, 0]), "shape (1, 16, 16), not torch.float32, shape (2, 16, 16)"),
        (lambda x: Explanation(x[:, 0].double()), "torch.float64"),
        (lambda x: Explanation(x[:, 0] - 0.25), "negative values (smallest -0.25)"),
        (lambda x: Explanation(x[:, 0].to("meta")), "a saliency map on meta, not on cpu"),
        (lambda x: Explanation(x[:, 0], necessity=x[:, 0] - 1), "a necessity map with negative values"),
        (lambda x: Explanation(x[:, 0], diagnostics=[{}]), "1 diagnostics for 2 images"),
    ],
)
def test_maps_that_break_the_contract(small_engine: Engine, make: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        explain(small_engine, make)
    assert said in str(error.value)
    assert f"class Maps ({__file__})" in str(error.value)


def test_maps_that_are_not_finite_pass_and_graphs_are_cut(small_engine: Engine) -> None:
    spoilt = explain(small_engine, lambda x: Explanation(torch.full((2, 16, 16), torch.nan)))
    assert bool(spoilt.saliency.isnan().all())
    graph = explain(small_engine, lambda x: Explanation(x[:, 0].clone().requires_grad_()))
    assert not graph.saliency.requires_grad


def case(engine: Engine) -> Case:
    return Case(engine, torch.zeros(3, 16, 16), 0, torch.zeros(16, 16))


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None), (0.5, 0.5), (1, 1), (1 + 1e-9, 1 + 1e-9), (True, 1.0), (np.float32(0.5), 0.5), (torch.tensor(0.5), 0.5),
        (np.array([0.25]), 0.25),
    ],
)  # fmt: skip
def test_numbers_of_usual_types_are_kept(small_engine: Engine, value: Any, kept: Any) -> None:
    measured = measure(Given(value=value), case(small_engine), "a")
    assert (type(measured), measured) == (type(kept), kept)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (1.5, "measure returned 1.5, outside of its range [0, 1]"),
        (-0.001, "measure returned -0.001, outside of its range [0, 1]"),
        ("high", "measure returned str 'high': return a float, or None"),
        (torch.zeros(2), "measure returned Tensor of shape (2,): return a float"),
    ],
)
def test_numbers_that_break_the_contract(small_engine: Engine, value: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        measure(Given(value=value), case(small_engine), "photo")
    assert f"metric 'given' of class Given ({__file__}), image photo: {said}" in str(error.value)


def test_curves_are_two_lists_of_equally_many_numbers(small_engine: Engine) -> None:
    @configured
    class Curve(Given):
        has_curve = True
        curve: Any = None

        def measure(self, case: Case) -> float:
            if self.curve is not None:
                case.curves[self.name] = self.curve
            return 0.5

    good = case(small_engine)
    measure(Curve(curve=(torch.tensor([1.0, 0.5]), np.array([0.0, 1.0]))), good, "a")
    assert good.curves["given"] == ([1.0, 0.5], [0.0, 1.0])
    for curve in (([1.0], [0.0, 1.0]), 3, ([1.0, "x"], [0.0, 1.0])):
        with pytest.raises(UserError, match="two lists of equally many numbers"):
            measure(Curve(curve=curve), case(small_engine), "a")


def test_a_class_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    here = __name__
    with pytest.raises(UserError, match=r"_target_=.*Given is no Explainer: class Given \(.*\) lacks explain\."):
        make_target({"_target_": f"{here}.Given"}, "method", Explainer)
    with pytest.raises(UserError, match=r"is no Dataset: class Given .* has to be derived from suny.images.dataset.Dataset"):
        make_target({"_target_": f"{here}.Given"}, "dataset", Dataset)
    monkeypatch.setitem(globals(), "Nameless", configured(Nameless))
    with pytest.raises(UserError, match=r"is no Metric: class Nameless .* lacks .*unit.*"):
        make_metric("nameless", {"_target_": f"{here}.Nameless"})


def test_a_metric_has_the_name_of_its_file() -> None:
    assert make_metric("given", {"_target_": f"{__name__}.Given"}).name == "given"
    with pytest.raises(UserError, match=r"metrics.other: class Given .* has the name 'given': give both one name"):
        make_metric("other", {"_target_": f"{__name__}.Given"})


@pytest.mark.parametrize(
    ("says", "said"),
    [
        ({"low": 1.0}, "low=1.0, high=1.0: give two numbers, low < high"),
        ({"higher_is_better": "yes"}, "higher_is_better='yes': give True, False, or None"),
        ({"needs": frozenset({"depth"})}, "give a set of boxes, masks, parts,"),
        ({"needs": "boxes"}, "give a set of boxes, masks, parts,"),
    ],
)
def test_what_a_metric_says_wrongly(monkeypatch: pytest.MonkeyPatch, says: dict[str, Any], said: str) -> None:
    for key, value in says.items():
        monkeypatch.setattr(Given, key, value)
    with pytest.raises(UserError, match=said):
        make_metric("given", {"_target_": f"{__name__}.Given"})


def test_samples_take_boxes_labels_and_paths_as_people_have_them() -> None:
    sample = Sample("a", "a.png", np.int64(3), [(1, 2, 3, 4), np.array([0.0, 0.0, 1.0, 1.0])])  # type: ignore[arg-type]
    assert sample == Sample("a", Path("a.png"), 3, (Box(1.0, 2.0, 3.0, 4.0), Box(0.0, 0.0, 1.0, 1.0)))
    assert type(sample.label) is int
    for wrong, said in (((1, 2, 3), "has the box (1, 2, 3): give edges"), ("wide", "has the box 'w': give edges")):
        with pytest.raises(UserError) as error:
            Sample("a", Path("a.png"), boxes=[wrong] if wrong != "wide" else wrong)  # type: ignore[arg-type]
        assert said in str(error.value)
    with pytest.raises(UserError, match="image a has the label 'cat', a str: give a class index"):
        Sample("a", Path("a.png"), "cat")  # type: ignore[arg-type]


@configured
class Listed(Dataset):
    found: Any = None

    def read(self) -> Any:
        return self.found


@pytest.mark.parametrize(
    ("names", "label", "said"),
    [
        ({0: "a", 1: "b"}, 2, "image x has class index 2, the class list has 0..1"),
        ({}, 0, "image x has class index 0, and there is no class list"),
    ],
)
def test_labels_out_of_range_are_told(tmp_path: Path, names: dict[int, str], label: int, said: str) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match=said):
        Listed(name="l", found=ImageList((Sample("x", tmp_path / "x.png", label),), names, "own", False)).load()


def test_a_data_set_that_reads_no_list() -> None:
    with pytest.raises(UserError, match=r"read returned a list, no ImageList: class Listed \("):
        Listed(name="l", found=[]).load()
