"""``model=timm``: the networks, weights and preprocessing of timm are taken as timm has them."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from huggingface_hub import constants
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config
from torch import nn

from baselines.gradient_cams import GradientCam
from suny.classifiers import timm_models
from suny.classifiers.checkpoint import Trained, write_checkpoint
from suny.classifiers.classifier import Classifier, weights_digest
from suny.classifiers.engine import Engine
from suny.classifiers.head import Head, replace_head
from suny.classifiers.layers import CHANNELS_FIRST, CHANNELS_LAST, Layout
from suny.classifiers.timm_models import TimmModel
from suny.errors import UserError
from suny.explanation import upsample
from suny.images.decode import decode
from suny.images.demo import Demo
from suny.images.view import View
from tests.conftest import Cli, noise, only_error


def model(arch: str = "resnet18", **keys: Any) -> TimmModel:
    return TimmModel(**{"name": arch, "arch": arch, "weights": "random", **keys})


def original(arch: str, **options: Any) -> nn.Module:
    """timm's network with random weights of seed 0."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return timm.create_model(arch, pretrained=False, **options).eval()  # type: ignore[no-any-return]


# families of timm, their last layer with places, and its shape and layout
FAMILIES = {
    "resnet18": ("layer4", (512, 7, 7), CHANNELS_FIRST),
    "convnext_atto": ("norm_pre", (320, 7, 7), CHANNELS_FIRST),
    "convnext_tiny": ("norm_pre", (768, 7, 7), CHANNELS_FIRST),
    "efficientnet_b0": ("bn2", (1280, 7, 7), CHANNELS_FIRST),
    "mobilenetv3_small_100": ("blocks", (576, 7, 7), CHANNELS_FIRST),
    "regnety_002": ("final_conv", (368, 7, 7), CHANNELS_FIRST),
    "densenet121": ("features", (1024, 7, 7), CHANNELS_FIRST),
    "vit_tiny_patch16_224": ("blocks.11.norm1", (192, 14, 14), Layout("tokens", (14, 14), 1)),
    "swin_tiny_patch4_window7_224": ("norm", (768, 7, 7), CHANNELS_LAST),
    "mixer_s16_224": ("norm", (512, 14, 14), Layout("tokens", (14, 14), 0)),
}


@pytest.mark.whole
@pytest.mark.parametrize("arch", FAMILIES)
def test_a_prepared_network_is_timm_s(arch: str) -> None:
    classifier, network = model(arch).build(), original(arch)
    assert weights_digest(classifier.network) == weights_digest(network)
    for one in (classifier.network, network):  # a Mixer begins with weights of 0 there
        head = one.get_submodule(timm_models._head(one)).weight
        head.data = noise(*head.shape, seed=1)
    layer, shape, layout = FAMILIES[arch]
    assert (classifier.target_layer, classifier.layout) == (layer, layout)
    engine = Engine.of(classifier, batch_size=2)
    images = noise(2, 3, 224, 224)
    with torch.inference_mode():
        expected = network(images)
    torch.testing.assert_close(engine.logits(images), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(engine.probabilities(images), expected.softmax(1), rtol=0, atol=1e-5)
    activation, gradient = engine.activation_gradient(images, torch.tensor([3, 4]))
    assert activation.shape[1:] == gradient.shape[1:] == shape
    assert bool((gradient != 0).any(1).any(2).any(1).all())


@pytest.mark.whole
@pytest.mark.parametrize("arch", ["convnext_atto", "swin_tiny_patch4_window7_224"])
def test_grad_cam_is_pytorch_grad_cam_s(arch: str) -> None:
    """On the low-resolution map, which the library's own upsampling does not touch."""
    classifier = model(arch).build()
    image, network = noise(1, 3, 224, 224), original(arch)
    target = int(network(image).argmax())
    engine = Engine.of(classifier)
    found = GradientCam(name="gradcam", kind="gradcam").explain(engine, image, torch.tensor([target]), [0]).saliency
    last = (lambda maps: maps.permute(0, 3, 1, 2)) if classifier.layout == CHANNELS_LAST else None
    raw: list[np.ndarray] = []
    with GradCAM(network, [network.get_submodule(classifier.target_layer)], reshape_transform=last) as library:
        kept = library.get_cam_image
        library.get_cam_image = lambda *a, **k: raw.append(kept(*a, **k)) or raw[-1]
        library(image, [ClassifierOutputTarget(target)])
    expected = upsample(torch.from_numpy(raw[0]).float().clamp(min=0), (224, 224))
    assert float(expected.max()) > 0
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-4 * float(expected.max()))


