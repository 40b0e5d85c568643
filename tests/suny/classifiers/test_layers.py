"""Which layers have places, told by what grows with the image; channels last and tokens as maps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn

from suny import Suny
from suny.classifiers.classifier import Classifier, Model, Source, finish
from suny.classifiers.engine import Engine
from suny.classifiers.layers import CHANNELS_FIRST, CHANNELS_LAST, Layout, find_layers
from suny.errors import UserError
from suny.images.view import View
from tests.conftest import noise


class Last(nn.Module):
    """Moves channels last, or first again."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(*self.order)


def two_layouts() -> nn.Sequential:
    """Seven channels of maps that are 7 x 7 for 28 pixels: one shape says nothing."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 7, 4, 4), Last(0, 2, 3, 1), nn.ReLU(), Last(0, 3, 1, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(7, 3)).eval()


class Attention(nn.Module):
    """One head, as matrices that can be seen."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.key, self.weights = nn.Identity(), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x)[:, None].chunk(3, -1)
        return (self.weights(q @ self.key(k).transpose(-2, -1)) @ v)[:, 0]


class Vit(nn.Module):
    """Two blocks of attention over 4 x 4 patches, a class token before them that alone is read, or the mean of all."""

    def __init__(self, side: int | None = None, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.norms = nn.ModuleList([nn.LayerNorm(8) for _ in range(2)])
        self.blocks = nn.ModuleList([Attention(8) for _ in range(2)])
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)
        self.side, self.pooled = side, pooled

    def forward(self, x: Tensor) -> Tensor:
        assert self.side is None or x.shape[-1] == x.shape[-2] == self.side
        x = torch.cat([self.token.expand(len(x), -1, -1), self.patches(x).flatten(2).transpose(1, 2)], 1)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x))
        x = self.norm(x)
        return self.head(x.mean(1) if self.pooled else x[:, 0])


@pytest.mark.parametrize("size", [(28, 28), (28, 44), (44, 28)])
def test_axes_that_grow_with_the_image_are_the_places(size: tuple[int, int]) -> None:
    layouts = find_layers(two_layouts(), noise(1, 3, *size)).layouts
    assert {name: layouts[name] for name in "0123"} == {
        "0": CHANNELS_FIRST, "1": CHANNELS_LAST, "2": CHANNELS_LAST, "3": CHANNELS_FIRST,
    }  # fmt: skip


@pytest.mark.parametrize("size", [(28, 28), (28, 44)])
@pytest.mark.parametrize("cause", ["feature", "filter"])
def test_channels_last_give_the_maps_of_the_same_layer_with_channels_first(size: tuple[int, int], cause: str) -> None:
    images = noise(2, 3, *size)
    last, first = (Suny(two_layouts(), layer, cause=cause, candidates="all")(images, [0, 1]) for layer in ("2", "3"))
    assert last.saliency.shape == (2, *size)
    assert last.n_candidates.tolist() == first.n_candidates.tolist()
    torch.testing.assert_close(last.n_values, first.n_values, rtol=0, atol=1e-6)
    torch.testing.assert_close(last.saliency, first.saliency, rtol=0, atol=1e-6)
    assert float(first.saliency.max()) > 0


