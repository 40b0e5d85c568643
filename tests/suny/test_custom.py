"""``model=custom``: a network by the import path of what makes it, from a folder that is not this project's."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

from suny.classifiers.checkpoint import Trained, write_checkpoint
from suny.classifiers.classifier import weights_digest
from suny.classifiers.engine import Engine
from suny.classifiers.head import Head, replace_head
from suny.custom import CustomModel
from suny.errors import UserError
from suny.images.view import View
from tests.conftest import Cli, noise, only_error

SOURCE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes=3, channels=3, width=4):
        super().__init__()
        self.conv = nn.Conv2d(channels, width, 3, stride=4, padding=1)
        self.relu = nn.ReLU()
        self.fc = nn.Linear(width, classes)

    def forward(self, x):
        return self.fc(self.relu(self.conv(x)).mean((2, 3)))


def make(**arguments):
    return Net(**arguments)


def returns_a_dict(**arguments):
    return {"network": Net(**arguments)}


def raises():
    raise ValueError("no weights\\nhere")


class Picky(Net):
    def forward(self, x):
        if x.amax() > 0:
            raise KeyError("bright")
        return super().forward(x)


class Spread(Net):
    def forward(self, x):
        return super().forward(x - x.mean(0, keepdim=True))


class Both(Net):
    def forward(self, x):
        return {"logits": super().forward(x), "loss": None}


network = Net()
number = 3
"""

_numbers = itertools.count()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Writes a module into the current folder, a new one; returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write(source: str) -> str:
        name = f"user_networks_{next(_numbers)}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    return write


@pytest.fixture
def own(module: Callable[[str], str]) -> str:
    return module(SOURCE)


def model(factory: str, **keys: Any) -> CustomModel:
    return CustomModel(**{"name": "custom", "factory": factory, "crop": 32, **keys})


@pytest.mark.parametrize("path", ["{}:make", "{}.make", "{}:Net", "{}.Net"])
def test_a_function_or_class_by_its_import_path(own: str, path: str) -> None:
    classifier = model(path.format(own), arguments={"classes": 5}, seed=3).build()
    assert (classifier.num_classes, classifier.target_layer, classifier.label_space) == (5, "relu", "own")
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = getattr(sys.modules[own], "Net")(classes=5).eval()  # noqa: B009
    assert weights_digest(classifier.network) == weights_digest(network)
    images = noise(2, 3, 32, 32)
    torch.testing.assert_close(Engine.of(classifier).logits(images), network(images), rtol=1e-5, atol=1e-6)


def test_a_library_s_function_and_a_dict_of_outputs(own: str) -> None:
    resnet = model("torchvision.models:resnet18", arguments={"weights": None, "num_classes": 7}, crop=64).build()
    assert (resnet.num_classes, resnet.target_layer) == (7, "layer4")
    assert model(f"{own}:Both").build().num_classes == 3


@pytest.mark.parametrize(
    ("path", "keys", "said"),
    [
        ("no_such_module:make", {}, r"there is no module no_such_module in .*, nor an installed one"),
        ("make", {}, "give module:name"),
        ("{}:mak", {}, r"{}\.py has no mak\. Did you mean 'make'\?"),
        ("{}:network", {}, "is a network already"),
        ("{}:number", {}, "is a int: give a function"),
        ("{}:returns_a_dict", {}, r"function returns_a_dict \(.*{}\.py\), returned a dict; it has to return the network"),
        ("{}:raises", {}, r"function raises \(.*{}\.py, line 26\): ValueError: no weights here; debug=true"),
        ("{}:Net", {"arguments": {"depth": 3}}, r"model\.arguments: got an unexpected keyword argument 'depth'; .*Net takes"),
        ("{}:Net", {"arguments": {"channels": 1}}, r"class Net \(.*{}\.py\): .* \(conv\) takes 1 channels, the images have 3"),
        ("{}:Picky", {}, r"class Picky \(.*{}\.py\): the network does not take .*KeyError"),
        ("{}:Spread", {}, r"class Spread \(.*{}\.py\): .*depend on the others of its batch"),
        ("{}:Net", {"target_layer": "rel"}, r"class Net .*target_layer=rel is no layer .* Did you mean 'relu'\?"),
        ("{}:Net", {"num_classes": 4}, r"model\.num_classes=4: the network of model\.factory=.* has 3\."),
        ("{}:Net", {"classes": ["cat", "dog"]}, r"model\.classes has 2 different names, and .* 3 classes"),
    ],
)
def test_mistakes_are_one_line(own: str, path: str, keys: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("{}", own)) as error:
        model(path.format(own), **keys).build()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def make(:\n", r"cannot be imported \(.*\.py\): SyntaxError"),
        ("raise OSError('no disk')\n", r"cannot be imported \(.*\.py\): OSError: no disk"),
        ("import not_there_at_all\n", "imports not_there_at_all, which is not installed"),
    ],
)
def test_a_module_that_can_t_be_imported(module: Callable[[str], str], source: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        model(f"{module(source)}:make").build()


# weights and identity


def test_a_checkpoint_in_a_wrapper(own: str, tmp_path: Path) -> None:
    model(f"{own}:Net").build()
    network = getattr(sys.modules[own], "Net")(classes=5)  # noqa: B009
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "own.pth")
    classifier = model(f"{own}:Net", arguments={"classes": 5}, checkpoint="own.pth").build()
    assert weights_digest(classifier.network) == weights_digest(network)
    assert "'module.' before" in classifier.notes[0]
    with pytest.raises(UserError, match=r"fc\.weight: \(5, 4\), needed \(3, 4\).* Give the model\.arguments"):
        model(f"{own}:Net", checkpoint="own.pth").build()