# the view


@pytest.mark.parametrize("arch", ["resnet18", "vit_tiny_patch16_224", "mobilenetv3_small_100"])
def test_an_image_is_seen_as_timm_evaluates_it(arch: str) -> None:
    network = original(arch)
    transform = create_transform(**resolve_model_data_config(network))
    view = model(arch).build().view
    for sample in Demo(name="demo").load().samples[:2]:
        image = decode(sample.path).image
        torch.testing.assert_close(view(image), transform(image), rtol=0, atol=1e-5)


def test_keys_change_the_view() -> None:
    # timm's resnet18: 224 / .95, bicubic, ImageNet's mean and deviation
    usual = View(235, 224, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert model().build().view == usual
    assert model(crop=160).build().view == View(168, 160, "bicubic", usual.mean, usual.std)
    other = model(crop=64, resize=80, interpolation="bilinear", mean=[0.0, 0.5, 1.0], std=[1.0, 2.0, 3.0]).build().view
    assert other == View(80, 64, "bilinear", (0.0, 0.5, 1.0), (1.0, 2.0, 3.0))


def test_a_network_of_one_size_takes_no_other() -> None:
    arch = "vit_tiny_patch16_224"
    with pytest.raises(UserError, match=r"pixels and no others; give model\.options=\{img_size:96\} in its place"):
        model(arch, crop=96).build()
    small = model(arch, options={"img_size": 96}).build()
    assert (small.view.crop, small.view.resize) == (96, 106)  # 96 / .9
    assert small.layout == Layout("tokens", (6, 6), 1)


def test_another_way_to_crop_is_said() -> None:
    assert model(crop=64).build().notes == ()
    squashed = next(n for n in timm.list_pretrained("convnext_*") if timm.models.get_pretrained_cfg(n).crop_mode == "squash")
    network = SimpleNamespace(pretrained_cfg=timm.models.get_pretrained_cfg(squashed).to_dict())
    view, notes = model(squashed)._view(network, {})
    assert len(notes) == 1
    assert (
        f"timm evaluates {squashed} with crop_mode=squash; here the shorter side is resized to {view.resize} pixels" in notes[0]
    )


# weights


def hub(folder: Path, arch: str, network: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache with the weights of a network."""
    declared = timm.models.get_pretrained_cfg(arch)
    repository = folder / f"models--{declared.hf_hub_id.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file(network.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))


def test_published_weights_from_the_hub_s_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = timm.create_model("convnext_atto", pretrained=False)
    hub(tmp_path, "convnext_atto", network, monkeypatch)
    monkeypatch.setattr(timm_models, "_reach", lambda server: pytest.fail("the cache is enough"))
    wanted = model("convnext_atto", weights="pretrained")
    assert wanted.to_fetch() is None
    classifier = wanted.build()
    assert weights_digest(classifier.network) == weights_digest(network)
    assert (classifier.label_space, classifier.num_classes, classifier.notes) == ("imagenet", 1000, ())
    assert "state_dict" not in {k for k, v in classifier.network.pretrained_cfg.items() if v}  # type: ignore[union-attr,operator]
    with pytest.raises(UserError, match=r"model\.num_classes=7: the published weights of convnext_atto have 1000 classes"):
        model("convnext_atto", weights="pretrained", num_classes=7).build()


def test_weights_that_cannot_be_had_are_tried_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def unreachable(server: str) -> None:
        tried.append(server)
        raise OSError("no network")

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(timm_models, "_reach", unreachable)
    monkeypatch.setattr(timm_models, "_not_to_be_had", {})
    wanted = model("regnety_002", weights="pretrained")
    said = []
    for _ in range(2):
        with pytest.raises(UserError, match=r"the weights of regnety_002 could not be had \(no network\)") as error:
            wanted.build()
        said.append(str(error.value))
    assert said[0] == said[1]
    assert len(tried) == 1
    place = wanted.to_fetch()
    assert place is not None
    assert place.startswith("model.safetensors from https://")
    for advice in (place, "model.checkpoint=FILE", "HF_HUB_OFFLINE=1", "model.weights=random", "efficientnet_lite0"):
        assert advice in said[0]
    for other in ({"weights": "random"}, {"checkpoint": "own.pth"}):
        assert model("regnety_002", **{"weights": "pretrained", **other}).to_fetch() is None


def test_offline_mode_asks_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(timm_models, "_reach", lambda server: pytest.fail("asked"))
    monkeypatch.setattr(timm_models, "_not_to_be_had", {})
    with pytest.raises(UserError, match=r"the weights of regnety_002 could not be had"):
        model("regnety_002", weights="pretrained").build()


@pytest.mark.parametrize(
    ("arch", "said"),
    [
        ("resnet", r"is no classifier of timm .* Did you mean 'resnet"),
        ("resnet18.a1_in2k", r"is no classifier of timm .* Did you mean 'resnet18\.a1_in1k'"),
        ("hf-hub:timm/resnet18.a1_in1k", "is no classifier of timm"),
        ("vit_small_patch14_dinov2.lvd142m", "give features and no classes"),
        ("resnet18d_no_such", "is no classifier"),
    ],
)
def test_names_that_mean_no_classifier(arch: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        model(arch, weights="pretrained").build()


def test_an_option_that_timm_does_not_have() -> None:
    with pytest.raises(UserError, match=r"timm cannot make resnet18 with model\.options=\{'depth': 3\}: .*depth"):
        model(options={"depth": 3}).build()


@pytest.mark.parametrize("arch", ["resnet18", "convnext_atto", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_a_checkpoint_brings_its_number_of_classes(arch: str, tmp_path: Path) -> None:
    network = original(arch, num_classes=5)
    torch.save(
        {"state_dict": {f"module.{k}": v + 0 for k, v in network.state_dict().items()}, "epoch": 3}, tmp_path / "own.pth"
    )
    classifier = model(arch, checkpoint=str(tmp_path / "own.pth"), weights="pretrained").build()
    assert classifier.num_classes == 5
    assert classifier.label_space == "own"
    assert "'state_dict', 'module.' before" in classifier.notes[0]
    assert weights_digest(classifier.network) == weights_digest(network)


def test_a_checkpoint_of_another_network(tmp_path: Path) -> None:
    torch.save(original("resnet34").state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"own\.pth is no checkpoint of resnet18"):
        model(checkpoint=str(tmp_path / "own.pth")).build()


def test_an_own_checkpoint_says_view_and_head(tmp_path: Path) -> None:
    view = View(resize=40, crop=32, interpolation="bicubic", mean=(0.1, 0.2, 0.3), std=(1.0, 0.9, 0.8))
    network = original("resnet18")
    head = Head(kind="mlp", hidden=8)
    replace_head(network, head, 3)
    said: Any = {"metrics": {}, "configuration": {}, "environment": {}, "digest": "0", "dataset": "cub", "options": {}}
    trained = Trained(
        model="resnet18", head=head, class_ids=(2, 5, 7), class_names=("a", "b", "c"), label_space="own", view=view,
        target_layer="layer3", **said,
    )  # fmt: skip
    write_checkpoint(tmp_path / "own.safetensors", network.state_dict(), trained)
    classifier: Classifier = model(checkpoint=str(tmp_path / "own.safetensors")).build()
    assert (classifier.view, classifier.target_layer, classifier.num_classes) == (view, "layer3", 3)
    assert [classifier.label(k) for k in range(3)] == [2, 5, 7]
    assert weights_digest(classifier.network) == weights_digest(network)


# the command line


def test_the_command_line_takes_any_arch(cli: Cli, tmp_path: Path) -> None:
    common = (
        "model=timm",
        "model.weights=random",
        "method=gradcam",
        "metrics=[deletion]",
        f"results_dir={tmp_path}",
        "points=2",
    )
    ended = cli(*common, "model.arch=regnety_002", "model.crop=64", "dataset.limit=1")
    assert ended.code == 0, ended.err
    (card,) = tmp_path.glob("demo/regnety_002/gradcam-*/card.yaml")
    assert f"timm: {timm.__version__}" in card.read_text()
    assert "model.arch is missing: give model.arch=VALUE." in only_error(cli(*common))
    assert "model.arch=regnety is no classifier" in only_error(cli(*common, "model.arch=regnety"))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError) as error:
        model().build()
    assert "pip install 'suny-benchmark[timm]'" in str(error.value)
    assert "\n" not in str(error.value)
