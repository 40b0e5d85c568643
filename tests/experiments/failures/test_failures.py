"""Failure cases: classes taken together, families, part hits, and the command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

from experiments.command.program import guarded
from experiments.failures.__main__ import main
from experiments.failures.cases import MAPS, family_of_outputs
from experiments.failures.parts import part_table
from experiments.store.records import read_records
from suny.classifiers.checkpoint import Trained, write_checkpoint
from suny.classifiers.classifier import Classifier
from suny.classifiers.engine import Engine
from suny.classifiers.head import Head
from suny.classifiers.merged_classes import Together, together
from suny.images.view import View
from tests.conftest import SPECIES, Cli, Ended, SmallNet, noise, only_error, small_birds

VIEW = View(resize=40, crop=32, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


def named(*names: str) -> Classifier:
    return Classifier("test", SmallNet(len(names)).eval(), VIEW, "relu", len(names), dict(enumerate(names)), "own")


# classes taken together


def test_probabilities_of_members_add_up() -> None:
    logits = torch.tensor([[1.0, 2.0, 3.0, -1.0]])
    p = logits.softmax(1)[0]
    found = Together(nn.Identity(), {0, 2}, 4)(logits).softmax(1)[0]
    torch.testing.assert_close(found, torch.stack([p[0] + p[2], p[1] + p[3]]), rtol=1e-6, atol=1e-7)


def test_a_family_is_explained_like_a_class() -> None:
    classifier = named("a", "b", "c", "d")
    engine, family = Engine.of(classifier), Engine.of(together(classifier, {1, 3}, "family"))
    assert family.network.tail_only
    images = noise(2, 3, 32, 32)
    p = engine.probabilities(images)
    torch.testing.assert_close(family.probabilities(images)[:, 0], p[:, 1] + p[:, 3], rtol=1e-5, atol=1e-6)
    _, gradient = family.activation_gradient(images, torch.tensor([0, 0]))
    activation, carried = engine.activations(images)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = activation.clone().requires_grad_()
        logits = engine.network.tail(leaf, tuple(c.clone() for c in carried))
        torch.logsumexp(logits[:, [1, 3]], 1).sum().backward()
    torch.testing.assert_close(gradient, leaf.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("members", [set(), {0, 1}])
def test_all_or_none_are_no_family(members: set[int]) -> None:
    with pytest.raises(ValueError, match="leave no two groups"):
        Together(nn.Identity(), members, 2)


# families


@pytest.mark.parametrize(
    ("predicted", "true", "name", "members"),
    [
        (0, 1, "Albatross", {0, 1}),
        (0, 2, "Albatross or Auklet", {0, 1, 2}),
        (3, 2, "Ani or Auklet", {2, 3}),
    ],
)
def test_a_family_is_those_of_the_same_last_word(predicted: int, true: int, name: str, members: set[int]) -> None:
    classifier = named("001.Black_footed_Albatross", "003.Sooty_Albatross", "006.Least_Auklet", "004.Groove_billed_Ani")
    assert family_of_outputs(classifier, predicted, true) == (name, members)


def test_a_family_that_is_everything_is_the_prediction() -> None:
    assert family_of_outputs(named("cats", "dogs"), 1, 0) == ("dogs", {1})
    assert family_of_outputs(named("great grey owl, great gray owl, Strix nebulosa", "barn_owl", "hen"), 0, 1) == (
        "owl",
        {0, 1},
    )


# the table


def record(visible: list[str], **hits: list[str]) -> dict[str, Any]:
    return {"visible": visible, "maps": {key: {"hit": hits.get(key, [])} for key in MAPS}}


def test_part_hits_are_counted_where_the_part_is_visible() -> None:
    table = part_table(
        [
            record(["beak", "tail"], family=["beak", "tail"], true=["beak"]),
            record(["beak"], family=["beak"], predicted=["beak"]),
            record(["crown"]),
        ]
    )
    assert table.to_dict("records") == [
        {"part": "beak", "visible": 2, "family": 2, "predicted": 1, "true": 1},
        {"part": "crown", "visible": 1, "family": 0, "predicted": 0, "true": 0},
        {"part": "tail", "visible": 1, "family": 1, "predicted": 0, "true": 0},
    ]


# the command


@pytest.fixture(scope="module")
def confused(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The small birds, and a checkpoint that takes every image for the gull."""
    import torchvision

    folder = tmp_path_factory.mktemp("birds")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18(num_classes=3)
    nn.init.zeros_(network.fc.weight[:2])
    with torch.no_grad():
        network.fc.bias.copy_(torch.tensor([0.0, 1.0, 2.0]))
        network.fc.weight.mul_(0.1)
    trained = Trained(
        model="resnet18",
        options={},
        head=Head(),
        class_ids=tuple(id_ - 1 for id_, _, _ in SPECIES),
        class_names=tuple(name for _, name, _ in SPECIES),
        label_space="own",
        view=VIEW,
        target_layer="layer2",
        dataset="cub",
        metrics={},
        configuration={},
        environment={},
        digest="",
    )
    write_checkpoint(folder / "own.safetensors", network.state_dict(), trained)
    return small_birds(folder), folder / "own.safetensors"