def test_an_own_checkpoint_says_view_head_and_arguments(own: str, tmp_path: Path) -> None:
    model(f"{own}:Net").build()
    network = getattr(sys.modules[own], "Net")(width=6)  # noqa: B009
    replace_head(network, Head(kind="mlp", hidden=8), 2)
    view = View(40, 32, "bicubic", (0.1, 0.2, 0.3), (1.0, 0.9, 0.8), "bgr")
    said: Any = {"metrics": {}, "configuration": {}, "environment": {}, "digest": "0", "dataset": "cub"}
    trained = Trained(
        model="custom", head=Head(kind="mlp", hidden=8), class_ids=(2, 5), class_names=("a", "b"), label_space="own", view=view,
        target_layer="conv", options={"width": 6}, **said,
    )  # fmt: skip
    write_checkpoint(tmp_path / "own.safetensors", network.state_dict(), trained)
    classifier = CustomModel(name="custom", factory=f"{own}:Net", checkpoint="own.safetensors").build()
    assert (classifier.view, classifier.target_layer, classifier.notes) == (view, "conv", ())
    assert [classifier.label(k) for k in range(2)] == [2, 5]
    assert weights_digest(classifier.network) == weights_digest(network)


def test_the_file_that_makes_a_network_is_part_of_what_it_is(module: Callable[[str], str]) -> None:
    first, same, other = (model(f"{module(source)}:Net").build() for source in (SOURCE, SOURCE, SOURCE.replace("ReLU", "GELU")))
    assert first.factory == same.factory != other.factory
    assert weights_digest(first.network) == weights_digest(other.network)


# the view


