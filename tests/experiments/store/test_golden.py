"""No committed number changes: every cell in results/reference says what it said when it was committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from experiments.command.configuration import make_target
from experiments.store.card import column_of, digest_of_identity, metric_of, settings_of
from experiments.store.reading import read_result
from suny.classifiers.classifier import Model
from suny.explanation import Explainer
from suny.images.dataset import Dataset
from suny.method.field import FieldExplainer
from tests.experiments.store.golden import FILE, REFERENCE, cell

KNOWN = json.loads(FILE.read_text())
CARDS = {card.parent: yaml.safe_load(card.read_text()) for card in REFERENCE.rglob("card.yaml")}
# The cells by the hashes that they were first committed with: metrics of one cell were committed as several cells once.
FOLDERS = {digest[:8]: folder for folder, card in CARDS.items() for digest in card.get("migrated_from", [card["hash"]])}


def test_every_committed_cell_is_known() -> None:
    assert set(FOLDERS) == set(KNOWN)


@pytest.mark.parametrize("digest", sorted(KNOWN))
def test_a_committed_cell_says_what_it_said(digest: str) -> None:
    said, known = cell(read_result(FOLDERS[digest])), KNOWN[digest]
    joined = len(CARDS[FOLDERS[digest]].get("migrated_from", [])) > 1
    said["columns"] = {name: column for name, column in said["columns"].items() if name in known["columns"]}
    if joined and known["curves"] is None:
        said["curves"] = None
    assert said == known


@pytest.mark.parametrize("folder", sorted(CARDS), ids=lambda folder: folder.name)
def test_a_committed_card_hashes_and_composes(folder: Path) -> None:
    card = CARDS[folder]
    assert card["hash"] == digest_of_identity(card["identity"])
    assert folder.name == f"{card['identity']['method']['name']}-{card['hash'][:8]}"
    for key, column in card["columns"].items():
        metric = metric_of(column, key)
        assert {k: v for k, v in column_of(metric).items() if k != "class"} == {k: v for k, v in column.items() if k != "class"}
    for group, kind in (("dataset", Dataset), ("model", Model), ("method", Explainer)):
        assert settings_of(group, make_target(card["configuration"][group], group, kind)) == card["identity"][group]


def test_settings_that_came_later_leave_a_cell_what_it_is() -> None:
    """They are named where one of them is not at its default, and then all are."""
    usual, other = (settings_of("method", FieldExplainer(**keys)) for keys in ({}, {"fill": ["zero", "blur"], "rho": 0.5}))
    assert set(other) - set(usual) == set(FieldExplainer.added)
    assert other["rho"] == 0.5
    assert other["shares"] is None
