"""Cells of the first format: what their names are now, that no number changes, and how folders are told apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments import list as listing
from experiments import migrate
from experiments.command.program import guarded
from experiments.store.reading import read_result
from tests.cells import configuration, write_cell


def first_format(cell: Path, digest: str) -> Path:
    """Turns a cell into one of the first format, as such a version left it; its folder is named by ``digest``."""
    card = yaml.safe_load((cell / "card.yaml").read_text())
    identity, columns = card["identity"], card["columns"]
    made = configuration(f"method={identity['method']['name']}", f"metrics=[{','.join(columns)}]")
    old: dict[str, Any] = {
        "hash": digest * 8,
        "configuration": made,
        "protocol": {
            **{k: identity[k] for k in ("explained_class", "target_layer", "preprocessing")},
            "metrics": {
                k: {**c["settings"], **{x: c[x] for x in ("version", "unit", "reference")}} for k, c in columns.items()
            },
            "skipped": {},
        },
        **{k: identity[k] for k in ("seed", "images", "weights", "batch_size")},
        **{k: card[k] for k in ("code", "versions", "git", "machine")},
    }
    (cell / "card.yaml").write_text(yaml.safe_dump(old))
    return cell.rename(cell.with_name(f"{identity['method']['name']}-{digest}"))


@pytest.fixture
def old_cells(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A results folder and two cells of the first format that differ in their metrics alone."""
    root = tmp_path / "results"
    one = first_format(write_cell(root, "gradcam", {"deletion": [0.1, 0.2], "overall": [0.5, 0.6]}), "11111111")
    other = first_format(write_cell(root, "gradcam", {"necessity": [0.7, 0.8], "overall": [0.5, 0.6]}), "22222222")
    return root, one, other


def test_cells_that_differ_in_their_metrics_become_one(old_cells: tuple[Path, Path, Path], tmp_path: Path) -> None:
    root, one, other = old_cells
    expected = write_cell(tmp_path / "new", "gradcam", {"deletion": [0.1, 0.2], "overall": [0.5, 0.6], "necessity": [0.7, 0.8]})
    assert guarded(lambda: migrate.main([str(root)])) == 0
    (card,) = root.rglob("card.yaml")
    assert card.parent.name == expected.name
    assert not one.exists()
    assert not other.exists()
    now, wanted = read_result(card.parent), read_result(expected)
    assert now.identity == wanted.identity
    assert now.card["migrated_from"] == ["11111111" * 8, "22222222" * 8]
    for name in ("deletion", "overall", "necessity"):
        assert [r[name] for r in now.records.values()] == [r[name] for r in wanted.records.values()]
        assert now.measures[name].protocol == wanted.measures[name].protocol
    # what measuring cost is that of both: 10 passes and 7 more, three of each 10 being the explanation's
    assert [r["forwards"] for r in now.records.values()] == [17, 17]


def test_what_is_brought_over_once_stays(old_cells: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, *_ = old_cells
    assert guarded(lambda: migrate.main([str(root)])) == 0
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    capsys.readouterr()
    assert guarded(lambda: migrate.main([str(root)])) == 0
    assert capsys.readouterr().out.startswith("0 cells")
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_different_numbers_are_never_joined(old_cells: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    root, _, other = old_cells
    text = (other / "records.jsonl").read_text()
    (other / "records.jsonl").write_text(text.replace('"overall": 0.6', '"overall": 0.9'))
    assert guarded(lambda: migrate.main([str(root)])) == 2
    assert "are the same cell, but have other numbers of image image-001: keep one" in capsys.readouterr().err
    assert (other / "records.jsonl").read_text() != text  # nothing of it was touched


def test_a_list_tells_cells_and_columns_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cell(tmp_path, "suny", {"deletion": [0.1, 0.2]})
    write_cell(tmp_path, "suny", {"deletion": [0.3, 0.4]}, overrides=["points=57"])
    write_cell(tmp_path, "suny", {"deletion": [0.1, 0.2]}, overrides=["method.k=4"], images=3)
    old = first_format(write_cell(tmp_path, "center", {"deletion": [0.1, 0.2]}), "33333333")
    assert guarded(lambda: listing.main([f"results_dir={tmp_path}"])) == 0
    out = capsys.readouterr().out
    assert "2 of 2 images, complete\n    differs in images.count=2" in out
    assert "method.k=8\n    deletion, deletion (points=57)\n" in out
    assert "2 of 3 images, unfinished\n    differs in images.count=3" in out
    assert "method.k=4\n    deletion\n" in out
    assert f"{old} was written by an earlier version of the project (format 1" in out
    assert f"python -m experiments.migrate {old}" in out
