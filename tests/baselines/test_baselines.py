"""Baselines and controls: a case by hand, independent implementations, and that they answer to what they should."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from captum.attr import LayerGradCam, Saliency
from captum.attr import Occlusion as CaptumOcclusion
from pytorch_grad_cam import AblationCAM, EigenCAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, ScoreCAM, XGradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as nnf

from baselines.ablation import AblationCam, CexCnn, responsibility
from baselines.controls import Center, Constant, Edges, Random, RandomWeights
from baselines.eigencam import EigenCam
from baselines.gradient_cams import GradientCam
from baselines.groupcam import GroupCam
from baselines.integrated_gradients import IntegratedGradients
from baselines.occlusion import Occlusion
from baselines.rise import Rise, draw_masks, grow_masks
from baselines.scorecam import ScoreCam
from baselines.smoothgrad import SmoothGrad
from experiments.command.configuration import CONF, make_target
from suny.classifiers.engine import Cost, Engine
from suny.errors import UserError
from suny.explanation import Explainer, upsample
from suny.method.explainer import SunyExplainer
from tests.cells import configuration
from tests.conftest import SmallNet, Weighted, engine_for, noise

METHODS = sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
# what does not look at the network, or not at the class
BLIND = {"random", "center", "edges", "constant"}
CLASSLESS = BLIND | {"eigencam"}
QUICK = {
    "rise": {"masks": 16, "cells": 3},
    "smoothgrad": {"samples": 3},
    "smoothgrad_vanilla": {"samples": 3},
    "integrated_gradients": {"steps": 3},
    "occlusion": {"window": 6, "stride": 5},
    "groupcam": {"groups": 3},
    "suny_region": {"orders": 4},
    "suny_semi": {"coalitions": 40},
    "suny_two": {"coalitions": 40},
}


def method(name: str, **keys: Any) -> Explainer:
    """A method as its conf file configures it, cheap enough for a test."""
    node = configuration(f"method={name}")["method"]
    if node["_target_"].endswith("SunyExplainer"):
        node |= {"k": 3, "prescreen": 4}
    return make_target(node | QUICK.get(name, {}) | keys, name, Explainer)


class Linear(nn.Module):
    """Feature maps A_1 = red, A_2 = green of a 2 x 2 image; logits: sum of V * A, and of A_2 / 4."""

    V = torch.tensor([[[1.0, 2.0], [0.5, 1.0]], [[-1.0, 1.0], [0.5, -0.5]]])

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None])
        self.register_buffer("v", self.V)

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x)
        return torch.stack([(a * self.v).sum((1, 2, 3)), a[:, 1].mean((1, 2))], 1)


IMAGE = torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[1.0, 4.0], [0.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]]])
A, V = IMAGE[:2], Linear.V


def one_map(explainer: Explainer, network: nn.Module, image: Tensor, target: int = 0, layer: str = "features") -> Tensor:
    engine = engine_for(network, image.shape[-1], layer)
    return explainer.explain(engine, image[None], torch.tensor([target]), [0]).saliency[0]


def softmax(logits: Tensor) -> Tensor:
    return torch.softmax(torch.as_tensor(logits, dtype=torch.float64), 0)


# by hand, on maps of 2 x 2 pixels: sums over two channels, with g = V


def test_the_gradient_cams_by_hand() -> None:
    g = V
    expected = {
        "gradcam": (g.mean((1, 2), keepdim=True) * A).sum(0),
        "hirescam": (g * A).sum(0),
        "layercam": (g.clamp(min=0) * A).sum(0),
        # weights 1 * 1 + 2 * 0 + .5 * 2 + 1 * 1 = 3 over sum 4; -1 + 4 + 0 - 2 = 1 over sum 9
        "xgradcam": 3 / 4 * A[0] + 1 / 9 * A[1],
        # g > 0: g^2 / (2 g^2 + 4 g^3) = 1 / (2 + 4 g), and 1 / (2 + 9 g), times g
        "gradcampp": (1 / 6 + 2 / 10 + 0.5 / 4 + 1 / 6) * A[0] + (1 / 11 + 0.5 / 6.5) * A[1],
    }
    for kind, values in expected.items():
        got = one_map(GradientCam(kind=kind), Linear(), IMAGE)  # type: ignore[arg-type]
        torch.testing.assert_close(got, values.clamp(min=0), rtol=1e-4, atol=1e-5)


def test_ablationcam_by_hand() -> None:
    """y = 1 + 0 + 1 + 1 - 1 + 4 + 0 - 2 = 4; without A_1 it is 1, without A_2 it is 3."""
    torch.testing.assert_close(one_map(AblationCam(), Linear(), IMAGE), 3 / 4 * A[0] + 1 / 4 * A[1])


def test_scorecam_by_hand() -> None:
    """Masks A_1 / 2 and A_2 / 4; p_0 of the image times the mask."""
    weights = []
    for mask in (A[0] / 2, A[1] / 4):
        masked = mask * A
        weights.append(float(softmax(torch.stack([(V * masked).sum(), masked[1].mean()]))[0]))
    torch.testing.assert_close(one_map(ScoreCam(), Linear(), IMAGE), weights[0] * A[0] + weights[1] * A[1])


def test_cexcnn_by_hand() -> None:
    """Logits 4 and 2.25; without A_1 1 and 2.25, without A_2 3 and 0, so only A_1's removal lowers p_0."""
    p = [float(softmax(torch.tensor(x))[0]) for x in ([4, 2.25], [1, 2.25], [3, 0])]
    assert p[0] > p[1]
    assert p[0] < p[2]
    torch.testing.assert_close(one_map(CexCnn(), Linear(), IMAGE), A[0])


