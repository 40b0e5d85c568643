"""Checkpoints of others: what is around a state dict, what its weights imply, and what an error advises."""

from __future__ import annotations

import argparse
import importlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from torch import Tensor, nn
from torchvision.models import WeightsEnum

from suny.classifiers.checkpoint import Trained, read_state, write_checkpoint
from suny.classifiers.classifier import Source, weights_digest
from suny.classifiers.efficientnet_lite0 import EfficientNetLite0
from suny.classifiers.head import Head, replace_head
from suny.classifiers.torchvision_models import TorchvisionModel, implied, recognised
from suny.classifiers.torchvision_names import names
from suny.errors import UserError
from suny.seeds import image_seed
from tests.conftest import Cli, noise
from tests.suny.images.test_datasets import jpeg

State = dict[str, Tensor]


def model(arch: str = "resnet18", **keys: Any) -> TorchvisionModel:
    return TorchvisionModel(**{"name": arch, "arch": arch, **keys})


@pytest.fixture(scope="module")
def resnet18() -> nn.Module:
    return torchvision.models.resnet18(weights=None, num_classes=3)


# wrappers and prefixes


def prefixed(state: State, prefix: str) -> State:
    return OrderedDict((prefix + k, v) for k, v in state.items())


def others(state: State) -> State:
    return {k: v + 1 if v.is_floating_point() else v for k, v in state.items()}


def inside(state: State, layer: str, wrapper: str) -> State:
    return OrderedDict((k.replace(f"{layer}.", f"{layer}.{wrapper}."), v) for k, v in state.items())


def averaged(state: State) -> State:
    """As torch.optim.swa_utils.AveragedModel has it."""
    return {"n_averaged": torch.tensor(2), **prefixed(state, "module.")}


def lightning(state: State) -> dict[str, Any]:
    beside = {"criterion.weight": torch.ones(3), "metric.total": torch.zeros(())}
    return {
        "epoch": 3,
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {}}],
        "state_dict": {**prefixed(state, "model."), **beside},
    }


def tutorial(state: State) -> dict[str, Any]:
    optimizer = {"state": {0: {"exp_avg": torch.ones(2)}}}
    return {"epoch": 5, "model_state_dict": state, "optimizer_state_dict": optimizer, "loss": 0.4}


# how a program wraps a state dict, and what is said about it
WRAPPED: dict[str, tuple[Callable[[State], Any], str]] = {
    "torch.compile": (lambda s: prefixed(s, "_orig_mod."), "'_orig_mod.' before"),
    "DataParallel": (lambda s: prefixed(s, "module."), "'module.' before"),
    "both": (lambda s: prefixed(s, "module._orig_mod."), "'module._orig_mod.' before"),
    "compiled, then wrapped": (lambda s: prefixed(s, "_orig_mod.module."), "'_orig_mod.module.' before"),
    "a part compiled": (lambda s: inside(s, "layer1", "_orig_mod"), "'_orig_mod.' before"),
    "a part parallel": (
        lambda s: {"state_dict": inside(s, "layer2", "module"), "best_acc1": torch.tensor(3)},
        "'state_dict', 'module.' before",
    ),
    "Lightning": (lightning, "'state_dict', 'model.' before"),
    "Lightning, compiled": (lambda s: {"state_dict": prefixed(s, "net._orig_mod.")}, "'state_dict', 'net._orig_mod.' before"),
    "the tutorial": (tutorial, "'model_state_dict' before"),
    "torchvision's training": (
        lambda s: {"model": s, "model_ema": averaged(others(s)), "args": argparse.Namespace(lr=0.1)},
        "'model' is used, not 'model_ema module.', which fits too",
    ),
    "timm": (lambda s: {"state_dict": s, "state_dict_ema": others(s)}, "'state_dict' is used, not 'state_dict_ema'"),
    "ema alone": (lambda s: {"ema": s}, "'ema' before"),
    "an average alone": (lambda s: {"model_ema": averaged(s)}, "1 other tensor(s) left out: n_averaged"),
    "a name of one's own": (
        lambda s: {"my": {"weights": prefixed(s, "backbone.encoder.")}},
        "'my/weights', 'backbone.encoder.' before",
    ),
    "an average beside": (
        lambda s: {**prefixed(s, "net."), **prefixed(others(s), "ema_net.")},
        "'net.' is used, not 'ema_net.', which fits too",
    ),
    "numbers beside": (lambda s: {**s, "epoch": 3}, ""),
}


