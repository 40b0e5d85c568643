"""What a caller gives to the library: the usual forms are taken, the others are one line before any work."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from suny import Suny, explain, score
from suny.classifiers.copies import own_copy
from suny.classifiers.engine import Engine
from suny.errors import UserError
from tests.conftest import SmallNet, noise

IMAGES = noise(2, 3, 16, 16)
FILTERS = {"cause": "filter", "candidates": "all"}


def values(network: nn.Module, images: Any = IMAGES, targets: Any = (0, 2), layer: Any = "relu", **settings: Any) -> Tensor:
    return Suny(network, layer, **{**FILTERS, **settings})(images, targets).n_values


EXPECTED = values(SmallNet())


@pytest.mark.parametrize(
    "images", [IMAGES.numpy(), IMAGES.double(), IMAGES.double().numpy(), IMAGES.requires_grad_(), IMAGES[:, :, ::1]]
)
def test_images_that_are_taken(images: Any) -> None:
    torch.testing.assert_close(values(SmallNet(), images), EXPECTED, rtol=0, atol=0)


def test_a_single_image_and_half_precision() -> None:
    one = values(SmallNet(), IMAGES[1], 2)
    torch.testing.assert_close(one, EXPECTED[1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(values(SmallNet(), IMAGES.half()), values(SmallNet(), IMAGES.half().float()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        ((IMAGES * 50).clamp(0, 255).byte(), r"images are torch\.uint8.*images / 255"),
        ((IMAGES * 50).long().numpy(), r"images are torch\.int64"),
        (IMAGES.permute(0, 2, 3, 1), r"shape \(2, 16, 16, 3\), channels last"),
        (torch.where(torch.arange(16) == 3, torch.nan, IMAGES), "2 of 2 images have NaN or infinite values"),
        (IMAGES[:0], "nothing to explain"),
        (IMAGES[None], r"\(1, 2, 3, 16, 16\).*volumes"),
        (IMAGES[0, 0], r"shape \(16, 16\)"),
        (IMAGES.detach().to_sparse(), r"layout torch\.sparse_coo on cpu: give a dense tensor"),
        (IMAGES.detach().to("meta"), r"layout torch\.strided on meta: give a dense tensor with values"),
        (IMAGES.tolist(), "images are a list"),
        (None, "images are a NoneType"),
        (IMAGES[:, :1], r"first image, float32 \(1, 1, 16, 16\): its first convolution \(conv\) takes 3 channels"),
        (noise(1, 4, 16, 16), r"first convolution \(conv\) takes 3 channels, the images have 4"),
    ],
)
def test_images_that_are_refused(images: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Suny(SmallNet(), "relu")(images, None)


@pytest.mark.parametrize(
    "targets",
    [[0, 2], (0, 2), np.array([0, 2]), torch.tensor([[0], [2]]), torch.eye(3)[[0, 2]], np.eye(3, dtype=int)[[0, 2]]],
)
def test_classes_that_are_taken(targets: Any) -> None:
    assert torch.equal(values(SmallNet(), IMAGES, targets), EXPECTED)


def test_one_class_for_all_images_and_the_top_one() -> None:
    for one in (2, np.int64(2), torch.tensor(2)):
        assert torch.equal(values(SmallNet(), IMAGES, one), values(SmallNet(), IMAGES, [2, 2]))
    with torch.no_grad():
        top = SmallNet().eval()(IMAGES).argmax(1)
    assert torch.equal(values(SmallNet(), IMAGES, None), values(SmallNet(), IMAGES, top))


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (1.7, r"targets are torch\.float64 \(1\.7\): give class indices 0\.\.2, one per image \(2\)"),
        (torch.tensor([1.0, 0.0]), r"targets are torch\.float32 \(1, 0\)"),
        ([True, False], r"targets are torch\.bool"),
        ([1], r"shape \(1,\) for 2 images"),
        ([0, 1, 2], r"shape \(3,\) for 2 images"),
        ([-1, 0], "targets hold -1, and the network has 3 classes"),
        ([0, 3], "targets hold 3, and the network has 3 classes"),
        ("cat", "targets are a str"),
        ([None, 1], "targets are a list"),
        (torch.ones(2, 3), "not one-hot"),
    ],
)
def test_classes_that_are_refused(targets: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Suny(SmallNet(), "relu")(IMAGES, targets)


def test_layers_by_module_and_by_default() -> None:
    network = SmallNet()
    assert torch.equal(values(network, layer=network.relu), EXPECTED)
    assert torch.equal(values(network, layer=None), EXPECTED)
    with pytest.raises(UserError, match=r"target_layer is a ReLU that is no layer of this network"):
        Suny(network, SmallNet().relu)
    with pytest.raises(UserError, match="Did you mean 'relu'"):
        Suny(network, "rleu")
    with pytest.raises(UserError, match="target_layer is a int"):
        Suny(network, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("precision", "banana", "precision=banana is unknown.*float32, bf16"),
        ("batch_size", 0, "batch_size=0"),
        ("reshape", "toks", "reshape=toks is unknown. Did you mean 'tokens'"),
        ("output", "banana", "output=banana is unknown"),
    ],
)
def test_settings_that_are_refused(key: str, value: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Suny(SmallNet(), "relu", **{key: value})
    with pytest.raises(UserError, match="model is a function"):
        Suny(lambda x: x, "relu")  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "close"), [(torch.half, 5e-3), (torch.bfloat16, 5e-2), (torch.double, 0)])
def test_networks_of_other_precision_run_in_float32(dtype: torch.dtype, close: float) -> None:
    torch.testing.assert_close(values(SmallNet().to(dtype), IMAGES.to(dtype).float()), EXPECTED, rtol=close, atol=close)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("settings", [{}, FILTERS, {"cause": "region", "candidates": "grid", "k": 2}])
def test_networks_of_other_channels(channels: int, settings: dict[str, Any]) -> None:
    """One channel three times is three channels with the weights divided among them; a fourth of zeros is none."""
    network, other, images = SmallNet(), SmallNet(), noise(1, channels, 16, 16)
    other.conv = nn.Conv2d(channels, 6, 3, stride=4, padding=1)
    with torch.no_grad():
        other.conv.bias.copy_(network.conv.bias)
        weight = network.conv.weight
        other.conv.weight.copy_(weight.sum(1, keepdim=True) if channels == 1 else nn.functional.pad(weight, (0, 0, 0, 0, 0, 1)))
    same = images.expand(-1, 3, -1, -1) if channels == 1 else images[:, :3]
    got, expected = (Suny(net, "relu", **settings)(x, 1) for net, x in ((other, images), (network, same)))
    torch.testing.assert_close(got.n_values, expected.n_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.saliency, expected.saliency, rtol=1e-4, atol=1e-5)
    superpixels = Suny(other, cause="region", candidates="slic", k=4)(images, 1)
    assert superpixels.saliency.shape == (1, 16, 16)


# whose network is it?


def with_weight_norm(network: SmallNet) -> SmallNet:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        network.conv = weight_norm(network.conv)
    return network


def with_spectral_norm(network: SmallNet) -> SmallNet:
    network.conv = spectral_norm(network.conv)
    network.train()(IMAGES)
    return network.eval()


def with_pruning(network: SmallNet) -> SmallNet:
    prune.l1_unstructured(network.conv, "weight", 0.3)
    prune.random_unstructured(network.conv, "weight", 0.3)
    return network


def with_parametrization(network: SmallNet) -> SmallNet:
    network.conv = parametrizations.spectral_norm(network.conv)
    return network


@pytest.mark.parametrize("dress", [with_weight_norm, with_spectral_norm, with_pruning, with_parametrization])
def test_weights_that_are_computed_from_others(dress: Callable[[SmallNet], SmallNet]) -> None:
    network = dress(SmallNet()).eval()
    expected = network(IMAGES).detach()  # its weights are no leaves now
    plain = own_copy(network)
    assert {name for name, _ in plain.named_parameters()} == {name for name, _ in SmallNet().named_parameters()}
    with torch.no_grad():
        torch.testing.assert_close(plain(IMAGES), expected, rtol=0, atol=1e-6)
        torch.testing.assert_close(network(IMAGES), expected, rtol=0, atol=0)
    assert values(network).shape == (2, 6)
    engine = Engine(network, "relu", (16, 16))
    assert not torch.allclose(engine.randomised(0).activations(IMAGES)[0], engine.activations(IMAGES)[0], atol=1e-2)
    assert [name for name, _ in engine.cascade(3, 0)] == ["fc", "bn", "conv"]


def test_kept_features_and_hooks_stay_with_the_caller() -> None:
    class Keeping(SmallNet):
        def forward(self, x: Tensor) -> Tensor:
            self.kept = {"first": [self.conv(x)]}
            return super().forward(x)

    class Hook:
        def __init__(self) -> None:
            self.lock, self.fired = threading.Lock(), 0  # a lock can't be copied

        def __call__(self, _module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            self.fired += 1
            return output * 100

    network, hook = Keeping().eval(), Hook()
    network(IMAGES)
    assert not network.kept["first"][0].is_leaf
    network.relu.register_forward_hook(hook)
    torch.testing.assert_close(values(network), EXPECTED, rtol=1e-4, atol=1e-5)
    assert hook.fired == 0
    assert len(network.relu._forward_hooks) == 1


class MadeInForward(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.Hardtanh(-9, 9)(x))


class LooksUp(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * {16: 1.0}[x.shape[-1]])


class Writes(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        x.sub_(0.5)
        x[:, 0] *= 2
        return super().forward(x)


class WritesNothing(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.5) * torch.tensor([2.0, 1.0, 1.0])[:, None, None])


@pytest.mark.parametrize("network", [MadeInForward(), LooksUp()])
def test_code_that_cannot_be_traced(network: nn.Module) -> None:
    torch.testing.assert_close(values(network), EXPECTED, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, FILTERS, {"cause": "region", "candidates": "grid", "k": 2}])
def test_a_forward_that_writes_into_its_input(settings: dict[str, Any]) -> None:
    before = IMAGES.detach().clone()
    got, expected = (Suny(net, "relu", **settings)(IMAGES, 1) for net in (Writes(), WritesNothing()))
    assert torch.equal(IMAGES, before)
    torch.testing.assert_close(got.n_values, expected.n_values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.saliency, expected.saliency, rtol=1e-4, atol=1e-5)
    engines = [Engine(net.eval(), "relu", (16, 16)) for net in (Writes(), WritesNothing())]
    one, other = (engine.input_gradient(IMAGES.detach(), 1) for engine in engines)
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


class AlwaysDropping(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.dropout(x, 0.5, train=True))


class OverTheBatch(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.batch_norm(x, None, None, training=True))


class OnlyOne(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.bn(self.conv(x))).mean((2, 3)).reshape(1, 6))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (AlwaysDropping(), "two passes of the same image give different outputs"),
        (OverTheBatch(), "depend on the others of its batch"),
        (OnlyOne(), "takes one image and fails for two"),
    ],
)
def test_networks_that_cannot_be_scored(network: nn.Module, said: str) -> None:
    with pytest.raises(UserError, match=said):
        values(network)


class Detached(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.bn(self.conv(x))).mean((2, 3)).detach())


def quantised() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(SmallNet().eval(), {nn.Linear}, torch.qint8)


@pytest.mark.parametrize(("network", "close"), [(Detached(), 1e-5), (quantised(), 5e-2)])
def test_without_gradients_what_needs_forwards_only_works(network: nn.Module, close: float) -> None:
    torch.testing.assert_close(values(network), EXPECTED, rtol=close, atol=close)
    with pytest.raises(UserError, match="passes no gradient from its outputs to the target layer"):
        Suny(network, "relu", prescreen=4)(IMAGES, 0)


def compiled_networks() -> list[nn.Module]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.script(SmallNet().eval())
        return [script, torch.jit.trace(SmallNet().eval(), IMAGES), torch.jit.freeze(torch.jit.script(SmallNet().eval()))]


@pytest.mark.parametrize("network", compiled_networks(), ids=["script", "trace", "freeze"])
def test_networks_compiled_by_torch_jit(network: nn.Module) -> None:
    settings = {"cause": "region", "candidates": "grid", "k": 2}
    torch.testing.assert_close(
        values(network, layer=None, **settings), values(SmallNet(), layer=None, **settings), rtol=1e-4, atol=1e-5
    )
    with pytest.raises(UserError, match=r"compiled by torch\.jit.*cause=region"):
        Suny(network)(IMAGES, 0)


def test_what_is_around_a_network_is_taken_off() -> None:
    assert torch.equal(values(nn.DataParallel(SmallNet()), layer="module.relu"), EXPECTED)
    assert torch.equal(values(torch.compile(SmallNet(), backend="eager"), layer="relu"), EXPECTED)  # type: ignore[arg-type]


class NoClasses(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[:, :0]


def lazy() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.Sequential(nn.LazyConv2d(3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(2))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (SmallNet().to("meta"), r"the network's conv\.weight is on the meta device and has no values"),
        (lazy(), r"the network's 0\.weight is not initialised"),
        (NoClasses(), r"outputs of shape \(1, 0\): there is no class"),
    ],
)
def test_networks_without_values_or_classes(network: nn.Module, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Suny(network)(IMAGES, 0)
    with pytest.raises(UserError, match=said):
        explain(network, IMAGES, method="center")


class Squashed(SmallNet):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).softmax(1)


def test_outputs_are_said_to_every_function_of_the_library() -> None:
    """A network of probabilities has the maps and scores of the one of logits; without the word it is refused."""
    images, settings = IMAGES.detach(), {"method": "rise", "masks": 8, "progress": False}
    for call in (lambda: explain(Squashed(), images, **settings), lambda: score(Squashed(), images, torch.rand(2, 16, 16))):
        with pytest.raises(UserError, match="say output=probability"):
            call()
    said = explain(Squashed(), images, output="probability", **settings)
    usual = explain(SmallNet(), images, **settings)
    torch.testing.assert_close(said.saliency, usual.saliency, rtol=1e-5, atol=1e-6)
    rows = [score(net, images, one, points=3, progress=False) for net, one in ((Squashed(), said), (SmallNet(), usual))]
    for column in ("prob", "deletion", "insertion"):
        np.testing.assert_allclose(rows[0][column], rows[1][column], rtol=1e-4, atol=1e-6)
    with pytest.raises(UserError, match="output=banana is unknown"):
        explain(SmallNet(), images, output="banana")  # type: ignore[arg-type]