def test_responsibility_by_hand() -> None:
    drops = torch.tensor([0.5, 0.2, 0.1, 0.05, 0.0, -0.3], dtype=torch.float64)
    # t = .3: .2 needs .1; .1 needs .2; .05 needs .2 and .1
    assert responsibility(drops, 0.3).tolist() == pytest.approx([1, 1 / 2, 1 / 2, 1 / 3, 0, 0])
    assert responsibility(drops, 0.36).tolist() == pytest.approx([1, 0, 0, 0, 0, 0])
    assert responsibility(torch.zeros(3), 0.0).tolist() == [0, 0, 0]


def test_groupcam_by_hand() -> None:
    """Two groups of one channel; a blur of one pixel leaves the image as it is, so no mask changes p: the map is 0."""
    assert float(one_map(GroupCam(groups=2, kernel=1, percentile=0), Linear(), IMAGE).abs().max()) == 0
    blurred = torchvision.transforms.functional.gaussian_blur(IMAGE, [3, 3], [50.0, 50.0])
    pooled = V.mean((1, 2), keepdim=True) * A  # the second group's are 0: mean of V_2 is 0
    mask = (pooled[0] - pooled[0].min()) / (pooled[0].max() - pooled[0].min())

    def p(image: Tensor) -> float:
        return float(softmax(torch.stack([(V * image[:2]).sum(), image[1].mean()]))[0])

    gain = p(IMAGE * mask + blurred * (1 - mask)) - p(blurred)
    got = one_map(GroupCam(groups=2, kernel=3, percentile=0), Linear(), IMAGE)
    torch.testing.assert_close(got, max(gain, 0) * mask, rtol=1e-4, atol=1e-6)
    # the first group's map is 1.125 * (1, 0, 2, 1): above its 70th percentile lies one pixel
    sparse = one_map(GroupCam(groups=2, kernel=3, percentile=70), Linear(), IMAGE)
    assert (sparse > 0).nonzero().tolist() in ([], [[1, 0]])


def test_eigencam_by_hand() -> None:
    """Maps that are multiples of one map have it as their principal direction, whatever the signs of the multiples."""
    one = torch.tensor([[1.0, 0.0], [2.0, 3.0]])
    image = torch.stack([one, 2 * one, one])
    torch.testing.assert_close(one_map(EigenCam(), Linear(), image), 5**0.5 * one)


def test_gradients_by_hand() -> None:
    """Of p_0 = sum of w * I: the gradient is w / p (of log p), integrated gradients w * I, occlusion of a pixel w * I."""
    weights = noise(3, 4, 4, seed=3).abs() / 200
    weights[:, 0, 0] = -weights[:, 0, 0]
    image = noise(3, 4, 4, seed=4).abs() + 0.1
    parts = (weights * image).sum(0)
    got = one_map(IntegratedGradients(steps=4), Weighted(weights), image)
    torch.testing.assert_close(got, parts.clamp(min=0), rtol=1e-4, atol=1e-6)
    assert float(got[0, 0]) == 0
    got = one_map(Occlusion(window=1, stride=1), Weighted(weights), image)
    torch.testing.assert_close(got, parts.clamp(min=0), rtol=1e-3, atol=1e-6)
    got = one_map(SmoothGrad(of="gradient", samples=3, noise=0.0), Weighted(weights), image)
    torch.testing.assert_close(got, (weights / parts.sum()).abs().sum(0))


