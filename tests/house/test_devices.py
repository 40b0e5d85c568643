"""No tensor of an explainer or of a metric is made on the wrong device: all of them run on a pretended card (pretended.py)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from tqdm import tqdm

import suny
from baselines.controls import Center
from experiments.benchmark import agreement
from experiments.benchmark.common import explainer
from experiments.command import configuration as config
from experiments.command.configuration import CONF
from experiments.command.program import composed
from suny.classifiers.engine import Engine, Precision
from suny.explanation import Explainer, Explanation
from tests.conftest import SmallNet, noise
from tests.pretended import OnCard, pretended_card

METHODS = sorted(str(p.relative_to(CONF / "method").with_suffix("")) for p in (CONF / "method").rglob("*.yaml"))
_FEWER = {
    "method.orders=2": ["suny_region", "search/grid_6", "search/grid_blur"],
    "method.k=3": ["suny_groups", "search/groups_b", "search/groups_blur", "search/groups_painted", "search/topk_blur"],
    "method.coalitions=20": [
        *(
            "suny_semi",
            "suny_two",
            "search/flat",
            "search/large_blocks",
            "search/product",
            "search/shapley",
            "search/small_blocks",
        ),
        *("search/small_coalitions", "search/zero"),
    ],
    "method.masks=20": ["rise"],
}
FEW = {**agreement.FEW, **{name: [setting] for setting, names in _FEWER.items() for name in names}}


@pytest.fixture
def card() -> Iterator[torch.device]:
    with pretended_card() as device:
        yield device


def engine_on(device: torch.device | str, precision: Precision = "float32") -> Engine:
    return Engine(SmallNet().eval(), "relu", (16, 16), device, precision, batch_size=4)


# the pretended card refuses what CUDA refuses, and nothing else


class Careless(Center):
    """Adds a blank map of the CPU."""

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        found = super().explain(engine, images, targets, seeds)
        return Explanation(found.saliency + torch.zeros(images.shape[-2:]))


class NeverMoved(Center):
    """Leaves its map on the CPU."""

    def explain(self, engine: Engine, images: Tensor, targets: Tensor, seeds: Sequence[int]) -> Explanation:
        return Explanation(torch.ones(len(images), *images.shape[-2:]))


def test_a_map_made_on_the_wrong_device_is_found() -> None:
    engine, images = engine_on("cpu"), noise(2, 3, 16, 16)
    for planted in (Careless(), NeverMoved()):  # on the CPU nothing is to be seen
        assert planted.explain(engine, images, torch.tensor([0, 1]), [0, 1]).saliency.shape == (2, 16, 16)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        same_on_card(Careless())
    with pytest.raises(AssertionError, match="saliency"):
        same_on_card(NeverMoved())


REFUSED: dict[str, tuple[type[Exception], str, Callable[[Tensor, Tensor], Any]]] = {
    "a sum": (RuntimeError, "same device", lambda x, y: x + y),
    "a sum in place": (RuntimeError, "same device", lambda x, y: x.add_(y)),
    "a sum that is kept on the CPU": (RuntimeError, "same device", lambda x, y: torch.add(y, y, out=x)),
    "a scalar of the card": (RuntimeError, "same device", lambda x, y: y * x.sum()),
    "a list": (RuntimeError, "same device", lambda x, y: torch.stack([x, y])),
    "scalars in a list": (RuntimeError, "same device", lambda x, y: torch.stack([x.sum(), y.sum()])),
    "a product": (RuntimeError, "same device", lambda x, y: torch.einsum("ij,ij->i", x, y)),
    "a layer that was not moved": (RuntimeError, "same device", lambda x, _: nn.Linear(3, 2)(x)),
    "indices of the card": (RuntimeError, "indices", lambda x, y: y[x.argmax(0)]),
    "indices of the CPU": (RuntimeError, "indices", lambda x, y: x[y.argmax(0)]),
    "a mask of the card": (RuntimeError, "indices", lambda x, y: y.__setitem__(x > 0, 0.0)),
    "values of the CPU at indices": (RuntimeError, "same device", lambda x, y: x.__setitem__(x[0] > 0, y[0])),
    "the other of two": (RuntimeError, "same device", lambda x, y: torch.where(x > 0, x, y)),
    "NumPy": (TypeError, "Tensor.cpu", lambda x, _: x.numpy()),
    "NumPy by itself": (TypeError, "Tensor.cpu", lambda x, _: __import__("numpy").asarray(x)),
    "a generator of the CPU": (
        RuntimeError,
        "generator",
        lambda x, _: torch.rand(3, device=x.device, generator=torch.Generator()),
    ),
    "a product of integers": (RuntimeError, "not implemented", lambda x, _: (x > 0).long() @ (x > 0).long()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cuda_refuses(card: torch.device, what: str) -> None:
    error, said, work = REFUSED[what]
    x, y = noise(3, 3).to(card), noise(3, 3)
    with pytest.raises(error, match=said):
        work(x, y)


ALLOWED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a scalar of the CPU": lambda x, y: x * y.sum(),
    "indices of its own": lambda x, _: x[x.argmax(0)][x[0] > -9],
    "a copy": lambda x, y: x.copy_(y),
    "a copy to a place": lambda x, y: (x.__setitem__(0, y[0]), x)[1],
    "a scalar at indices": lambda x, y: (x.__setitem__(x > 0, y[0, 0]), x)[1],
    "what is made like it": lambda x, _: x + torch.zeros_like(x) + x.new_ones(3) + torch.eye(3, device=x.device),
    "moved": lambda x, y: x + y.to(x) + y.to(x.device) + y.to(x.device, torch.float32) + y.cuda(),
    "a gradient": lambda x, _: torch.autograd.grad((x.requires_grad_() ** 2).sum(), x)[0],
    "a layer that was moved": lambda x, _: nn.Linear(3, 3, bias=False).to(x.device)(x) * 0,
}


@pytest.mark.parametrize("what", ALLOWED)
def test_what_cuda_allows(card: torch.device, what: str) -> None:
    found = ALLOWED[what](noise(3, 3).to(card), noise(3, 3, seed=1))
    assert isinstance(found, OnCard)
    assert found.device == torch.device("cuda", 0)
    assert found.is_cuda
    assert found.cpu().device.type == "cpu"
    assert not isinstance(found.cpu(), OnCard)
    assert found.detach().cpu().numpy().shape == tuple(found.shape)


# explainers


def same_on_card(method: Explainer, precision: Precision = "float32") -> None:
    """Explains on the CPU and on the pretended card, which have to agree to the last bit."""
    images, targets = noise(2, 3, 16, 16), torch.tensor([0, 1])
    here = method.explain(engine_on("cpu", precision), images, targets, [1, 2])
    with pretended_card() as card:
        there = method.explain(engine_on(card, precision), images.to(card), targets, [1, 2])
        for name in ("saliency", "necessity", "sufficiency", "channels"):
            one, other = getattr(here, name), getattr(there, name)
            assert (one is None) == (other is None)
            if one is not None:
                assert isinstance(other, OnCard), f"{name} is not on the card"
                assert torch.equal(one, other.cpu()), name
    assert here.diagnostics == there.diagnostics


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str) -> None:
    same_on_card(explainer(f"method={name}", *FEW.get(name, [])))


SETTINGS = [
    *(["method=suny", f"method.mask={rule}", "method.k=3"] for rule in ("noisy_or", "sum", "partition")),
    *(["method=suny_region", "method.k=2", "method.estimator=exact", f"method.fill={fill}"] for fill in (
        "blur", "strong_blur", "mean", "gaussian", "wide_gaussian")),
    ["method=suny", "method.candidates=kmeans", "method.k=3", "method.draw=masks", "method.combine=harmonic"],
    ["method=suny", "method.candidates=all", "method.estimator=sampled", "method.orders=2", "method.combine=shapley"],
    ["method=suny_filter", "method.fill=mean", "method.k=3", "method.combine=product"],
    ["method=eigencam", "method.centred=true"],
]  # fmt: skip


@pytest.mark.parametrize("overrides", SETTINGS, ids=" ".join)
def test_settings_that_run_other_code(overrides: list[str]) -> None:
    same_on_card(explainer(*overrides))


@pytest.mark.parametrize("name", ["gradcam", "suny_filter", "scorecam", "smoothgrad_vanilla"])
def test_bfloat16(name: str) -> None:
    same_on_card(explainer(f"method={name}", *FEW.get(name, [])), "bf16")


def test_the_library() -> None:
    images, targets, network = noise(2, 3, 16, 16), torch.tensor([0, 1]), SmallNet().eval()
    here = suny.Suny(network, "relu", k=3, prescreen=None)(images, targets)
    with pretended_card() as card:
        there = suny.Suny(network.to(card), "relu", k=3, prescreen=None)(images.to(card), targets.to(card))
        for name, value in vars(here).items():
            if isinstance(value, Tensor):
                assert isinstance(getattr(there, name), OnCard), name
                assert torch.equal(value, getattr(there, name).cpu()), name


# metrics


def test_every_metric(tmp_path: Path) -> None:
    """Of the same maps a metric has the same value on the card, to the last bit."""
    files = ",".join(p.stem for p in (CONF / "metrics").glob("*.yaml"))
    every = set(config.read(composed([f"metrics=[{files}]"])).metrics)
    colours = [o for o in agreement.SUBJECTS[1].overrides if "count" not in o]
    one_and_pair = agreement.Subject([*colours, "dataset.count=2"], 2)  # images of the first two rules
    with pretended_card() as card:
        on_card = agreement.DeviceComparison(one_and_pair, card, str(tmp_path), ["float32"])
        whole, found = on_card.run, []
        for sample, names in zip(on_card.samples, (every - {"pair_accuracy"}, {"pair_accuracy"}), strict=True):
            on_card.samples = [sample]
            on_card.run = replace(whole, metrics={n: m for n, m in whole.metrics.items() if n in names})
            found += on_card.compare_metrics(tqdm(disable=True), ["suny_filter"])
    assert {f.what for f in found} == every
    assert {f.value for f in found} == {0.0}