def test_a_gradient_at_a_layer_with_channels_last_is_that_with_channels_first() -> None:
    images, targets = noise(1, 3, 28, 44), torch.tensor([1])
    last, first = (
        Engine(two_layouts(), layer, (28, 44), layout=layout).activation_gradient(images, targets)
        for layer, layout in (("2", CHANNELS_LAST), ("3", CHANNELS_FIRST))
    )
    assert last[0].shape == last[1].shape == (1, 7, 7, 11)
    for one, other in zip(last, first, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("side", [None, 16])
def test_tokens_and_attention_are_no_feature_maps(side: int | None) -> None:
    network, image = Vit(side).eval(), noise(1, 3, 16, 16)
    layers = find_layers(network, image)
    assert layers.shapes["blocks.0.key"] == (1, 1, 17, 8)
    assert layers.shapes["blocks.0.weights"] == (1, 1, 17, 17)
    assert not {"blocks.0.key", "blocks.0.weights"} & layers.layouts.keys()
    assert layers.layouts["patches"] == CHANNELS_FIRST
    assert layers.layouts["norms.1"] == Layout("tokens", (4, 4), 1)
    explain = {"reshape": "tokens", "cause": "filter"}
    for name in ("blocks.1.key", "blocks.1.weights"):
        with pytest.raises(UserError, match=rf"{name} does not return a feature map.*target_layer=norms\.1 reshape=tokens"):
            Suny(network, name, **explain)(image, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"it returns \(1, 17, 8\), tokens\. Say reshape=tokens to take it as maps"):
        Suny(network, "norms.1")(image, 0)
    with pytest.raises(UserError, match=r"the tokens of its places do not reach the outputs.*norms\.1 reshape=tokens"):
        Suny(network, "norm", **explain)(image, 0)  # type: ignore[arg-type]


def test_the_default_layer_of_a_network_of_tokens() -> None:
    """The last one whose places the outputs depend on, whatever the weights are."""
    image = noise(1, 3, 16, 16)
    network = Vit().eval()
    nn.init.zeros_(network.head.weight)  # as torchvision's has it before training
    assert find_layers(network, image).default() == ("norms.1", Layout("tokens", (4, 4), 1))
    assert find_layers(Vit(pooled=True).eval(), image).default() == ("norm", Layout("tokens", (4, 4), 1))


@pytest.mark.parametrize("side", [None, 16])
def test_filters_of_tokens_at_their_places(side: int | None) -> None:
    """Removing a channel of the places equals a pass in which it is set to 0 there by hand."""
    network, image = Vit(side, pooled=True).eval(), noise(1, 3, 16, 16)
    result = Suny(network, "norms.1", cause="filter", candidates="all", reshape="tokens")(image, 2)
    with torch.no_grad():
        clean = network(image).softmax(1)[0, 2]
        for f in range(8):

            def without(_module: nn.Module, _inputs: object, output: Tensor, f: int = f) -> Tensor:
                changed = output.clone()
                changed[:, 1:, f] = 0
                return changed

            handle = network.norms[1].register_forward_hook(without)
            expected = 1 - network(image).softmax(1)[0, 2] / clean
            handle.remove()
            assert float(result.n_singles[0, f]) == pytest.approx(float(expected), abs=1e-5)
    assert result.saliency.shape == (1, 16, 16)
    assert float(result.saliency.max()) > 0


def test_tokens_lie_row_after_row() -> None:
    layout = Layout("tokens", (2, 3), 1)
    tokens = torch.arange(7.0)[None, :, None].expand(1, 7, 4)
    maps, beside = layout.maps(tokens)
    assert maps[0, 0].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert torch.equal(layout.output(maps, beside), tokens)


def own(network: nn.Module, side: int = 28, **keys: object) -> Classifier:
    view = View(resize=side, crop=side, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    return finish(Model(name="own", **keys), Source(network, view, None))  # type: ignore[arg-type]


@pytest.mark.parametrize("keys", [{}, {"reshape": "channels_last"}, {"reshape": "tokens"}])
def test_channels_last_are_found_on_the_command_line_as_in_the_library(keys: dict[str, object]) -> None:
    """Engines at the layer before its permutation and behind it have the same activation."""
    last, first = (own(two_layouts(), target_layer=layer, **keys) for layer in ("2", "3"))
    assert (last.layout, first.layout) == (CHANNELS_LAST, CHANNELS_FIRST)
    assert (last.no_layer, first.no_layer) == ("", "")
    image = noise(1, 3, 28, 28)
    one, other = (Engine.of(classifier).activations(image)[0] for classifier in (last, first))
    assert one.shape == (1, 7, 7, 7)
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_tokens_of_a_named_layer_are_asked_for() -> None:
    named = own(Vit(), side=16, target_layer="norms.1")
    assert named.target_layer is None
    assert "target_layer=norms.1 is no layer of own with a feature map" in named.no_layer
    assert "tokens. Say model.reshape=tokens to take it as maps" in named.no_layer
    asked, default = own(Vit(), side=16, target_layer="norms.1", reshape="tokens"), own(Vit(), side=16)
    for one in (asked, default):
        assert (one.target_layer, one.layout.reshape, one.no_layer) == ("norms.1", "tokens", "")


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 28 * 28, 8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: own(mlp()), "the network has no layer with a feature map as output"),
        (lambda: own(mlp(), target_layer="1"), r"model\.target_layer=1 is no layer of own with a feature map"),
        (lambda: own(Vit(), target_layer="norms.1"), r"Say model\.reshape=tokens"),
    ],
)
def test_without_a_layer_what_takes_whole_passes_works(made: Callable[[], Classifier], said: str) -> None:
    classifier, image = made(), noise(1, 3, 28, 28)
    engine = Engine.of(classifier)
    with torch.no_grad():
        expected = classifier.network(image).softmax(1)
    torch.testing.assert_close(engine.probabilities(image), expected)
    assert engine.input_gradient(image, 1).shape == image.shape
    assert engine.randomised(0).probabilities(image).shape == (1, 3)
    for asked in (engine, engine.randomised(0)):
        for use in (asked.activations, lambda x, e=asked: e.activation_gradient(x, torch.tensor([0]))):
            with pytest.raises(UserError, match=rf"{said}.*need no layer: rise, occlusion, suny_region"):
                use(image)