def test_occlusion_averages_over_the_squares_that_cover_a_pixel() -> None:
    weights = torch.zeros(3, 3, 3)
    weights[:, 1, 1] = 0.1
    image = torch.ones(3, 3, 3)
    # 2 x 2 squares at 4 places, all of which cover the middle; each corner is covered by one of them, an edge by two
    torch.testing.assert_close(one_map(Occlusion(window=2, stride=1), Weighted(weights), image), torch.full((3, 3), 0.3))


def test_rise_agrees_with_a_direct_estimate() -> None:
    weights, image = noise(3, 12, 12).abs() / 500, noise(3, 12, 12, seed=1).abs()
    rise = Rise(masks=10, cells=3, p=0.4)
    got = one_map(rise, Weighted(weights), image)
    total = torch.zeros(12, 12)
    for mask in grow_masks(*draw_masks(10, (12, 12), 3, 0.4, torch.Generator().manual_seed(0)), (12, 12)):
        total += float((weights * image * mask).sum()) * mask
    torch.testing.assert_close(got, total / (10 * 0.4), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("explainer", [Rise(masks=10, cells=3), SmoothGrad(samples=10), SmoothGrad(of="gradient", samples=10)])
def test_what_is_random_does_not_depend_on_the_batch_size(explainer: Explainer) -> None:
    image, c = noise(1, 3, 16, 16), torch.tensor([1])
    one, other = (explainer.explain(engine_for(SmallNet(), 16, "relu", batch_size=b), image, c, [7]).saliency for b in (3, 10))
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_negative_logit_does_not_turn_the_map_around() -> None:
    """Logits -1 and, without the one filter that counts, -2: it supports the class."""
    network = Linear()
    network.v = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[-2.0, 0.0], [0.0, 0.0]]])
    image = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    # y = 1 - 2 = -1; without the first -2, without the second 1: weights 1 and -2 on maps that are alike
    assert float(one_map(AblationCam(), network, image).max()) == 0
    network.v = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[0.0, -2.0], [0.0, 0.0]]])
    image[1] = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    assert one_map(AblationCam(), network, image).tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_rise_masks() -> None:
    masks = grow_masks(*draw_masks(2000, (14, 21), 7, 0.3, torch.Generator().manual_seed(0)), (14, 21))
    assert masks.shape == (2000, 14, 21)
    assert float(masks.min()) >= 0
    assert float(masks.max()) <= 1
    assert float(masks.mean()) == pytest.approx(0.3, abs=0.01)  # the standard error is about .002
    generator = torch.Generator().manual_seed(5)
    grid = (torch.rand(1, 2, 2, generator=generator) < 0.5).float()[None]
    shifts = [int(torch.randint(3, (1,), generator=generator)) for _ in range(2)]
    (mask,) = grow_masks(*draw_masks(1, (6, 6), 2, 0.5, torch.Generator().manual_seed(5)), (6, 6))
    large = nnf.interpolate(grid, size=(9, 9), mode="bilinear")[0, 0]
    torch.testing.assert_close(mask, large[shifts[0] : shifts[0] + 6, shifts[1] : shifts[1] + 6], rtol=0, atol=2e-7)


# independent implementations

LIBRARY = {
    "gradcam": GradCAM,
    "gradcampp": GradCAMPlusPlus,
    "xgradcam": XGradCAM,
    "hirescam": HiResCAM,
    "layercam": LayerCAM,
    "ablationcam": AblationCAM,
    "scorecam_softmax": ScoreCAM,
}