@pytest.mark.parametrize("wrapped", WRAPPED)
def test_whatever_lies_around_the_weights_is_removed_and_said(wrapped: str, resnet18: nn.Module, tmp_path: Path) -> None:
    wrap, said = WRAPPED[wrapped]
    file = tmp_path / "own.pth"
    torch.save(wrap(resnet18.state_dict()), file)
    classifier = model(checkpoint=str(file)).build()
    assert weights_digest(classifier.network) == weights_digest(resnet18)
    assert classifier.num_classes == 3
    assert said in "\n".join(classifier.notes)
    assert bool(classifier.notes) == bool(said)
    assert all(note.startswith(f"model.checkpoint={file}: ") for note in classifier.notes)


def test_what_is_left_out_is_counted(resnet18: nn.Module, tmp_path: Path) -> None:
    beside = {"criterion.weight": torch.ones(3), "a": torch.ones(1), "b.c": torch.ones(1)}
    state = {**prefixed(resnet18.state_dict(), "model."), **beside}
    torch.save(state, tmp_path / "own.pth")
    notes = read_state(str(tmp_path / "own.pth"), resnet18)[1]
    assert notes[-1].endswith("3 other tensor(s) left out: criterion.weight, a, b.c")


def test_a_plain_state_dict_needs_no_note(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "own.pth")
    assert model(checkpoint=str(tmp_path / "own.pth")).build().notes == ()


@pytest.mark.parametrize("pair", [("student.", "teacher."), ("encoder_q.", "encoder_k.")])
def test_two_networks_in_a_file_are_not_chosen_from(resnet18: nn.Module, tmp_path: Path, pair: tuple[str, str]) -> None:
    state = resnet18.state_dict()
    torch.save({**prefixed(state, pair[0]), **prefixed(others(state), pair[1])}, tmp_path / "own.pth")
    with pytest.raises(
        UserError, match=rf"holds several networks that fit, '{pair[0]}' and '{pair[1]}': save one of them alone"
    ):
        model(checkpoint=str(tmp_path / "own.pth")).build()


def test_an_extra_tensor_within_the_network_is_refused(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(prefixed({**resnet18.state_dict(), "head.weight": torch.ones(2)}, "model."), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"1 are not its own \(first: head\.weight\)"):
        model(checkpoint=str(tmp_path / "own.pth")).build()


def test_other_networks_checkpoints_may_be_wrapped_too(tmp_path: Path) -> None:
    network = EfficientNetLite0(name="efficientnet_lite0").source().network
    torch.save({"model_state_dict": prefixed(network.state_dict(), "_orig_mod.")}, tmp_path / "own.pth")
    source = EfficientNetLite0(name="efficientnet_lite0", checkpoint=str(tmp_path / "own.pth")).source()
    assert weights_digest(source.network) == weights_digest(network)
    assert "'model_state_dict', '_orig_mod.' before" in source.notes[0]


def test_the_published_file_of_a_densenet_given_as_a_checkpoint(tmp_path: Path) -> None:
    network = torchvision.models.densenet121(weights=None)
    state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in network.state_dict().items()}
    torch.save(state, tmp_path / "densenet.pth")
    classifier = model("densenet121", checkpoint=str(tmp_path / "densenet.pth")).build()
    assert weights_digest(classifier.network) == weights_digest(network)


# advice