def test_a_layer_that_does_not_exist_is_refused_at_once() -> None:
    with pytest.raises(UserError, match=r"model\.target_layer=5 is no layer of own"):
        own(mlp(), target_layer="5")


@pytest.mark.parametrize(
    ("arch", "layer", "reshape"),
    [
        ("swin_t", "permute", None),
        ("convnext_tiny", "features", None),
        ("vit_b_16", "encoder.layers.encoder_layer_11.ln_1", "tokens"),
    ],
)
def test_default_layers_of_torchvision(arch: str, layer: str, reshape: str | None) -> None:
    network = torchvision.models.get_model(arch, weights=None).eval()
    assert find_layers(network, noise(1, 3, 224, 224)).default() == (
        layer, Layout("tokens", (14, 14), 1) if reshape else CHANNELS_FIRST,
    )  # fmt: skip


def test_a_swin_transformer_on_an_image_that_is_not_square() -> None:
    network, images = torchvision.models.swin_t(weights=None, num_classes=4), noise(1, 3, 64, 96)
    last, first = (Suny(network, layer, cause="filter", k=2)(images, 1) for layer in ("norm", "permute"))
    assert last.n_candidates.tolist() == first.n_candidates.tolist()
    torch.testing.assert_close(last.saliency, first.saliency, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("arch", "named", "default", "layout"),
    [
        ("vit_tiny_patch16_224", "blocks.11.attn.k_norm", "blocks.11.norm1", Layout("tokens", (14, 14), 1)),
        ("deit_tiny_distilled_patch16_224", "blocks.11.attn.q_norm", "blocks.11.norm1", Layout("tokens", (14, 14), 2)),
        ("swin_tiny_patch4_window7_224", "layers.3.blocks.1.attn.softmax", "norm", CHANNELS_LAST),
        ("mixer_s16_224", "blocks.3.mlp_tokens", "norm", Layout("tokens", (14, 14), 0)),
    ],
)
def test_layers_of_timm(arch: str, named: str, default: str, layout: Layout) -> None:
    timm = pytest.importorskip("timm")
    network = timm.create_model(arch, pretrained=False).eval()
    layers = find_layers(network, noise(1, 3, 224, 224))
    assert layers.default() == (default, layout)
    with pytest.raises(UserError, match=r"it returns \(1, .* The nearest layer that works: target_layer=\S+ reshape="):
        layers.chosen(named, (None, "tokens", "channels_last"), f"{named} is none")