def test_what_of_the_view_nobody_has_said_is_said() -> None:
    factory, arguments = "torchvision.models:resnet18", {"weights": None, "num_classes": 2}
    said = CustomModel(name="custom", factory=factory, arguments=arguments).build()
    assert said.view == View(256, 224, "bilinear", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert said.notes == (
        "the preprocessing that is not given is the usual one: model.crop=224, model.interpolation=bilinear, "
        "model.mean=[0.485,0.456,0.406], model.std=[0.229,0.224,0.225]",
    )
    keys: Any = {"crop": 64, "interpolation": "bicubic", "mean": [0.1, 0.2, 0.3], "std": [1.0, 2.0, 4.0], "channels": "bgr"}
    given = CustomModel(name="custom", factory=factory, arguments=arguments, **keys).build()
    assert given.view == View(73, 64, "bicubic", (0.1, 0.2, 0.3), (1.0, 2.0, 4.0), "bgr")  # 64 * 256 / 224
    assert given.notes == ()


def test_channels_in_reverse() -> None:
    photo = Image.fromarray(np.full((8, 8, 3), (255, 51, 0), np.uint8))
    view = View(8, 8, "bilinear", (0.5, 0.0, 1.0), (0.5, 0.1, 2.0), "bgr")
    # R (1 - .5) / .5, G .2 / .1, B (0 - 1) / 2
    torch.testing.assert_close(view(photo)[:, 0, 0], torch.tensor([-0.5, 2.0, 1.0]))
    assert "channels" not in View(8, 8, "bilinear", (0.0,) * 3, (1.0,) * 3).settings()
    assert view.settings()["channels"] == "bgr"


# the command line


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One image of each of two classes."""
    for at, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        pixels = np.random.default_rng(at).integers(0, 255, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name / f"{name}.png")
    return tmp_path / "images"


def cell(cli: Cli, own: str, folder: Path, *arguments: str) -> tuple[dict[str, Any], list[dict[str, Any]], str]:
    out = folder.parent / "out"
    ended = cli(
        "model=custom", f"model.factory={own}", "model.crop=32", "method=gradcam", "metrics=[deletion]", "points=2",
        "dataset=imagefolder", f"dataset.root={folder}", f"results_dir={out}", *arguments,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    card = Path(re.search(r"results: (\S+)", ended.out)[1])  # type: ignore[index]
    lines = (card / "records.jsonl").read_text().splitlines()
    return yaml.safe_load((card / "card.yaml").read_text()), [yaml.safe_load(line) for line in lines], ended.err


def test_two_networks_never_share_a_cell(cli: Cli, module: Callable[[str], str], folder: Path) -> None:
    own = module(SOURCE)
    first, _, _ = cell(cli, f"{own}:make", folder, "model.arguments={classes:2}")
    assert first["identity"]["model"]["factory"] == f"{own}:make"
    assert first["identity"]["factory"]["sha256"]
    hashes = {first["hash"]}
    for other in ("model.arguments={classes:3}", "model.arguments={classes:2,width:5}", "model.seed=1", "model.channels=bgr"):
        keys = ("model.arguments={classes:2}", other) if "arguments" not in other else (other,)
        hashes.add(cell(cli, f"{own}:make", folder, *keys)[0]["hash"])
    again, _, _ = cell(cli, f"{own}:make", folder, "model.arguments={classes:2}")
    assert again["hash"] == first["hash"]
    assert len(hashes) == 5


def test_labels_are_found_by_the_names_of_classes(cli: Cli, own: str, folder: Path) -> None:
    """Folders number cat 0 and dog 1; the network's outputs are dog, bird, cat."""
    card, records, _ = cell(
        cli, f"{own}:Net", folder, "model.arguments={classes:3}", "model.classes=[dog,bird,cat]", "target=label"
    )
    assert {r["image"].split("/")[0]: r["target"] for r in records} == {"cat": 0, "dog": 1}
    assert card["identity"]["model"]["classes"] == ["dog", "bird", "cat"]
    network = model(f"{own}:Net", arguments={"classes": 3}).build()
    engine = Engine.of(network)
    for record in records:
        photo = Image.open(next(folder.glob(f"{record['image']}*")))
        p = engine.probabilities(network.view(photo)[None])[0]
        assert record["prob"] == pytest.approx(float(p[{0: 2, 1: 0}[record["target"]]]), abs=1e-5)
        predicted = {0: 1, 2: 0}.get(int(p.argmax()), 2 + 1)
        assert record["predicted"] == predicted
    ended = cli(
        "model=custom", f"model.factory={own}:Net", "model.crop=32", "model.arguments={classes:2}", "model.classes=[dog,bird]",
        "dataset=imagefolder", f"dataset.root={folder}", f"results_dir={folder.parent / 'none'}",
    )  # fmt: skip
    assert "is of class 'cat', which is none of model.classes=dog,bird." in only_error(ended)


def test_a_dry_run_and_one_picture(cli: Cli, own: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = ["model=custom", f"model.factory={own}:Net", "model.crop=32", "model.arguments={classes:2}"]
    ended = cli(*keys, "dataset=imagefolder", f"dataset.root={folder}", f"results_dir={folder.parent / 'dry'}", "dry_run=true")
    assert ended.code == 0, ended.err
    assert not (folder.parent / "dry").exists()
    assert "model.factory is missing: give model.factory=VALUE." in only_error(cli("model=custom"))
    from experiments.explain import main

    photo = folder / "cat" / "cat.png"
    assert main([str(photo), *keys, "method=gradcam", f"out={folder.parent / 'picture.png'}"]) == 0
    assert (folder.parent / "picture.png").is_file()
    assert isinstance(sys.modules[own].Net(), nn.Module)
