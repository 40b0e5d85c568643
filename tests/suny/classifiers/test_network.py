"""The cut network and the scoring engine: same numbers as the plain network, counted, in bounded batches."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor, nn

from suny.classifiers import torchvision_models
from suny.classifiers.classifier import last_map, output_shapes, weights_digest
from suny.classifiers.engine import Cost, Engine, batches, pick_device
from suny.classifiers.split import HookedSplit, TracedSplit, split
from suny.errors import UserError
from suny.images.dataset import imagenet_classes
from tests.conftest import SmallNet, engine_for, noise


class Branching(nn.Module):
    """Control flow that depends on the data: torch.fx cannot trace it. The layer ``relu`` runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.net = SmallNet()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(x)
        h = self.relu(self.net.bn(self.net.conv(x if x.sum() > 0 else -x)))
        return self.net.fc(h.mean((2, 3)))


def hooked_activation(network: nn.Module, layer: str, images: Tensor) -> Tensor:
    """The layer's output in a plain pass (its last call)."""
    seen: list[Tensor] = []
    handle = network.get_submodule(layer).register_forward_hook(lambda m, i, o: seen.append(o.clone()))
    try:
        network(images)
    finally:
        handle.remove()
    return seen[-1]


CASES = [
    ("resnet18", "layer4", 64),
    ("resnet18", "layer4.1.bn2", 64),  # inside a block: the skip connection crosses the cut
    ("resnet18", "layer3.0.conv1", 64),  # a convolution whose batch norm is behind the cut
    ("vgg11", "features.19", 64),
    ("densenet121", "features.denseblock4", 64),
    ("mobilenet_v3_small", "features.12", 64),
    ("convnext_tiny", "features.7", 64),
    ("regnet_y_400mf", "trunk_output", 64),
    ("shufflenet_v2_x0_5", "conv5", 64),
    ("inception_v3", "Mixed_7c", 128),
]


@pytest.mark.parametrize(("arch", "layer", "side"), CASES)
def test_torchvision_networks_are_cut(arch: str, layer: str, side: int) -> None:
    torch.manual_seed(0)
    options = {"init_weights": False} if arch == "inception_v3" else {}
    network = torchvision.models.get_model(arch, weights=None, num_classes=7, **options).eval()
    for module in network.modules():  # fresh batch norms do next to nothing: give them something to fold
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    images = noise(2, 3, side, side, seed=1)
    with torch.inference_mode():
        expected = network(images)
        cut = split(network, layer, (side, side))
        assert isinstance(cut, TracedSplit)
        activation, carried = cut.head(images)
        torch.testing.assert_close(activation, hooked_activation(network, layer, images), rtol=1e-4, atol=1e-5)
        before = activation.clone()
        scale = expected.abs().max()
        torch.testing.assert_close(cut(images) / scale, expected / scale, rtol=0, atol=1e-5)
        torch.testing.assert_close(cut.tail(activation, carried) / scale, expected / scale, rtol=0, atol=1e-5)
        assert torch.equal(activation, before)  # the tail leaves the activation as it is


def test_interventions_on_the_activation_agree_with_a_hook() -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None, num_classes=5).eval()
    images = noise(1, 3, 64, 64)
    keep = (torch.arange(128) % 3 > 0).float()[None, :, None, None]
    handle = network.layer2.register_forward_hook(lambda m, i, o: o * keep)
    with torch.inference_mode():
        expected = network(images)
        handle.remove()
        cut = split(network, "layer2", (64, 64))
        activation, carried = cut.head(images)
        torch.testing.assert_close(cut.tail(activation * keep, carried), expected, rtol=1e-4, atol=1e-4)


def test_a_network_that_cannot_be_traced_is_hooked() -> None:
    network = Branching().eval()
    images = noise(3, 3, 16, 16)
    with torch.inference_mode():
        cut = split(network, "relu", (16, 16))
        assert isinstance(cut, HookedSplit)
        activation, carried = cut.head(images)
        assert torch.equal(activation, hooked_activation(network, "relu", images))
        assert torch.equal(cut(images), network(images))
        assert torch.equal(cut.tail(activation, carried), network(images))
        zero = cut.tail(torch.zeros_like(activation), carried)
        torch.testing.assert_close(zero, network.net.fc.bias.expand(3, -1))


