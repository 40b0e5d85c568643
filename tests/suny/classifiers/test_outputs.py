"""What the outputs of a network are: the same p for explanations and metrics, whatever the network returns."""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from experiments.command import configuration as config
from experiments.command.program import composed
from metrics.base import Case
from suny import Suny
from suny.classifiers.classifier import Model, Source, finish
from suny.classifiers.engine import Engine
from suny.classifiers.merged_classes import together
from suny.classifiers.outputs import Reading
from suny.errors import UserError
from suny.images.view import View
from tests.conftest import Cli, SmallNet, noise

VIEW = View(resize=16, crop=16, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


class Then(nn.Module):
    """A network whose outputs go through a function."""

    def __init__(self, network: nn.Module, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net = network
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(self.net(x))


def beside_zero(which: int = 0) -> Callable[[Tensor], Tensor]:
    """[0, z] of an output."""
    return lambda z: torch.stack([torch.zeros_like(z[:, which]), z[:, which]], 1)


def softmaxed(z: Tensor) -> Tensor:
    return z.softmax(1)


def test_one_output_is_binary_with_values_by_hand() -> None:
    """z = bias + sum of w_f * mean(A_f): the p of each coalition is written down, and R_N is its Shapley value."""
    network, image = SmallNet(classes=1).eval(), noise(1, 3, 16, 16)
    with torch.no_grad():
        means = network.relu(network.bn(network.conv(image))).mean((2, 3))[0].double()
    parts = (means * network.fc.weight[0].double()).tolist()
    bias = float(network.fc.bias.detach())

    def p(gone: frozenset[int]) -> float:
        z = bias + sum(v for f, v in enumerate(parts) if f not in gone)
        return 1 / (1 + math.exp(-z))

    def value(f: int, p_of: Callable[[frozenset[int]], float]) -> float:
        total = 0.0
        others = [g for g in range(6) if g != f]
        for size in range(6):
            weight = math.factorial(size) * math.factorial(5 - size) / math.factorial(6)
            for members in itertools.combinations(others, size):
                gone = frozenset(members)
                total += weight * (p_of(gone) - p_of(gone | {f})) / p_of(frozenset())
        return total

    for target, of_class in ((1, p), (0, lambda gone: 1 - p(gone))):
        result = Suny(network, "relu", cause="filter", candidates="all")(image, target)
        assert result.n_values[0].tolist() == pytest.approx([value(f, of_class) for f in range(6)], abs=1e-5)
    assert Suny(network, "relu", cause="filter", candidates="all")(image).n_values[0].tolist() == pytest.approx(
        [value(f, p if p(frozenset()) > 0.5 else lambda gone: 1 - p(gone)) for f in range(6)], abs=1e-5
    )


@pytest.mark.parametrize("target", [0, 1])
def test_one_output_equals_the_network_beside_zero(target: int) -> None:
    network, images = SmallNet(classes=1), noise(2, 3, 16, 16)
    for settings in ({"prescreen": 4}, {"cause": "filter"}, {"cause": "region", "candidates": "grid", "k": 3}):
        one = Suny(network, "relu", **settings)(images, target)
        other = Suny(Then(network, beside_zero()), "net.relu", **settings)(images, target)
        torch.testing.assert_close(one.n_values, other.n_values, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.s_values, other.s_values, rtol=0, atol=1e-6)
        torch.testing.assert_close(one.saliency, other.saliency, rtol=0, atol=1e-6)


METHODS = [
    "gradcam", "smoothgrad_vanilla", "integrated_gradients", "occlusion", "rise", "scorecam", "scorecam_softmax", "ablationcam",
    "cexcnn", "groupcam", "suny", "suny_filter", "suny_region", "suny_semi",
]  # fmt: skip
# those whose maps depend on p alone, not on logits
OF_P = ["integrated_gradients", "occlusion", "rise", "scorecam", "cexcnn", "suny_filter", "suny_region"]
SMALL = {
    "rise": ["method.masks=30"], "occlusion": ["method.window=4", "method.stride=2"], "suny": ["method.k=3"],
    "groupcam": ["method.groups=3"], "suny_region": ["method.k=3", "method.orders=6"],
    "suny_semi": ["method.tiles=4", "method.block=2", "method.coalitions=20"],
    "smoothgrad_vanilla": ["method.samples=4"], "integrated_gradients": ["method.steps=5"],
}  # fmt: skip
SAME: list[tuple[Reading, nn.Module, int, nn.Module, int, list[str]]] = [
    ("binary", SmallNet(1), 1, Then(SmallNet(1), beside_zero()), 1, METHODS),
    ("sigmoid", SmallNet(3), 2, Then(SmallNet(3), beside_zero(2)), 1, METHODS),
    ("probability", Then(SmallNet(3), softmaxed), 1, SmallNet(3), 1, OF_P),
    ("probability", Then(SmallNet(1), torch.sigmoid), 1, Then(SmallNet(1), beside_zero()), 1, OF_P),
    ("logit", Then(SmallNet(3), softmaxed), 1, SmallNet(3), 1, ["rise", "suny_region"]),
]
CASES = [(*case[:-1], method) for case in SAME for method in case[-1]]


@pytest.mark.parametrize(("reading", "network", "target", "usual", "usual_target", "method"), CASES)
def test_methods_and_metrics_use_one_p(
    reading: Reading, network: nn.Module, target: int, usual: nn.Module, usual_target: int, method: str
) -> None:
    """Each network equals one with a softmax, whose numbers are known to be right, in maps and in every metric."""
    metrics = "[deletion,insertion,necessity,sufficiency,average_drop,increase_in_confidence,saliency_attack]"
    run = config.read(composed([f"method={method}", f"metrics={metrics}", "points=5", *SMALL.get(method, [])]))
    image, found = noise(1, 3, 16, 16), []
    for net, how, c in ((network, reading, target), (usual, "softmax", usual_target)):
        layer = "relu" if isinstance(net, SmallNet) else "net.relu"
        engine = Engine(net.eval(), layer, (16, 16), batch_size=4, reading=how)
        saliency = run.explainer.explain(engine, image, torch.tensor([c]), [0]).saliency[0]
        case = Case(engine, image[0], c, saliency)
        values = {name: metric.measure(case) for name, metric in run.metrics.items()}
        if reading == "logit":
            del values["saliency_attack"]  # its gradient is that of the value itself, not of log p
        found.append((saliency, values))
    (one, values), (other, expected) = found
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert values == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert 0 < values["deletion"] < 1


def test_the_gradient_of_class_0_of_a_binary_network_is_that_of_minus_z() -> None:
    network, image = SmallNet(1).eval(), noise(1, 3, 16, 16)
    engine = Engine(network, "relu", (16, 16), reading="binary")
    up, down = (engine.activation_gradient(image, torch.tensor([c]))[1] for c in (1, 0))
    torch.testing.assert_close(up, (network.fc.weight[0] / 16)[None, :, None, None].expand_as(up))
    assert torch.equal(down, -up)
    assert engine.logits(image)[0, 0] == 0


@pytest.mark.parametrize(
    ("wrap", "kind"),
    [
        (lambda z: (z, z * 2), "tuple"),
        (lambda z: [None, z], "list"),
        (lambda z: {"logits": z, "features": z * 2}, "logits"),
        (lambda z: {"aux": z * 2, "out": z}, "out"),
        (lambda z: {"anything": z}, "single"),
        (lambda z: OrderedDict(logits=z), "ordered"),
        (lambda z: z[:, :, None, None], "1 x 1"),
        (lambda z: z[:, :, None], "1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_networks_return_around_their_logits(wrap: Callable[[Tensor], Any], kind: str) -> None:
    images = noise(2, 3, 16, 16)
    plain = Suny(SmallNet(), "relu", k=3)(images, [0, 2])
    wrapped = Suny(Then(SmallNet(), wrap), "net.relu", k=3)(images, [0, 2])
    torch.testing.assert_close(wrapped.n_values, plain.n_values, rtol=0, atol=1e-6)
    torch.testing.assert_close(wrapped.saliency, plain.saliency, rtol=0, atol=1e-6)


class Answer:
    """As libraries return it: an object, no tuple."""

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


def test_an_object_with_logits_and_one_value_per_image() -> None:
    images = noise(2, 3, 16, 16)
    plain, single = Suny(SmallNet(), "relu", k=3)(images, 1), Suny(SmallNet(1), "relu", k=3)(images, 1)
    answer = Suny(Then(SmallNet(), Answer), "net.relu", k=3)(images, 1)
    torch.testing.assert_close(answer.n_values, plain.n_values, rtol=0, atol=1e-6)
    flat = Suny(Then(SmallNet(1), lambda z: z[:, 0]), "net.relu", k=3)(images, 1)
    torch.testing.assert_close(flat.n_values, single.n_values, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda z: z[:, :, None, None].expand(-1, -1, 4, 4), r"shape \(1, 3, 4, 4\): a map for every class"),
        (lambda z: {"a": z, "b": z}, "a dict with the keys a, b"),
        (lambda z: None, "returns a NoneType"),
        (lambda z: z.sum(), "returns a single number"),
        (lambda z: z.argmax(1), "returns torch.int64 values"),
        (lambda z: z * torch.nan, "NaN or infinite outputs"),
        (lambda z: z.mean(0, keepdim=True), "returns 1 rows of outputs for 2 images"),
    ],
)
def test_other_outputs_are_refused_in_one_line(wrap: Callable[[Tensor], Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Suny(Then(SmallNet(), wrap), "net.relu")(noise(1, 3, 16, 16), 0)


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (Then(SmallNet(), softmaxed), "probabilities already .*sum to 1.*output=probability, or.* output=softmax"),
        (Then(SmallNet(), torch.sigmoid), "probabilities already .*between 0 and 1.*output=probability, or.* output=softmax"),
        (Then(SmallNet(1), torch.sigmoid), "probabilities already .*between 0 and 1.*output=probability, or.* output=sigmoid"),
    ],
)
def test_probabilities_are_not_squashed_again(network: nn.Module, said: str) -> None:
    images = noise(1, 3, 16, 16)
    with pytest.raises(UserError, match=said):
        Suny(network, "net.relu")(images, 0)
    with pytest.raises(UserError, match=r"say model\.output=probability"):
        finish(Model(name="own"), Source(network, VIEW, "net.relu"))
    own = finish(Model(name="own", output="probability"), Source(network, VIEW, "net.relu"))
    with torch.no_grad():
        expected = network.eval()(images)
    p = Engine.of(own).probabilities(images)
    torch.testing.assert_close(p[:, -1:] if expected.shape[1] == 1 else p, expected, rtol=0, atol=1e-6)
    assert own.num_classes == (2 if expected.shape[1] == 1 else 3)


def test_logits_that_happen_to_look_like_probabilities_are_none() -> None:
    """Two of the outputs are a half for every small image; a larger input tells."""
    network = nn.Sequential(nn.Conv2d(3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad():
        network[0].weight.mul_(1e-4)
        network[0].weight[1] = -network[0].weight[0]
        network[0].bias.fill_(0.5)
    images = noise(1, 3, 16, 16)
    with torch.no_grad():
        rows = network(images)
    assert float(rows.min()) >= 0
    assert float(rows.sum()) == pytest.approx(1)
    with pytest.raises(UserError, match="output=softmax"):  # nothing distinguishes them: the key does
        Suny(network, "0", candidates="all")(images, 0)
    assert Suny(network, "0", candidates="all", output="softmax")(images, 0).saliency.shape == (1, 16, 16)
    with torch.no_grad():
        network[0].weight[1].zero_()
        network[0].weight[0] = 0.1
    assert Suny(network, "0", candidates="all")(images, 0).saliency.shape == (1, 16, 16)


@pytest.mark.parametrize(
    ("classes", "output", "said"),
    [
        (1, "softmax", "one output, and the softmax over one class is always 1"),
        (3, "probability", r"output=probability: the network's outputs reach from -"),
        (3, "sofmax", "output=sofmax is unknown. Did you mean 'softmax'"),
    ],
)
def test_what_outputs_cannot_be(classes: int, output: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Suny(SmallNet(classes), "relu", output=output)(noise(1, 3, 16, 16), 0)  # type: ignore[arg-type]


def test_raw_logits_are_values_as_they_are() -> None:
    """The value is linear in the filters: its Shapley values are its terms, as fractions of it."""
    network, image = SmallNet(classes=1).eval(), noise(1, 3, 16, 16)
    explain = {"output": "logit", "cause": "filter", "candidates": "all"}
    with torch.no_grad():
        network.fc.bias.fill_(10.0)
        terms = network.relu(network.bn(network.conv(image))).mean((2, 3)) * network.fc.weight
    result = Suny(network, "relu", **explain)(image, 0)
    torch.testing.assert_close(result.n_values, terms / (10 + terms.sum()), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        network.fc.bias.fill_(-10.0)
    assert Suny(network, "relu", **explain)(image, 0).flags == [["p_c(I) is negative"]]


def test_classes_are_taken_as_one_only_where_they_exclude_each_other() -> None:
    own = finish(Model(name="own", output="sigmoid"), Source(SmallNet(), VIEW, "relu"))
    with pytest.raises(UserError, match="its outputs are read as sigmoid"):
        together(own, [0, 1], "some")


def test_the_card_says_what_outputs_are_where_they_are_not_the_usual_ones(cli: Cli, tmp_path: Path) -> None:
    words = ["dataset=causal_shapes", "dataset.count=2", "dataset.size=64", "model=resnet18", "model.weights=random"]
    words += ["model.crop=64", "model.resize=64", "method=center", "metrics=deletion", "points=3", f"results_dir={tmp_path}"]

    def identity(*more: str) -> dict[str, Any]:
        before = set(tmp_path.rglob("card.yaml"))
        assert cli(*words, *more).code == 0
        (card,) = set(tmp_path.rglob("card.yaml")) - before
        return yaml.safe_load(card.read_text())["identity"]

    one, two = identity("model.num_classes=1"), identity("model.num_classes=6")
    assert one["output"] == "binary"
    assert "output" not in two
    assert not {"output", "reshape"} & (one["model"].keys() | two["model"].keys())
    assert identity("model.num_classes=6", "model.output=sigmoid")["output"] == "sigmoid"
    ended = cli(*words, "model.num_classes=1", "model.output=softmax")
    assert ended.code == 2
    assert "model.output=softmax: the network has one output" in ended.err
