"""Shared by all tests: the real data where it is, networks solved by hand, the command line inside this process."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hypothesis import HealthCheck, settings
from PIL import Image
from torch import Tensor, nn

import suny  # noqa: F401 - before anything imports torchvision
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.images.view import View

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"

# who asks for one of these runs a whole program, or a browser
WHOLE = {"cli", "command", "processes", "browser"}
# seconds since 1970 after which no test begins any more: continuous integration has so long and no longer
END = float(os.environ.get("TESTS_END", "inf"))


# a property holds or not, however long a busy machine takes for an example
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and WHOLE & set(item.fixturenames):
            item.add_marker("whole")


def pytest_runtest_setup() -> None:
    if time.time() > END:
        pytest.skip("no time is left for it")


def real(name: str) -> Path:
    folder = SHARED / name
    if not folder.is_dir():
        pytest.skip(f"needs the real images in {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What tests derive from files is kept apart from what users did."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SUNY_CACHES", str(tmp_path_factory.mktemp("caches")))
        yield


@pytest.fixture
def ilsvrc() -> Path:
    return real("ilsvrc2012-mini")


@pytest.fixture
def cub() -> Path:
    return real("cub-mini/CUB_200_2011")


@pytest.fixture
def imagenet_sample() -> Path:
    return real("imagenet-sample")


# of the small birds below: class id, name, colour
SPECIES = (
    (5, "005.Red_Auklet", (200, 40, 40)),
    (17, "017.Green_Auklet", (40, 180, 40)),
    (100, "100.Blue_Gull", (40, 60, 210)),
)


def small_birds(root: Path, train: int = 10, test: int = 4, seed: int = 0) -> Path:
    """Three of CUB-200-2011's classes in the official layout, as noise of three colours: 80 x 60 pixels, one part (the beak)
    in the centre and one (the tail) in a corner that the crop loses."""
    folder = root / "CUB_200_2011"
    (folder / "parts").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    names = {id_: f"{id_:03d}.Some_Bird{id_}" for id_ in range(1, 201)} | {id_: name for id_, name, _ in SPECIES}
    lists: dict[str, list[str]] = {"classes": [f"{id_} {name}" for id_, name in names.items()]}
    number = 0
    for id_, name, colour in SPECIES:
        (folder / "images" / name).mkdir(parents=True)
        for at in range(train + test):
            number += 1
            pixels = rng.normal(colour, 30, (60, 80, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"bird_{at}.png")
            for file, line in {
                "images": f"{name}/bird_{at}.png",
                "image_class_labels": f"{id_}",
                "train_test_split": f"{int(at < train)}",
                "bounding_boxes": "20.0 10.0 40.0 40.0",
                "parts/part_locs": "1 40.0 30.0 1",
            }.items():
                lists.setdefault(file, []).append(f"{number} {line}")
            lists["parts/part_locs"].append(f"{number} 2 1.0 59.0 1")
    lists["parts/parts"] = ["1 beak", "2 tail"]
    for file, lines in lists.items():
        (folder / f"{file}.txt").write_text("\n".join(lines) + "\n")
    return folder


class Weighted(nn.Module):
    """p_0 = sum of w * image (all channels), exactly: logits are log p and log(1 - p)."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.register_buffer("weights", weights)

    def forward(self, x: Tensor) -> Tensor:
        p = (self.features(x) * self.weights).sum((1, 2, 3)).clamp(0, 1)
        return torch.stack([p.log(), (1 - p).log()], 1)


def engine_for(network: nn.Module, side: int, layer: str, batch_size: int = 4) -> Engine:
    view = View(resize=side, crop=side, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    with torch.inference_mode():
        outputs = network.eval()(torch.zeros(1, 3, side, side)).shape[1]
    return Engine.of(Classifier("test", network, view, layer, outputs, {}, "own"), batch_size=batch_size)


class SmallNet(nn.Module):
    """A small convolutional network with seeded random weights: 6 feature maps of 4 x 4 for a 16 x 16 image."""

    def __init__(self, classes: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 6, 3, stride=4, padding=1)
            self.bn = nn.BatchNorm2d(6)
            nn.init.uniform_(self.bn.running_mean, -0.2, 0.2)
            nn.init.uniform_(self.bn.running_var, 0.5, 1.5)
            self.relu = nn.ReLU(inplace=True)
            self.fc = nn.Linear(6, classes)
            nn.init.normal_(self.fc.weight, std=2.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.relu(self.bn(self.conv(x))).mean((2, 3)))


@pytest.fixture
def small_engine() -> Engine:
    return engine_for(SmallNet(), 16, "relu")


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Ended(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Ended]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """Runs ``python run.py ARGUMENTS`` inside this process."""
    import run
    from experiments.command.program import guarded

    monkeypatch.delenv("SUNY_DATA", raising=False)

    def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [str(ROOT / "run.py"), *arguments])
        GlobalHydra.instance().clear()
        capsys.readouterr()
        code = guarded(run.main)
        out, err = capsys.readouterr()
        return Ended(code, out, err)

    return call


def only_error(ended: Ended) -> str:
    """The one line that a mistake is told in; only notes may stand before it."""
    assert ended.code == 2, ended
    lines = [line for line in ended.err.splitlines() if line and not line.startswith("note: ") and "img" not in line]
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    return lines[0].removeprefix("error: ")