@pytest.mark.parametrize(
    "arch", ["resnet34", "vgg11_bn", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5", "efficientnet_b0", "swin_t"]
)
def test_an_error_names_the_architecture_that_the_shapes_speak_for(arch: str, tmp_path: Path) -> None:
    network = torchvision.models.get_model(arch, weights=None, num_classes=7)
    torch.save({"state_dict": prefixed(network.state_dict(), "model.")}, tmp_path / "own.pth")
    with pytest.raises(UserError, match=rf"own architecture with model={arch}, or another file\.$"):
        model(checkpoint=str(tmp_path / "own.pth")).build()


def test_an_error_about_a_network_of_ones_own_names_no_architecture(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(4, 2)).state_dict(), tmp_path / "own.pth")
    said = (
        r"122 of its 122|tensors are missing \(first: .*Give the architecture that it was made with \(model=NAME\), or another"
    )
    with pytest.raises(UserError, match=said):
        model(checkpoint=str(tmp_path / "own.pth")).build()
    assert recognised(nn.Linear(3, 3).state_dict()) is None


def test_an_error_about_the_number_of_classes_alone_says_so(resnet18: nn.Module, tmp_path: Path) -> None:
    torch.save(resnet18.state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"needed \(200, 512\)\)\. Leave model\.num_classes out"):
        model(checkpoint=str(tmp_path / "own.pth"), num_classes=200).build()


def test_an_error_about_more_than_tensors_names_it(tmp_path: Path) -> None:
    torch.save({"model": {"a": torch.ones(1)}, "seed": image_seed}, tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"holds more than tensors \(suny\.seeds\.image_seed\)"):
        model(checkpoint=str(tmp_path / "own.pth")).build()


# what weights imply


class Built(Exception):
    """Arguments with which a builder makes its network."""


def arguments(monkeypatch: pytest.MonkeyPatch, arch: str, **keys: Any) -> dict[str, str]:
    """The arguments that a network's class gets from torchvision's builder, as texts."""

    def caught(_self: nn.Module, *positions: Any, **named: Any) -> None:
        raise Built({**dict(enumerate(positions)), **named})

    def told(value: Any) -> str:
        if isinstance(value, list | tuple):  # checkpoints have no tuples
            return repr([told(v) for v in value])
        inner = getattr(value, "__dict__", None)
        return repr(value) if callable(value) or not inner else repr(sorted(inner.items()))

    builder = torchvision.models.get_model_builder(arch)
    with monkeypatch.context() as patch:
        for cls in vars(importlib.import_module(builder.__module__)).values():
            if isinstance(cls, type) and issubclass(cls, nn.Module) and cls.__module__ == builder.__module__:
                patch.setattr(cls, "__init__", caught)
        with pytest.raises(Built) as found:
            builder(**keys)
    # the state dict says the first two, and the last one is about weights that are replaced
    return {str(k): told(v) for k, v in found.value.args[0].items() if k not in ("num_classes", "aux_logits", "init_weights")}


@pytest.mark.parametrize("arch", names())
def test_a_checkpoint_gets_the_arguments_that_published_weights_imply(monkeypatch: pytest.MonkeyPatch, arch: str) -> None:
    """All architectures and weights of torchvision; whatever a new one implies fails here."""
    sizes = {"vit_b_16": {224, 384}, "vit_l_16": {224, 512}, "vit_h_14": {224, 518}}
    found = set()
    for weights in torchvision.models.get_model_weights(arch):
        options = implied(arch, weights)
        published = arguments(monkeypatch, arch, weights=weights)
        given = arguments(monkeypatch, arch, weights=None, **options)
        assert published == given
        found.add(options.get("image_size"))
    assert found == sizes.get(arch, {224} if arch.startswith("vit_") else {None})