@pytest.mark.parametrize("name", LIBRARY)
@pytest.mark.parametrize(("arch", "layer"), [("resnet18", "layer2"), ("squeezenet1_1", "features.7")])
def test_agreement_with_pytorch_grad_cam(name: str, arch: str, layer: str) -> None:
    """On the low-resolution map, which its own upsampling does not touch: equal up to scale, rank correlation 1."""
    torch.manual_seed(1)
    network = torchvision.models.get_model(arch, weights=None, num_classes=6).eval()
    image = noise(1, 3, 96, 96)
    engine = engine_for(network, 96, layer)
    c = int(network(image).argmax())  # a positive logit: of a negative one the library turns Ablation-CAM around
    ours = method(name).explain(engine, image, torch.tensor([c]), [0]).saliency[0]
    with LIBRARY[name](model=network, target_layers=[network.get_submodule(layer)]) as cam:
        raw: list[np.ndarray] = []
        kept = cam.get_cam_image
        cam.get_cam_image = lambda *a, **k: raw.append(kept(*a, **k)) or raw[-1]
        cam(image, [ClassifierOutputTarget(c)])
    theirs = upsample(torch.from_numpy(raw[0]).float().clamp(min=0), (96, 96))[0]
    assert float(theirs.max()) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=float(theirs.max()) * 2e-4)
    assert spearmanr(ours.flatten(), theirs.flatten()).statistic > 0.9999


@pytest.mark.parametrize(("size", "window", "stride"), [((16, 14), 6, 5), ((9, 12), 4, 4), ((8, 8), 20, 3)])
def test_occlusion_agrees_with_captum(size: tuple[int, int], window: int, stride: int) -> None:
    torch.manual_seed(1)
    network, image = SmallNet().eval(), noise(1, 3, *size)

    def p(images: Tensor) -> Tensor:
        return network(images).softmax(1)

    with torch.no_grad():
        c = int((p(image) - p(torch.zeros_like(image))).argmax())
    ours = one_map(Occlusion(window=window, stride=stride), network, image[0], c, "relu")
    side = min(window, *size)
    theirs = CaptumOcclusion(p).attribute(
        image, target=c, sliding_window_shapes=(3, side, side), strides=(3, min(stride, side), min(stride, side))
    )[0, 0]
    assert float(theirs.max()) > 0
    torch.testing.assert_close(ours, theirs.clamp(min=0), rtol=1e-4, atol=1e-7)


def test_constant_maps_cost_score_cams_variant_one_pass() -> None:
    network, image = SmallNet().eval(), noise(1, 3, 16, 16)
    with torch.no_grad():
        network.bn.bias[:3] = -100.0  # of six channels three are dead
    engine = engine_for(network, 16, "relu")
    ours = method("scorecam_softmax").explain(engine, image, torch.tensor([1]), [0]).saliency[0]
    assert engine.cost == Cost(1 + 3 + 1)
    with ScoreCAM(model=network, target_layers=[network.relu]) as cam:
        raw: list[np.ndarray] = []
        kept = cam.get_cam_image
        cam.get_cam_image = lambda *a, **k: raw.append(kept(*a, **k)) or raw[-1]
        cam(image, [ClassifierOutputTarget(1)])
    theirs = upsample(torch.from_numpy(raw[0]).float(), (16, 16))[0]
    assert float(theirs.max()) > 0
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def test_gradcam_agrees_with_captum() -> None:
    torch.manual_seed(1)
    network = torchvision.models.get_model("densenet121", weights=None, num_classes=6).eval()
    image = noise(1, 3, 96, 96)
    ours = one_map(GradientCam(), network, image[0], 2, "features.denseblock4")
    captum = LayerGradCam(network, network.features.denseblock4).attribute(image, target=2, relu_attributions=True)
    expected = upsample(captum[0].detach(), (96, 96))[0]
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=float(expected.max()) * 1e-4)


def test_centred_eigencam_is_pytorch_grad_cams_up_to_its_sign() -> None:
    torch.manual_seed(1)
    network = torchvision.models.resnet18(weights=None).eval()
    image = noise(1, 3, 96, 96)
    activation = engine_for(network, 96, "layer3").activations(image)[0]
    theirs = EigenCAM(network, []).get_cam_image(image, None, [], activation.numpy(), None, False)[0]
    ours = EigenCam(centred=True)._project(activation[0]).numpy()
    assert min(np.abs(ours - theirs).max(), np.abs(ours + theirs).max()) < 1e-3 * np.abs(theirs).max()


