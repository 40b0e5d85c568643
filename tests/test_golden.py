"""No committed number changes: every cell in results/ says what it said when it was committed."""

from __future__ import annotations

import json

import pytest

from experiments.results import read_result

from .golden import FILE, ROOT, cell

KNOWN = json.loads(FILE.read_text())
FOLDERS = {card.parent.name.rpartition("-")[2]: card.parent for card in (ROOT / "results").rglob("card.yaml")}


def test_every_committed_cell_is_known() -> None:
    assert set(FOLDERS) == set(KNOWN)


@pytest.mark.parametrize("digest", sorted(KNOWN))
def test_a_committed_cell_says_what_it_said(digest: str) -> None:
    assert cell(read_result(FOLDERS[digest])) == KNOWN[digest]