# (architecture, its weights, arguments of torchvision's builder that these imply), written down by hand
PUBLISHED = [
    ("googlenet", "IMAGENET1K_V1", {"transform_input": True, "init_weights": False}, {"transform_input": True}),
    ("inception_v3", "IMAGENET1K_V1", {"transform_input": True, "init_weights": False}, {"transform_input": True}),
    pytest.param("vit_b_16", "IMAGENET1K_SWAG_E2E_V1", {"image_size": 384}, {"image_size": 384}, marks=pytest.mark.slow),
    ("maxvit_t", "IMAGENET1K_V1", {}, {"input_size": [224, 224]}),
    ("mnasnet0_5", "IMAGENET1K_V1", {}, {}),
    ("densenet121", "IMAGENET1K_V1", {}, {}),
    ("shufflenet_v2_x0_5", "IMAGENET1K_V1", {}, {}),
]


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, dict[str, Any]], nn.Module]:
    """Has torchvision find random weights in place of its published ones; returns a network that has them."""

    def put(arch: str, options: dict[str, Any]) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(3)
            network = torchvision.models.get_model(arch, weights=None, **options).eval()
        monkeypatch.setattr(WeightsEnum, "get_state_dict", lambda *_, **__: network.state_dict())
        return network

    return put


def trained(source: Source, arch: str, classes: int, head: Head) -> Trained:
    said: dict[str, Any] = {"model": arch, "options": dict(source.options), "head": head, "view": source.view}
    said |= {"class_ids": tuple(range(classes)), "class_names": tuple(map(str, range(classes))), "label_space": "own"}
    said |= {"target_layer": source.target_layer or "", "dataset": "x", "metrics": {}, "configuration": {}, "environment": {}}
    return Trained(**said, digest="0")


@pytest.mark.parametrize(("arch", "version", "by_hand", "options"), PUBLISHED)
def test_what_was_trained_is_what_runs(
    published: Any, tmp_path: Path, arch: str, version: str, by_hand: dict[str, Any], options: dict[str, Any]
) -> None:
    """The published network, its head replaced, gives the same logits when it is read from its checkpoint."""
    expected = published(arch, by_hand)
    source = model(arch, weights_version=version).source()
    assert source.options == options
    images = noise(2, 3, source.view.crop, source.view.crop)
    with torch.inference_mode():
        torch.testing.assert_close(source.network.eval()(images), expected(images), rtol=0, atol=0)
        head = Head()
        replace_head(source.network, head, 3)
        logits = source.network.eval()(images)
        write_checkpoint(tmp_path / "own.safetensors", source.network.state_dict(), trained(source, arch, 3, head))
        again = model(arch, checkpoint=str(tmp_path / "own.safetensors")).source()
        assert torch.equal(again.network.eval()(images), logits)
    assert (again.view, again.options, again.notes) == (source.view, options, ())


@pytest.mark.parametrize("arch", ["googlenet", "inception_v3"])
def test_a_network_that_was_trained_from_random_weights_transforms_nothing(tmp_path: Path, arch: str) -> None:
    source = model(arch, weights="random").source()
    assert source.options == {"transform_input": False}
    replace_head(source.network, Head(), 1000)
    write_checkpoint(tmp_path / "own.safetensors", source.network.state_dict(), trained(source, arch, 1000, Head()))
    again = model(arch, checkpoint=str(tmp_path / "own.safetensors")).source()
    assert (again.network.transform_input, again.notes) == (False, ())


def test_a_foreign_file_gets_the_usual_value_and_a_note(tmp_path: Path) -> None:
    network = torchvision.models.googlenet(weights=None, init_weights=False, transform_input=True).eval()
    torch.save(network.state_dict(), tmp_path / "own.pth")
    images = noise(2, 3, 64, 64)
    source = model("googlenet", checkpoint=str(tmp_path / "own.pth")).source()
    with torch.inference_mode():
        assert torch.equal(source.network.eval()(images), network(images))
    (note,) = source.notes
    assert "does not say whether googlenet transforms its input: it does here" in note
    assert source.implied == {"transform_input": True}
    told = model("googlenet", checkpoint=str(tmp_path / "own.pth"), options={"transform_input": False}).source()
    assert (told.network.transform_input, told.notes, told.implied) == (False, (), {})
    said = model("googlenet", checkpoint=str(tmp_path / "own.pth"), options={"transform_input": True}).source()
    assert (said.network.transform_input, said.implied) == (True, {})  # the configuration has it