@pytest.mark.parametrize("network", [SmallNet(), Branching()])
def test_gradients_at_the_cut(network: nn.Module) -> None:
    layer = "relu"
    engine = engine_for(network, 16, layer)
    images, targets = noise(2, 3, 16, 16), torch.tensor([2, 0])
    activation, gradient = engine.activation_gradient(images, targets)
    # logit_c = fc(mean over 16 positions): its gradient is the weight over 16, at every position
    weight = (network if isinstance(network, SmallNet) else network.net).fc.weight
    torch.testing.assert_close(gradient, (weight[targets] / 16)[:, :, None, None].expand_as(activation))
    torch.testing.assert_close(activation, hooked_activation(network.eval(), layer, images))
    assert engine.cost.forwards == engine.cost.backwards == 2


def test_the_users_network_is_left_alone() -> None:
    network = SmallNet().train()
    state = {k: v.clone() for k, v in network.state_dict().items()}
    flags = [(m.training, getattr(m, "inplace", None)) for m in network.modules()]
    frozen = [p.requires_grad for p in network.parameters()]
    network.eval()
    engine = engine_for(network, 16, "relu")
    network.train()
    engine.logits(noise(5, 3, 16, 16))
    engine.activation_gradient(noise(1, 3, 16, 16), torch.tensor([0]))
    assert all(torch.equal(v, state[k]) for k, v in network.state_dict().items())
    assert [(m.training, getattr(m, "inplace", None)) for m in network.modules()] == flags
    assert [p.requires_grad for p in network.parameters()] == frozen
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_batched_equals_one_by_one() -> None:
    torch.manual_seed(0)
    engine = engine_for(torchvision.models.resnet18(weights=None, num_classes=9), 64, "layer4", batch_size=4)
    images = noise(11, 3, 64, 64)
    together = engine.probabilities(images)
    alone = torch.cat([engine.probabilities(images[i : i + 1]) for i in range(11)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    scored = engine.score(11, lambda part: images[part], target=3)
    assert torch.equal(scored, together[:, 3])
    assert torch.equal(engine.probabilities(images), together)  # bit for bit


def test_everything_is_counted_and_no_batch_is_too_large(small_engine: Engine) -> None:
    sizes: list[int] = []
    images = noise(10, 3, 16, 16)

    def build(part: slice) -> Tensor:
        sizes.append(part.stop - part.start)
        return images[part]

    before = small_engine.cost
    small_engine.score(10, build, 0)
    assert sizes == [4, 4, 2]
    assert (small_engine.cost - before).forwards == 10
    activation, carried = small_engine.activations(images[:1])
    small_engine.score_tail(6, lambda part: activation.expand(6, -1, -1, -1)[part], carried, 0)
    spent = small_engine.cost - before
    assert (spent.forwards, spent.tail_forwards) == (11, 6)
    assert small_engine.score(0, build, 0).shape == (0,)


def test_the_tail_scores_like_the_whole(small_engine: Engine) -> None:
    images = noise(1, 3, 16, 16)
    activation, carried = small_engine.activations(images)
    tail = small_engine.score_tail(1, lambda part: activation, carried, 1)
    torch.testing.assert_close(tail, small_engine.probabilities(images)[:, 1], rtol=0, atol=1e-6)


def test_bf16_gives_float32_probabilities_near_the_exact_ones() -> None:
    network = SmallNet()
    exact = engine_for(network, 16, "relu")
    coarse = Engine(network, "relu", (16, 16), precision="bf16", batch_size=4)
    images = noise(6, 3, 16, 16)
    assert coarse.probabilities(images).dtype == torch.float32
    torch.testing.assert_close(coarse.probabilities(images), exact.probabilities(images), rtol=0, atol=0.03)


def test_batches_cover_everything_once() -> None:
    assert [(s.start, s.stop) for s in batches(7, 3)] == [(0, 3), (3, 6), (6, 7)]
    assert list(batches(0, 3)) == []


def test_cuda_has_to_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto").type == pick_device("cpu").type == "cpu"
    with pytest.raises(UserError, match="sees no CUDA device"):
        pick_device("cuda")


# building


def torchvision_model(**keys: object) -> torchvision_models.TorchvisionModel:
    return torchvision_models.TorchvisionModel(**{"name": "test", "arch": "resnet18", "weights": "random", **keys})  # type: ignore[arg-type]


def test_random_weights_are_seeded() -> None:
    one, same, other = (torchvision_model(seed=s).build() for s in (1, 1, 2))
    assert weights_digest(one.network) == weights_digest(same.network) != weights_digest(other.network)
    before = torch.random.get_rng_state()
    torchvision_model().build()
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_checkpoint_brings_its_number_of_classes(tmp_path: Path, suffix: str, wrapped: bool) -> None:
    from safetensors.torch import save_file

    network = torchvision.models.resnet18(weights=None, num_classes=13)
    file = tmp_path / f"own{suffix}"
    state = {f"module.{k}" if wrapped else k: v for k, v in network.state_dict().items()}
    if suffix == ".pth":
        torch.save({"state_dict": state, "epoch": 3} if wrapped else state, file)
    else:
        save_file(state, file)
    classifier = torchvision_model(checkpoint=str(file)).build()
    assert classifier.num_classes == 13
    assert classifier.label_space == "own"
    assert weights_digest(classifier.network) == weights_digest(network)


@pytest.mark.parametrize("auxiliary", [True, False])
def test_an_inception_checkpoint_with_or_without_training_head(tmp_path: Path, auxiliary: bool) -> None:
    network = torchvision.models.inception_v3(weights=None, num_classes=5, aux_logits=auxiliary, init_weights=False)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    classifier = torchvision_model(arch="inception_v3", checkpoint=str(tmp_path / "own.pth")).build()
    assert classifier.num_classes == 5
    assert classifier.view.crop == 299
    assert classifier.target_layer == "Mixed_7c"


def test_a_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet34(weights=None).state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"own\.pth is no checkpoint of resnet18: .* are not its own \(first: layer1\.2"):
        torchvision_model(checkpoint=str(tmp_path / "own.pth")).build()
    torch.save(torchvision.models.vgg11(weights=None, num_classes=2).state_dict(), tmp_path / "vgg.pth")
    with pytest.raises(UserError, match=r"122 of its 122 tensors|tensors are missing"):
        torchvision_model(checkpoint=str(tmp_path / "vgg.pth")).build()


def test_a_checkpoint_with_another_number_of_classes(tmp_path: Path) -> None:
    torch.save(torchvision.models.resnet18(weights=None, num_classes=13).state_dict(), tmp_path / "own.pth")
    with pytest.raises(UserError, match=r"fc\.weight: \(13, 512\), needed \(200, 512\)"):
        torchvision_model(checkpoint=str(tmp_path / "own.pth"), num_classes=200).build()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_a_checkpoint_never_runs_code(tmp_path: Path) -> None:
    torch.save({"state_dict": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="could run code"):
        torchvision_model(checkpoint=str(tmp_path / "evil.pth")).build()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a git-lfs pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "is a web page"),
    ],
)
def test_what_a_download_leaves_that_went_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "own.pth").write_bytes(content)
    with pytest.raises(UserError, match=said):
        torchvision_model(checkpoint=str(tmp_path / "own.pth")).build()