@pytest.fixture
def command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, confused: tuple[Path, Path]
) -> Cli:
    monkeypatch.delenv("SUNY_DATA", raising=False)

    def call(*arguments: str) -> Ended:
        own = (f"out={tmp_path / 'out'}", f"caches={tmp_path / 'caches'}", "workers=0")
        data = ("dataset=cub", f"dataset.root={confused[0]}", "model=resnet18", f"model.checkpoint={confused[1]}")
        given = [*own, *data, "method=suny_filter", *arguments]
        monkeypatch.setattr(sys, "argv", ["failures", *given])
        capsys.readouterr()
        code = guarded(lambda: main(given))
        return Ended(code, *capsys.readouterr())

    return call


def test_cases_are_laid_out_and_not_done_again(command: Cli, tmp_path: Path) -> None:
    ended = command("cases=2")
    assert ended.code == 0, ended.err
    assert "8 of 12 images are misclassified" in ended.out
    (folder,) = (tmp_path / "out").glob("cub/resnet18/suny_filter-*")
    records = read_records(folder)
    assert len(records) == 2
    for r in records:
        assert (r["label"], r["predicted"]) in ((4, 99), (16, 99))
        assert r["family"] == [99]  # an auklet taken for a gull: together they are all three classes
        assert r["visible"] == ["beak"]  # the crop loses the tail
        assert set(r["maps"]) == {"family", "predicted", "true"}
        assert r["maps"]["family"]["p"] == pytest.approx(r["maps"]["predicted"]["p"], abs=1e-5)
        assert Image.open(folder / "cases" / f"{r['image']}.png").width > 1000
    table = pd.read_csv(folder / "part_hits.csv")
    assert table[["part", "visible"]].values.tolist() == [["beak", 2]]
    hits = {key: sum("beak" in r["maps"][key]["hit"] for r in records) for key in MAPS}
    assert table.iloc[0][list(MAPS)].to_dict() == hits

    before = (folder / "records.jsonl").read_bytes()
    assert command("cases=2").out == ended.out
    assert (folder / "records.jsonl").read_bytes() == before
    picture = folder / "cases" / f"{records[0]['image']}.png"
    picture.unlink()
    assert command("cases=3").code == 0
    assert picture.exists()
    assert (folder / "records.jsonl").read_bytes().startswith(before)
    assert len(read_records(folder)) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["method=gradcam"], "method=gradcam has no map for each side"),
        (["cases=0"], "cases=0: give a number from 1 up, or all"),
        (["cases=few"], "cases=few: give a number from 1 up, or all"),
        (["workers=-1"], "workers=-1: give a number from 0 up"),
        (["dataset=demo", "dataset.root=null"], "so that no image is misclassified: give model.checkpoint=FILE"),
        (["model=efficientnet_lite0", "model.checkpoint=null"], "no labels that efficientnet_lite0 knows"),
        (["methd=suny"], "unknown key methd. Did you mean 'method'?"),
    ],
)
def test_mistakes(command: Cli, arguments: list[str], said: str) -> None:
    assert said in only_error(command(*arguments))


def test_without_arguments_it_says_how(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "python -m experiments.failures dataset=cub" in capsys.readouterr().out
