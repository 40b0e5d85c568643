"""Baselines and controls: a case by hand, independent implementations, and that they answer to what they should."""

from __future__ import annotations

import pytest
import torch
import torchvision
from captum.attr import LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from scipy.stats import spearmanr
from torch import Tensor, nn

from baselines.controls import Center, Random
from baselines.gradcam import GradCam
from suny.classifiers.engine import Engine
from suny.explanation import Explainer, upsample

from .conftest import SmallNet, engine_for, noise


class TwoByTwo(nn.Module):
    """Feature maps A_1 = red, A_2 = green of a 2 x 2 image; logits: mean of 3 A_1 - A_2, mean of A_2."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Conv2d(3, 2, 1, bias=False)
        with torch.no_grad():
            self.features.weight.copy_(torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])[..., None, None])

    def forward(self, x: Tensor) -> Tensor:
        a = self.features(x).mean((2, 3))
        return torch.stack([3 * a[:, 0] - a[:, 1], a[:, 1]], 1)


def test_gradcam_by_hand() -> None:
    image = torch.tensor([[[1.0, 0.0], [2.0, 1.0]], [[1.0, 4.0], [0.0, 4.0]], [[9.0, 9.0], [9.0, 9.0]]])
    engine = engine_for(TwoByTwo(), 2, "features")
    maps = GradCam().explain(engine, torch.stack([image, image]), torch.tensor([0, 1]), [0, 0]).saliency
    # pooled gradients: class 0: 3/4, -1/4; class 1: 0, 1/4
    expected = torch.tensor([[[0.5, 0.0], [1.5, 0.0]], [[0.25, 1.0], [0.0, 1.0]]])
    torch.testing.assert_close(maps, expected)


@pytest.mark.parametrize(
    ("arch", "layer"), [("resnet18", "layer4"), ("vgg11", "features.19"), ("densenet121", "features.denseblock4")]
)
def test_gradcam_agrees_with_pytorch_grad_cam_and_captum(arch: str, layer: str) -> None:
    torch.manual_seed(1)
    network = torchvision.models.get_model(arch, weights=None, num_classes=6).eval()
    image = noise(1, 3, 96, 96)
    ours = GradCam().explain(engine_for(network, 96, layer), image, torch.tensor([2]), [0]).saliency[0]
    with GradCAM(model=network, target_layers=[network.get_submodule(layer)]) as cam:
        theirs = torch.from_numpy(cam(image, [ClassifierOutputTarget(2)])[0])
    low, high = ours.min(), ours.max()
    torch.testing.assert_close((ours - low) / (high - low), theirs, rtol=0, atol=2e-3)
    assert spearmanr(ours.flatten(), theirs.flatten()).statistic > 0.9999
    captum = LayerGradCam(network, network.get_submodule(layer)).attribute(image, target=2, relu_attributions=True)
    torch.testing.assert_close(ours, upsample(captum[0].detach(), (96, 96))[0], rtol=1e-3, atol=float(high) * 1e-4)


def test_gradcam_answers_to_class_and_weights() -> None:
    image = noise(1, 3, 16, 16)
    maps = [
        GradCam().explain(engine_for(SmallNet(seed=seed), 16, "relu"), image, torch.tensor([c]), [0]).saliency
        for seed, c in ((0, 0), (0, 1), (3, 0))
    ]
    assert not torch.allclose(maps[0], maps[1])
    assert not torch.allclose(maps[0], maps[2])


def test_gradcam_counts_and_leaves_no_hook(small_engine: Engine) -> None:
    before = small_engine.cost
    GradCam().explain(small_engine, noise(2, 3, 16, 16), torch.tensor([0, 1]), [0, 0])
    spent = small_engine.cost - before
    assert (spent.forwards, spent.backwards) == (2, 2)
    assert len(small_engine.cut._forward_hooks) == 0


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


@pytest.mark.parametrize("explainer", [GradCam(), Center(), Random()])
def test_the_contract(explainer: Explainer, small_engine: Engine) -> None:
    images, targets = noise(3, 3, 16, 16), torch.tensor([0, 1, 2])
    before = images.clone()
    together = explainer.explain(small_engine, images, targets, [1, 2, 3]).saliency
    assert together.shape == (3, 16, 16)
    assert together.dtype == torch.float32
    assert float(together.min()) >= 0
    assert not together.requires_grad
    assert torch.equal(images, before)
    alone = explainer.explain(small_engine, images[1:2], targets[1:2], [2]).saliency
    torch.testing.assert_close(alone[0], together[1], rtol=1e-6, atol=1e-7)