@pytest.mark.parametrize("content", [b"", b"nothing", b"PK\x03\x04", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_is_no_checkpoint(tmp_path: Path, content: bytes, suffix: str) -> None:
    file = tmp_path / f"own{suffix}"
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.checkpoint=.*own"):
        torchvision_model(checkpoint=str(file)).build()
    with pytest.raises(UserError, match="is not a file"):
        torchvision_model(checkpoint=str(tmp_path / "absent.pth")).build()


def test_an_unknown_layer_lists_the_valid_ones() -> None:
    with pytest.raises(UserError, match=r"Did you mean 'layer4'\? Valid: conv1, .*layer1, .*layer4"):
        torchvision_model(target_layer="layer5").build()


def test_published_weights_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(UserError, match=r"fetch https://.*/resnet18-\w+\.pth and put it into .*checkpoints"):
        torchvision_model(weights="pretrained").build()


def test_weights_that_cannot_be_had_are_tried_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Once for each file; one that has been put into its place meanwhile is found."""
    tried: list[str] = []

    def offline(url: str, *_: object, **__: object) -> None:
        tried.append(url)
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    model = torchvision_model(weights="pretrained")
    said = []
    for _ in range(2):
        with pytest.raises(UserError, match="model=efficientnet_lite0 needs no download") as error:
            model.build()
        said.append(str(error.value))
    assert said[0] == said[1]
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    assert tried == [weights.url]
    name = weights.url.rsplit("/", 1)[1]
    assert model.to_fetch() == f"{name} (45 MB) from {weights.url}"
    with pytest.raises(UserError, match="could not be had"):
        torchvision_model(name="alexnet", arch="alexnet", weights="pretrained").build()
    assert len(tried) == 2
    network = torchvision.models.resnet18(weights=None)
    torch.save(network.state_dict(), tmp_path / "hub" / "checkpoints" / name)
    assert model.to_fetch() is None
    assert weights_digest(model.build().network) == weights_digest(network)
    for other in ({"weights": "random"}, {"checkpoint": "own.pth"}):
        assert torchvision_model(**{"weights": "pretrained", "name": "alexnet", "arch": "alexnet"} | other).to_fetch() is None


def test_published_weights_from_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A file put where the message says is found (torchvision checks its hash against the name, so the name is ours)."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    network = torchvision.models.resnet18(weights=None)
    weights = torchvision.models.ResNet18_Weights.DEFAULT
    torch.save(network.state_dict(), folder / weights.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    classifier = torchvision_model(weights="pretrained").build()
    assert weights_digest(classifier.network) == weights_digest(network)
    assert classifier.class_names[0] == next(name for i, name in imagenet_classes().values() if i == 0)


def test_default_layers() -> None:
    network = SmallNet().eval()
    shapes = output_shapes(network, (16, 16))
    assert shapes["relu"] == (1, 6, 4, 4)
    assert shapes[""] == (1, 3)
    assert last_map(network, {k: v for k, v in shapes.items() if k}) == "relu"
    with pytest.raises(UserError, match="no layer with a feature map"):
        last_map(network, {"relu": (1, 6, 1, 1)})


@pytest.mark.parametrize(("arch", "layer"), [("vgg11", "features.19"), ("alexnet", "features.11")])
def test_the_default_layer_is_no_pooling_nor_ends_in_one(arch: str, layer: str) -> None:
    assert torchvision_model(name=arch, arch=arch, weights="random").build().target_layer == layer


def test_maps_with_channels_last_are_found() -> None:
    model = torchvision_model(name="swin_t", arch="swin_t", weights="random")
    assert model.build().target_layer == "permute"
    named = torchvision_model(name="swin_t", arch="swin_t", weights="random", target_layer="features.7").build()
    assert (named.target_layer, named.layout.reshape) == ("features.7", "channels_last")


@pytest.mark.parametrize("arch", ["densenet121", "googlenet"])
def test_published_weights_are_loaded_as_torchvision_loads_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arch: str
) -> None:
    """DenseNet's published file has keys of an older module tree, GoogLeNet's wants its input transformed."""
    published = torchvision.models.get_model(arch, weights=None, **({"init_weights": False} if arch == "googlenet" else {}))
    state = published.state_dict()
    if arch == "densenet121":
        state = {re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", k): v for k, v in state.items() if "tracked" not in k}
    weights = torchvision.models.get_model_weights(arch)["DEFAULT"]
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(state, folder / weights.url.rsplit("/", 1)[1])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network = torchvision_model(name=arch, arch=arch, weights="pretrained").build().network
    assert torch.equal(next(network.parameters()), next(published.parameters()))
    assert getattr(network, "transform_input", True)


def test_an_older_mnasnet_checkpoint_keeps_its_version(tmp_path: Path) -> None:
    """MNASNet asks the state dict's metadata which of its two layouts it has."""
    network = torchvision.models.mnasnet0_5(weights=None, num_classes=4)
    torch.save(network.state_dict(), tmp_path / "own.pth")
    built = torchvision_model(name="mnasnet0_5", arch="mnasnet0_5", checkpoint=str(tmp_path / "own.pth")).build()
    assert weights_digest(built.network) == weights_digest(network)


class Awkward(nn.Module):
    """An in-place function right after the layer, and a batch size that crosses it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=4)
        self.fc = nn.Linear(4 * 4 * 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        count = x.shape[0]
        return self.fc(torch.relu_(self.conv(x)).reshape(count, -1))


def test_in_place_functions_and_shapes_that_cross_the_cut() -> None:
    network = Awkward()
    engine = engine_for(network, 16, "conv")
    assert engine.network.tail_only
    images = noise(2, 3, 16, 16)
    activation, carried = engine.activations(images[:1])
    assert carried == ()
    tail = engine.score_tail(6, lambda part: activation.expand(6, -1, -1, -1)[part], carried, 1)
    torch.testing.assert_close(tail, engine.probabilities(images)[:1, 1].expand(6), rtol=0, atol=1e-6)
    _, gradient = engine.activation_gradient(images, torch.tensor([0, 1]))
    at_layer = network.conv(images).detach().requires_grad_()
    logits = network.fc(at_layer.relu().reshape(2, -1))
    (expected,) = torch.autograd.grad(logits[0, 0] + logits[1, 1], at_layer)
    torch.testing.assert_close(gradient, expected, rtol=0, atol=1e-6)
    with engine.differentiable() as running:
        running(images.clone()).sum().backward()


def test_tails_come_in_larger_batches_of_bounded_memory(small_engine: Engine) -> None:
    """2 MiB of activations for each image of a batch: 6 maps of 4 x 4 floats are 384 bytes."""
    assert small_engine.tail_batch_size == 4 * 2**21 // 384
    hooked = engine_for(Branching(), 16, "relu")
    assert hooked.tail_batch_size == hooked.batch_size == 4


def test_a_calibrated_batch_size_is_one_of_those_tried() -> None:
    engine = Engine(SmallNet().eval(), "relu", (16, 16), batch_size="auto")
    assert engine.batch_size in (4, 8, 16, 32)
    assert engine.cost == Cost()


def test_gradients_by_pixels_come_in_batches_of_the_usual_size() -> None:
    """Larger ones would keep the activations of all their images; the numbers do not change."""
    large, usual = (Engine(SmallNet().eval(), "relu", (16, 16), batch_size=size) for size in (4096, 64))
    assert large.gradient_batch_size == 8 * 8  # the usual batch on a CPU, and 8 times as many of small images
    assert usual.gradient_batch_size == 64
    images = noise(130, 3, 16, 16)
    assert torch.equal(large.input_gradient(images, 1), usual.input_gradient(images, 1))
    assert large.cost == Cost(130, 0, 130)


def test_a_network_that_cannot_be_traced_is_not_compiled() -> None:
    with pytest.raises(UserError, match="compile=true: this network can't be traced"):
        Engine(Branching().eval(), "relu", (16, 16), compile=True)


@pytest.mark.parametrize("said", ["no C++ compiler", ""])
def test_a_compiler_that_fails_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(nn.Module, "compile", lambda self: setattr(self, "_compiled_call_impl", broken))
    with pytest.raises(UserError, match=re.escape(f"torch.compile failed ({said or 'RuntimeError'}); use compile=false")):
        Engine(SmallNet().eval(), "relu", (16, 16), compile=True)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_scores_and_gradients() -> None:
    plain, compiled = (Engine(SmallNet().eval(), "relu", (16, 16), batch_size=4, compile=c) for c in (False, True))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 2  # head and tail
    for count in (1, 4, 3, 6):
        images = noise(count, 3, 16, 16)
        torch.testing.assert_close(compiled.probabilities(images), plain.probabilities(images), rtol=0, atol=1e-5)
    for one, other in zip(*(e.activation_gradient(images[:1], torch.tensor([2])) for e in (plain, compiled)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)
    torch.testing.assert_close(compiled.input_gradient(images, 1), plain.input_gradient(images, 1), rtol=0, atol=1e-5)
    assert compiled.cost == Cost(1 + 4 + 3 + 6 + 1 + 6, 0, 1 + 6)