def test_arguments_that_weights_imply_are_part_of_a_cell(cli: Cli, tmp_path: Path) -> None:
    """Networks of the same weights that compute something else are cells of their own; for others nothing is added."""
    options = {"weights": None, "init_weights": False, "aux_logits": False, "num_classes": 3}
    network = torchvision.models.get_model("googlenet", **options)
    torch.nn.init.constant_(network.fc.bias, -1.0)  # random logits could be taken for probabilities
    torch.save(network.state_dict(), tmp_path / "own.pth")
    words = ["dataset=causal_shapes", "dataset.count=1", "method=center", "metrics=deletion", "points=3", "model=googlenet"]
    words += [f"model.checkpoint={tmp_path / 'own.pth'}", "model.crop=64", "model.resize=64", f"results_dir={tmp_path / 'r'}"]

    def identity(*more: str) -> dict[str, Any]:
        before = set(tmp_path.rglob("card.yaml"))
        assert cli(*words, *more).code == 0
        (card,) = set(tmp_path.rglob("card.yaml")) - before
        return yaml.safe_load(card.read_text())["identity"]

    implied, plain = identity(), identity("++model.options.transform_input=false")
    assert implied["weights"] == plain["weights"]
    assert implied["options"] == {"transform_input": True}
    assert "options" not in plain
    other = identity("model=resnet18", "model.checkpoint=null", "model.weights=random")
    assert "options" not in other


@pytest.mark.slow
def test_a_foreign_vit_says_the_size_of_its_images_by_its_shapes(tmp_path: Path) -> None:
    network = torchvision.models.vit_b_32(weights=None, image_size=64, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    source = model("vit_b_32", checkpoint=str(tmp_path / "own.pth")).source()
    assert (source.view.resize, source.view.crop, source.options) == (64, 64, {"image_size": 64})
    assert "is made for images of 64 x 64 pixels" in source.notes[0]
    network = torchvision.models.vit_b_16(weights=None, image_size=384, num_classes=2)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    source = model("vit_b_16", checkpoint=str(tmp_path / "own.pth")).source()
    assert (source.view.resize, source.view.crop, source.view.interpolation) == (384, 384, "bicubic")  # as SWAG's


def test_a_vit_of_another_size_than_its_images_is_one_line(tmp_path: Path) -> None:
    source = model("vit_b_32", weights="random", crop=64).source()
    assert source.network.image_size == 64
    write_checkpoint(tmp_path / "own.safetensors", source.network.state_dict(), trained(source, "vit_b_32", 1000, Head()))
    own = {"checkpoint": str(tmp_path / "own.safetensors")}
    said = r"model\.crop=96: vit_b_32 has position embeddings for images of (64 x 64|224 x 224)"
    for keys in (own, {}, {"weights": "random", "options": {"image_size": 64}}):
        with pytest.raises(UserError, match=said):
            model("vit_b_32", crop=96, **keys).source()


def test_notes_about_weights_are_shown(tmp_path: Path, cli: Cli, resnet18: nn.Module) -> None:
    torch.save(prefixed(resnet18.state_dict(), "_orig_mod."), tmp_path / "own.pth")
    jpeg(tmp_path / "photos" / "a.jpg")
    ended = cli("method=center", "metrics=deletion", "points=2", "model=resnet18", "model.crop=32", "model.resize=32",
                f"model.checkpoint={tmp_path / 'own.pth'}", "dataset=imagefolder", f"dataset.root={tmp_path / 'photos'}",
                f"results_dir={tmp_path / 'r'}")  # fmt: skip
    assert ended.code == 0, ended.err
    assert "'_orig_mod.' before the network's own names removed" in ended.err


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
