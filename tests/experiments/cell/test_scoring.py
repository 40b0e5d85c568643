"""Maps scored later, and maps of other tools; the reports that follow a sweep."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from experiments import score
from experiments.command.program import guarded
from experiments.jobs.after_sweep import count_flips
from experiments.store.reading import Result
from experiments.store.records import read_records
from metrics.deletion_insertion import Deletion
from suny.explanation import Explanation, with_empty_flag
from tests.conftest import Cli, only_error

FEW = ("dataset=imagefolder", "dataset.limit=2", "points=5")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three small photographs in two class folders."""
    from skimage import data, io

    for folder, name, image in (("a", "one", data.chelsea()), ("a", "two", data.astronaut()), ("b", "one", data.coffee())):
        (tmp_path / "photos" / folder).mkdir(parents=True, exist_ok=True)
        io.imsave(tmp_path / "photos" / folder / f"{name}.png", image[::2, ::2], check_contrast=False)
    return tmp_path / "photos"


def cells(results: Path) -> list[Path]:
    return sorted(p.parent for p in results.glob("*/*/*/card.yaml"))


def test_stored_maps_are_scored_later_to_the_same_numbers(
    cli: Cli, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    sides = [f"metrics.{n}.points=9" for n in ("necessity_by_n", "necessity_by_s", "sufficiency_by_s", "sufficiency_by_n")]
    points = ("points=5", *sides)
    common = ("dataset=imagefolder", f"dataset.root={photos}", f"results_dir={results}", *points)
    first = cli("method=suny_filter", "method.k=3", *common, "metrics=[deletion,insertion,sides]", "maps=true", "curves=true")
    assert first.code == 0, first.err
    (cell,) = cells(results)
    assert sorted(p.name for p in (cell / "maps").rglob("*.npz")) == ["one.npz", "one.npz", "two.npz"]
    curve = read_records(cell)[0]["curves"]["deletion"]
    assert len(curve["value"]) == len(curve["fraction"]) == 5
    assert guarded(lambda: score.main([str(cell), "metrics=[deletion,insertion,sides,necessity]", *points])) == 0
    assert "suny_filter" in capsys.readouterr().out
    (other,) = [c for c in cells(results) if c != cell]
    before, after = (json.loads((c / "summary.json").read_text())["metrics"] for c in (cell, other))
    assert {k: after[k] for k in before} == before
    assert after["necessity"]["n"] == 3
    assert read_records(other)[0]["explain_forwards"] == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/nowhere"], "/nowhere is not the folder of a cell"),
        (["CELL"], "has no maps: compute it with maps=true"),
        (["CELL", "method=gradcam"], "has no maps"),
    ],
)
def test_mistakes_of_scoring(
    cli: Cli, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    results = tmp_path / "results"
    assert cli("method=center", "metrics=fast", *FEW, f"dataset.root={photos}", f"results_dir={results}").code == 0
    (cell,) = cells(results)
    capsys.readouterr()
    assert guarded(lambda: score.main([a.replace("CELL", str(cell)) for a in arguments])) == 2
    assert said in capsys.readouterr().err


def test_maps_of_another_tool(cli: Cli, photos: Path, tmp_path: Path) -> None:
    """One good map of a low resolution, one misshapen, one missing: failures are counted, never dropped."""
    maps, results = tmp_path / "maps", tmp_path / "results"
    (maps / "a").mkdir(parents=True)
    np.save(maps / "a" / "one.npy", np.arange(49.0).reshape(7, 7) - 10)
    np.save(maps / "a" / "two.npy", np.zeros((2, 7, 7)))
    arguments = ("method=precomputed", f"method.maps={maps}", "method.name=lime", "dataset=imagefolder")
    arguments = (*arguments, f"dataset.root={photos}", "points=5", f"results_dir={results}", "metrics=fast")
    ended = cli(*arguments)
    assert ended.code == 0, ended.err
    assert "2 no map" in ended.out
    assert "energy_proportion is skipped" in ended.err
    (cell,) = cells(results)
    assert cell.name.startswith("lime-")
    assert [r["status"] for r in read_records(cell)] == ["ok", "no_map", "no_map"]
    assert read_records(cell)[0]["diagnostics"]["shifted"]
    assert json.loads((cell / "summary.json").read_text())["metrics"]["deletion"]["n"] == 1
    # the hash covers the maps' content, not their place
    moved = maps.rename(tmp_path / "moved")
    again = [a.replace(str(maps), str(moved)) for a in arguments]
    assert cli(*again).code == 0
    assert len(cells(results)) == 1
    np.save(moved / "b.npy", np.ones((3, 3)))  # of no image
    (moved / "b").mkdir()
    np.save(moved / "b" / "one.npy", np.eye(3))
    assert cli(*again).code == 0
    assert len(cells(results)) == 2


def test_precomputed_needs_a_folder(cli: Cli, tmp_path: Path) -> None:
    assert "method.maps=None is no folder" in only_error(cli("method=precomputed", f"results_dir={tmp_path}"))


def test_a_map_that_is_not_finite_is_degenerate(cli: Cli, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "maps" / "a").mkdir(parents=True)
    np.save(tmp_path / "maps" / "a" / "one.npy", np.where(np.eye(224) > 0, np.nan, np.arange(224.0)))
    arguments = ("method=precomputed", f"method.maps={tmp_path / 'maps'}", "metrics=[deletion]", "points=3")
    ended = cli(*arguments, "dataset=imagefolder", f"dataset.root={photos}", f"results_dir={tmp_path / 'r'}")
    assert ended.code == 0, ended.err
    (cell,) = cells(tmp_path / "r")
    record = read_records(cell)[0]
    assert record["status"] == "degenerate"
    assert record["nonfinite"] == pytest.approx(1 / 224)


def test_an_empty_map_is_flagged(cli: Cli, photos: Path, tmp_path: Path) -> None:
    """A map of 0 and a constant one are degenerate both; the first is called what it is."""
    for name, value in (("empty", 0.0), ("constant", 0.5)):
        (tmp_path / name / "a").mkdir(parents=True)
        np.save(tmp_path / name / "a" / "one.npy", np.full((224, 224), value))
        arguments = ("method=precomputed", f"method.maps={tmp_path / name}", "metrics=[deletion]", "points=3")
        ended = cli(*arguments, "dataset=imagefolder", f"dataset.root={photos}", f"results_dir={tmp_path / 'r' / name}")
        assert ended.code == 0, ended.err
        (cell,) = cells(tmp_path / "r" / name)
        record = read_records(cell)[0]
        assert record["status"] == "degenerate"
        assert record["diagnostics"].get("flags", []) == ["the map is empty"] * (name == "empty")


def test_the_flag_of_an_empty_map_stands_beside_those_of_the_method() -> None:
    numbers = {"E": 0.5, "flags": ["E_N(F_N) < 0.2"]}
    found = with_empty_flag(Explanation(torch.zeros(1, 2, 2), diagnostics=[numbers]))
    assert found.diagnostics == [{"E": 0.5, "flags": ["E_N(F_N) < 0.2", "the map is empty"]}]
    assert numbers["flags"] == ["E_N(F_N) < 0.2"]
    for values in ([0.0, 1e-30], [0.0, float("nan")], [1.0, 1.0]):
        kept = Explanation(torch.tensor([[values]]), diagnostics=[numbers])
        assert with_empty_flag(kept) is kept


def test_the_metrics_are_listed(cli: Cli) -> None:
    ended = cli("--metrics")
    assert ended.code == 0
    for name in ("deletion", "necessity_by_n", "max_box_acc_v2", "saliency_attack", "sanity", "insertion_xplique"):
        assert f"| {name} " in ended.out


def test_the_sanity_experiment(cli: Cli, photos: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    ended = cli(
        "experiment=sanity",
        "method=gradcam,edges",
        "metrics.sanity.stages=2",
        *FEW,
        f"dataset.root={photos}",
        f"results_dir={results}",
    )
    assert ended.code == 0, ended.err
    assert "| gradcam  | identical" in ended.out
    assert "other seed" in ended.out
    assert (results / "sanity-imagefolder-efficientnet_lite0.png").stat().st_size > 1000
    (gradcam,) = [c for c in cells(results) if c.name.startswith("gradcam")]
    stages = json.loads((gradcam / "summary.json").read_text())["metrics"]["sanity"]["stages"]
    assert stages["identical"]["spearman"]["mean"] == pytest.approx(1)
    assert list(stages)[-1] == "_conv_stem"  # everything is random


@pytest.mark.slow
def test_the_protocols_experiment(cli: Cli, photos: Path, tmp_path: Path) -> None:
    results = tmp_path / "results"
    ended = cli("experiment=protocols", "method=gradcam,center", *FEW, f"dataset.root={photos}", f"results_dir={results}")
    assert ended.code == 0, ended.err
    assert "do the protocols agree?" in ended.out
    assert "| deletion (rise)      | deletion (groupcam)  | 0 of 1" in ended.out  # the same settings
    card = yaml.safe_load((cells(results)[0] / "card.yaml").read_text())
    assert card["columns"]["insertion_xplique"]["settings"]["points"] == 11


def test_flips_by_hand() -> None:
    metrics = {"one": Deletion(name="one", protocol="a"), "other": Deletion(name="other", protocol="b")}

    def cell(method: str, values: list[tuple[float, float | None]]) -> Result:
        records = {str(i): {"image": str(i), "one": a, "other": b} for i, (a, b) in enumerate(values)}
        return Result(Path(method), {}, records, {})

    first = cell("x", [(0.1, 0.3), (0.2, 0.2), (0.3, 0.3), (0.1, None)])
    second = cell("y", [(0.2, 0.1), (0.1, 0.1), (0.4, 0.3), (0.9, 0.9)])
    # differences -.1 .1 -.1 and .2 .1 0: one of three flips, a tie is none; means -.033 and .1
    (row,) = count_flips([first, second], metrics).splitlines()[2:]
    assert [c.strip() for c in row.split("|")[1:-1]] == ["deletion (a)", "deletion (b)", "1 of 1", "33.3 % of 3"]