def test_vanilla_smoothgrad_is_the_mean_of_captums_gradients() -> None:
    network, image = SmallNet(), noise(1, 3, 16, 16)
    got = one_map(SmoothGrad(of="gradient", samples=6, noise=0.2), network, image[0], 1, "relu")
    generator, total = torch.Generator().manual_seed(0), torch.zeros(1, 3, 16, 16)
    deviation = 0.2 * float(image.max() - image.min())
    for count in (4, 2):
        noisy = image + deviation * torch.stack([torch.randn(3, 16, 16, generator=generator) for _ in range(count)])
        total += Saliency(network).attribute(noisy, target=1, abs=False).sum(0)
    torch.testing.assert_close(got, (total[0] / 6).abs().sum(0), rtol=1e-4, atol=1e-6)


# controls


def test_center_by_hand(small_engine: Engine) -> None:
    explanation = Center(sigma=0.5).explain(small_engine, noise(2, 3, 16, 16), torch.tensor([0, 0]), [0, 1])
    one = explanation.saliency[0]
    assert torch.equal(one, explanation.saliency[1])
    assert float(one[0, 0]) == pytest.approx(float(torch.exp(torch.tensor(-2 * (7.5 / 16) ** 2 / 0.5))), rel=1e-6)
    assert torch.equal(one, one.flip(0))
    assert torch.equal(one, one.t())


def test_random_is_of_the_images_seed(small_engine: Engine) -> None:
    images, c = noise(2, 3, 16, 16), torch.tensor([0, 0])
    maps = Random().explain(small_engine, images, c, [7, 8]).saliency
    assert torch.equal(maps[1], Random().explain(small_engine, images[:1], c[:1], [8]).saliency[0])
    assert not torch.equal(maps[0], maps[1])
    assert 0 <= float(maps.min()) < float(maps.max()) < 1


def test_edges_lie_where_the_brightness_changes(small_engine: Engine) -> None:
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 1.0
    one = Edges(sigma=1.0).explain(small_engine, image, torch.tensor([0]), [0]).saliency[0]
    assert one.argmax(1).unique().tolist() in ([7], [8])
    torch.testing.assert_close(one[:, 7], one[:, 8])
    assert float(one[:, 0].max()) < 1e-4


def test_random_weights_explain_a_randomised_network(small_engine: Engine) -> None:
    image, c = noise(1, 3, 16, 16), torch.tensor([1])
    got = RandomWeights(seed=3).explain(small_engine, image, c, [0]).saliency
    assert torch.equal(got, GradientCam().explain(small_engine.randomised(3), image, c, [0]).saliency)
    assert not torch.equal(got, RandomWeights(seed=4).explain(small_engine, image, c, [0]).saliency)
    before = small_engine.cost
    RandomWeights(seed=3).explain(small_engine, image, c, [0])
    assert (small_engine.cost - before).forwards == 1


# the contract, for every method that has a conf file


@pytest.mark.parametrize("name", METHODS)
def test_the_contract(name: str) -> None:
    network = SmallNet()
    engine, explainer = engine_for(network, 16, "relu"), method(name)
    images, targets = noise(3, 3, 16, 16), torch.tensor([0, 1, 2])
    before, weights = images.clone(), {k: v.clone() for k, v in network.state_dict().items()}
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.inference_mode():
        together = explainer.explain(engine, images, targets, [1, 2, 3])
    maps = together.saliency
    assert maps.shape == (3, 16, 16)
    assert maps.dtype == torch.float32
    assert bool(torch.isfinite(maps).all())
    assert float(maps.min()) >= 0
    assert not maps.requires_grad
    assert torch.equal(images, before)
    assert all(torch.equal(v, weights[k]) for k, v in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)  # the caller's random numbers are the caller's
    again = explainer.explain(engine, images, targets, [1, 2, 3]).saliency
    assert torch.equal(maps, again)
    alone = explainer.explain(engine, images[1:2], targets[1:2], [2]).saliency
    torch.testing.assert_close(alone[0], maps[1], rtol=1e-6, atol=1e-7)
    spent = engine.cost
    assert (spent.forwards == 0) == (name in BLIND)
    assert not engine.network.cut._forward_hooks


