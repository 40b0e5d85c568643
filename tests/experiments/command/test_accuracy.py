"""How often networks are right: ranks by hand, and the table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments import accuracy
from experiments.command.configuration import read
from experiments.command.program import composed
from suny.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of two of ImageNet's classes (0 and 2), by their WordNet ids."""
    rng = np.random.default_rng(0)
    for name, count in (("n01440764", 2), ("n01484850", 1)):
        (tmp_path / name).mkdir()
        for at in range(count):
            Image.fromarray(rng.integers(0, 256, (80, 90, 3), dtype=np.uint8)).save(tmp_path / name / f"{at}.png")
    return tmp_path


KEYS = ("model=squeezenet1_1", "model.weights=random", "model.crop=64", "model.resize=64", "dataset=imagefolder")


def test_a_rank_is_the_place_of_the_label_among_all_outputs(folder: Path) -> None:
    run = read(composed([*KEYS, f"dataset.root={folder}"]))
    classifier = run.model.build()
    by_hand = []
    for sample in run.dataset.load().samples:
        with torch.inference_mode():
            logits = classifier.network(classifier.view(Image.open(sample.path))[None])[0]
        by_hand.append(logits.argsort(descending=True, stable=True).tolist().index(sample.label))
    assert accuracy.ranks_of_labels(run, classifier) == by_hand
    assert len(by_hand) == 3


def test_the_table_counts_first_places_and_first_fives(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(accuracy, "ranks_of_labels", lambda run, classifier: [0, 4, 0, 5, 999, 0, 1, 2])
    assert accuracy.main([*KEYS, f"dataset.root={folder}"]) == 0
    cells = [c.strip() for c in capsys.readouterr().out.splitlines()[-1].strip("|").split("|")]
    assert cells[:3] == ["squeezenet1_1", "64 bilinear, 64", "8"]
    assert cells[3].startswith("0.375 [")  # 3 of 8
    assert cells[4].startswith("0.750 [")  # 6 of 8


def test_images_without_labels(tmp_path: Path) -> None:
    run = read(composed([*KEYS[:-1], "dataset=demo"]))
    assert len(accuracy.ranks_of_labels(run, run.model.build())) > 0  # the demo has labels
    (tmp_path / "own").mkdir()
    Image.new("RGB", (70, 70)).save(tmp_path / "own" / "a.png")
    other = read(composed([*KEYS, f"dataset.root={tmp_path}"]))
    with pytest.raises(UserError, match="has no labels of the classes of squeezenet1_1"):
        accuracy.ranks_of_labels(other, other.model.build())


def test_no_network_is_a_mistake() -> None:
    with pytest.raises(UserError, match=r"^model=: "):
        accuracy.main(["model="])
