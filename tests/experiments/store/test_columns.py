"""Metrics are columns of a cell: what a finished cell lacks is measured later, and nothing else is done again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from baselines.gradient_cams import GradientCam
from experiments.store.reading import read_cell
from experiments.store.records import extended, read_records
from suny.explanation import Explanation
from tests.conftest import Cli

SHAPES = ("dataset=causal_shapes", "dataset.count=5", "method=gradcam", "points=5")


class Calls:
    """Counts the images that Grad-CAM explains."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        explain = GradientCam.explain

        def counted(method: GradientCam, *arguments: Any) -> Explanation:
            self.count += 1
            return explain(method, *arguments)

        monkeypatch.setattr(GradientCam, "explain", counted)


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


def the_folder(results: Path) -> Path:
    (card,) = results.glob("causal_shapes/*/*/card.yaml")
    return card.parent


def values(folder: Path) -> list[dict[str, Any]]:
    """Records without what depends on the clock, and without what counts the passes of one run."""
    times = ("seconds", "explain_seconds", "forwards")
    return [{k: v for k, v in r.items() if k not in times} for r in read_records(folder)]


def same(one: Path, other: Path) -> None:
    """Both cells have the same numbers, bit for bit, whatever order they were measured in."""
    assert values(one) == values(other)
    a, b = (json.loads((f / "summary.json").read_text()) for f in (one, other))
    assert a["metrics"] == b["metrics"]
    assert a["hash"] == b["hash"]
    assert one.name == other.name


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a cell lies that was measured with all metrics at once."""
    return tmp_path_factory.mktemp("whole")


@pytest.fixture
def at_once(cli: Cli, whole: Path) -> Path:
    if not list(whole.glob("causal_shapes/*/*/card.yaml")):
        assert cli(*SHAPES, "metrics=[deletion,insertion,energy_proportion]", "curves=true", f"results_dir={whole}").code == 0
    return the_folder(whole)


@pytest.mark.parametrize("maps", ["true", "false"])
def test_a_metric_comes_later(cli: Cli, at_once: Path, explained: Calls, tmp_path: Path, maps: str) -> None:
    first = cli(*SHAPES, "metrics=deletion", f"maps={maps}", "curves=true", f"results_dir={tmp_path}")
    assert explained.count == 5
    before = {r["image"]: r["deletion"] for r in read_records(the_folder(tmp_path))}
    second = cli(
        *SHAPES, "metrics=[deletion,insertion,energy_proportion]", "curves=true", f"maps={maps}", f"results_dir={tmp_path}"
    )
    assert first.code == second.code == 0, second.err
    notes = [line for line in second.err.splitlines() if line.startswith("note: insertion")]
    if maps == "true":
        assert explained.count == 5
        assert notes == [
            "note: insertion, energy_proportion: measured on the stored maps of 5 images; nothing is explained again"
        ]
    else:
        assert explained.count == 10
        (note,) = notes
        assert note.startswith("note: insertion, energy_proportion: 5 images are explained again, 1 forwards and ")
        assert note.endswith(" s each, since their maps are not stored (maps=true stores them)")
    assert {r["image"]: r["deletion"] for r in read_records(the_folder(tmp_path))} == before
    same(the_folder(tmp_path), at_once)


def test_what_a_cell_has_is_shown_and_not_measured_again(cli: Cli, at_once: Path, explained: Calls, whole: Path) -> None:
    before = (at_once / "records.jsonl").read_bytes(), (at_once / "card.yaml").read_bytes()
    ended = cli(*SHAPES, "metrics=deletion", f"results_dir={whole}")
    assert explained.count == 0
    assert "| deletion" in ended.out
    assert "| insertion" not in ended.out
    assert ((at_once / "records.jsonl").read_bytes(), (at_once / "card.yaml").read_bytes()) == before


def test_curves_come_later(cli: Cli, at_once: Path, explained: Calls, tmp_path: Path) -> None:
    keys = (*SHAPES, "metrics=[deletion,insertion,energy_proportion]", "maps=true", f"results_dir={tmp_path}")
    assert cli(*keys).code == 0
    assert all("curves" not in r for r in read_records(the_folder(tmp_path)))
    assert cli(*keys, "curves=true").code == 0
    assert explained.count == 5
    same(the_folder(tmp_path), at_once)


def test_two_settings_of_a_metric_are_two_columns(cli: Cli, explained: Calls, tmp_path: Path) -> None:
    keys = (*SHAPES, "metrics=[deletion,energy_proportion]", "maps=true", f"results_dir={tmp_path}")
    assert cli(*keys).code == 0
    ended = cli(*keys, "points=9")
    assert ended.code == 0, ended.err
    assert explained.count == 5
    folder = the_folder(tmp_path)
    columns: Mapping[str, Any] = yaml.safe_load((folder / "card.yaml").read_text())["columns"]
    other = next(k for k in columns if k.startswith("deletion-"))
    assert set(columns) == {"deletion", "energy_proportion", other}
    assert other == f"deletion-{columns[other]['fingerprint'][:8]}"
    assert [columns[k]["settings"]["points"] for k in ("deletion", other)] == [5, 9]
    usual, finer = read_cell(folder)
    assert set(usual.measures) >= {"deletion", "energy_proportion"}
    assert set(finer.measures) == {"deletion"}
    for image, record in finer.records.items():
        assert record["deletion"] == usual.records[image][other]
        assert record["deletion"] != usual.records[image]["deletion"]
    shown = f"{finer.entry('deletion')['mean']:.3f}"
    assert shown in ended.out


def test_an_image_that_cannot_be_read_gets_no_value(cli: Cli, tmp_path: Path) -> None:
    photographs = tmp_path / "photographs" / "a"
    photographs.mkdir(parents=True)
    (photographs / "broken.png").write_bytes(b"no picture")
    keys = ("dataset=imagefolder", f"dataset.root={photographs.parent}", "method=center", "model=causal_cnn", "points=5")
    out = f"results_dir={tmp_path / 'results'}"
    assert cli(*keys, "metrics=deletion", out).code == 0
    assert cli(*keys, "metrics=[deletion,insertion]", out).code == 0
    (card,) = (tmp_path / "results").glob("*/*/*/card.yaml")
    (record,) = read_records(card.parent)
    assert (record["status"], record["deletion"], record["insertion"]) == ("unreadable", None, None)


def test_metrics_of_the_channels_are_measured_on_stored_values(cli: Cli, tmp_path: Path) -> None:
    keys = ("dataset=causal_shapes", "dataset.count=5", "dataset.world=colours", "model=causal_analytic", "method=ablationcam")
    rank = "metrics=[deletion,filter_agreement]"
    once, later = tmp_path / "once", tmp_path / "later"
    assert cli(*keys, rank, f"results_dir={once}", "points=5").code == 0
    assert cli(*keys, "metrics=deletion", "maps=true", f"results_dir={later}", "points=5").code == 0
    ended = cli(*keys, rank, f"results_dir={later}", "points=5")
    assert "nothing is explained again" in ended.err
    same(the_folder(later), the_folder(once))


def test_shards_add_columns(cli: Cli, at_once: Path, tmp_path: Path) -> None:
    keys = (*SHAPES, "curves=true", "maps=true", f"results_dir={tmp_path}")
    assert cli(*keys, "metrics=deletion").code == 0
    assert cli(*keys, "metrics=[deletion,insertion,energy_proportion]", "shards=2").code == 0
    same(the_folder(tmp_path), at_once)


def test_a_later_record_counts_where_it_says_more() -> None:
    first = {"image": "a", "status": "ok", "deletion": 0.1, "curves": {"deletion": {}}}
    assert extended(None, first) is first
    assert extended(first, {**first, "deletion": 0.2}) is first
    more = {**first, "insertion": 0.3, "curves": {"insertion": {}}}
    assert extended(first, more) == {**more, "curves": {"deletion": {}, "insertion": {}}}
    assert extended(first, {**first, "curves": {"deletion": {}, "insertion": {}}})["curves"] == {
        "deletion": {},
        "insertion": {},
    }