@pytest.mark.parametrize("name", sorted(set(METHODS) - CLASSLESS))
def test_a_method_answers_to_the_class(name: str, small_engine: Engine) -> None:
    image = noise(1, 3, 16, 16)
    one, other = (method(name).explain(small_engine, image, torch.tensor([c]), [0]).saliency for c in (0, 1))
    assert not torch.allclose(one, other, rtol=1e-3, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_answers_to_the_weights(name: str, small_engine: Engine) -> None:
    image, c = noise(1, 3, 16, 16), torch.tensor([1])
    engines = small_engine, small_engine.randomised(11)
    one, other = (method(name).explain(engine, image, c, [0]).saliency for engine in engines)
    # random weights, and the same architecture: the control of a randomised network is one for both
    assert torch.allclose(one, other, rtol=1e-3, atol=1e-9) == (name in BLIND | {"random_weights"})


NETWORKS = [
    pytest.param("vgg16", 64, marks=pytest.mark.slow),
    ("resnet50", 64),
    pytest.param("inception_v3", 139, marks=pytest.mark.slow),
    ("densenet121", 64),
    ("mobilenet_v3_small", 64),
    pytest.param("convnext_tiny", 64, marks=pytest.mark.slow),
    ("regnet_y_400mf", 64),
]


@pytest.mark.whole
@pytest.mark.parametrize(("arch", "side"), NETWORKS)
def test_methods_run_on_torchvisions_networks(arch: str, side: int) -> None:
    """Every implementation, on random weights; the sweeps over all channels on a small layer in the next test."""
    config = configuration(f"model={arch}" if (CONF / "model" / f"{arch}.yaml").exists() else "model=resnet50")["model"]
    node = config | {"name": arch, "arch": arch, "weights": "random", "weights_version": None, "crop": side}
    if arch not in ("vgg16", "inception_v3", "resnet50"):
        node |= {"target_layer": None}
    if arch == "inception_v3":
        node |= {"options": {}}
    classifier = make_target(node, "model", object).build()
    engine = Engine.of(classifier)
    image, target = noise(1, 3, side, side), torch.tensor([3])
    for name in sorted(set(METHODS) - {"scorecam", "scorecam_softmax", "suny_filter", "suny_n", "suny_s"}):
        explainer = method(name, **({"window": side // 4, "stride": side // 4} if name == "occlusion" else {}))
        if isinstance(explainer, SunyExplainer) and explainer.estimator == "exact" and name != "suny":
            continue  # the same code with other settings, tested on its own
        maps = explainer.explain(engine, image, target, [0]).saliency
        assert maps.shape == (1, side, side), name
        assert bool(torch.isfinite(maps).all()), name


@pytest.mark.parametrize("name", ["scorecam", "ablationcam", "cexcnn", "suny"])
def test_memory_does_not_grow_with_the_channels(name: str) -> None:
    """The largest batch that is built has as many images, or the same bytes of activations, for 64 channels and 2048."""
    sizes: dict[int, int] = {}
    for channels in (64, 2048):
        network = nn.Sequential(nn.Conv2d(3, channels, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        engine = engine_for(nn.Sequential(network, nn.Linear(channels, 2)), 16, "0.1")
        largest = 0

        def watch(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal largest
            largest = max(largest, inputs[0].nbytes)

        engine.network.head_graph.register_forward_pre_hook(watch)  # type: ignore[operator, union-attr]
        engine.network.tail_graph.register_forward_pre_hook(watch)  # type: ignore[operator, union-attr]
        method(name).explain(engine, noise(1, 3, 16, 16), torch.tensor([0]), [0])
        sizes[channels] = largest
    assert sizes[2048] <= max(sizes[64], 4 * 2**21)


@pytest.mark.parametrize("name", ["gradcam", "scorecam", "rise", "ablationcam"])
def test_nothing_is_kept_from_image_to_image(name: str, small_engine: Engine) -> None:
    explainer, image, c = method(name), noise(1, 3, 16, 16), torch.tensor([0])
    for _ in range(3):
        explainer.explain(small_engine, image, c, [0])
    tracemalloc.start()
    start = tracemalloc.get_traced_memory()[0]
    for _ in range(10):
        explainer.explain(small_engine, image, c, [0])
    grow_masks = tracemalloc.get_traced_memory()[0] - start
    tracemalloc.stop()
    assert grow_masks < 64 * 1024


def test_a_network_that_uses_batch_statistics_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Flatten(), nn.LazyLinear(2))
    network(torch.zeros(2, 3, 8, 8))
    with pytest.raises(UserError, match=r"layer 1 normalises by the statistics of its batch"):
        Engine(network.eval(), "0", (8, 8))


def test_constant_is_one_everywhere(small_engine: Engine) -> None:
    assert torch.equal(
        Constant().explain(small_engine, noise(2, 3, 4, 5), torch.tensor([0, 0]), [0, 0]).saliency, torch.ones(2, 4, 5)
    )
