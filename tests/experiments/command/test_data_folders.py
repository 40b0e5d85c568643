"""No command writes into a folder of data, whatever names it; what lies there stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments import explain
from experiments.command import data_folders
from experiments.command.program import guarded
from experiments.failures import __main__ as failures
from experiments.figures import __main__ as figures
from experiments.report import __main__ as report
from experiments.tables import __main__ as tables
from suny.errors import UserError
from tests.cells import write_cell
from tests.conftest import Cli, only_error

FAST = ("method=center", "points=3", "metrics=[deletion]", "dataset=imagefolder")
SAID = "lies in the folder of the data, into which nothing is written"


@pytest.fixture
def data(tmp_path: Path) -> Iterator[Path]:
    """Class folders of which one is a link to a folder elsewhere, and a link to the whole."""
    store = tmp_path / "store"
    for folder in (tmp_path / "data" / "cat", store / "dog"):
        folder.mkdir(parents=True)
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)).save(folder / "a.png")
    (tmp_path / "data" / "dog").symlink_to(store / "dog")
    (tmp_path / "link").symlink_to(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    yield tmp_path / "data"
    kept = [p for p in sorted(tmp_path.rglob("*")) if not p.is_relative_to(tmp_path / "r")]
    assert kept == before


PLACES = ["data", "data/r", "data/cat", "data/cat/../new/r", "link", "link/r", "store/dog", "store/dog/r/s"]


@pytest.mark.parametrize("root", ["data", "link"])
@pytest.mark.parametrize("place", PLACES)
def test_results_of_a_cell(cli: Cli, tmp_path: Path, data: Path, root: str, place: str) -> None:
    given = (*FAST, f"dataset.root={tmp_path / root}")
    said = only_error(cli(*given, f"results_dir={tmp_path / place}"))
    assert said.startswith(f"results_dir={tmp_path / place} {SAID} (")
    assert said.endswith("give another results_dir.")


@pytest.mark.parametrize(
    "words",
    [
        ("-m", "results_dir=data/r", "seed=0,1"),
        ("-m", "results_dir=data/r,data", "dataset.root=data"),
        ("-m", "results_dir=data/r", "dataset.root=data,link"),
        ("-m", "results_dir=data/r", "hydra/launcher=joblib", "seed=0,1"),
        ("results_dir=data/r", "shards=2"),
        ("results_dir=data/r", "dry_run=true"),
        ("results_dir=r", "caches=data/caches"),
    ],
)
def test_sweeps_launchers_and_caches(
    cli: Cli, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    given = words if any(w.startswith("dataset.root=") for w in words) else (*words, "dataset.root=data")
    ended = cli(*FAST, *given)
    assert ended.code == 2, ended
    errors = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert errors
    assert all(SAID in line for line in errors)


def test_a_folder_beside_the_data_is_as_good_as_any(cli: Cli, tmp_path: Path, data: Path) -> None:
    ended = cli(*FAST, f"dataset.root={data}", "dataset.limit=1", f"results_dir={tmp_path / 'r'}")
    assert ended.code == 0, ended.err


@pytest.mark.parametrize("name", ["out", "arrays"])
def test_one_picture(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    image, place = str(data / "cat" / "a.png"), data / "new" / "x.png"
    arguments = [image, "method=center", "dataset=imagefolder", f"dataset.root={data}", f"{name}={place}"]
    assert guarded(lambda: explain.main(arguments)) == 2
    assert f"error: {name}={place} {SAID}" in capsys.readouterr().err


def test_failures(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["dataset=imagefolder", f"dataset.root={data}", f"caches={tmp_path / 'r'}", f"out={data / 'new'}"]
    assert guarded(lambda: failures.main(arguments)) == 2
    assert f"error: out={data / 'new'} {SAID}" in capsys.readouterr().err


@pytest.mark.parametrize("named", ["by a card", "by a key"])
@pytest.mark.parametrize("command", [tables.main, figures.main, report.main])
def test_what_is_rebuilt_from_cells(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str], command: Callable[[list[str]], int], named: str
) -> None:
    if named == "by a key" and command is tables.main:
        pytest.skip("it has no such key")
    keys = ["dataset=imagefolder", f"dataset.root={data}"] if named == "by a card" else []
    write_cell(tmp_path / "r", "center", {"deletion": [0.2, 0.4]}, keys)
    arguments = [f"results_dir={tmp_path / 'r'}", f"out={tmp_path / 'link' / 'new' / 'x'}"]
    arguments += [f"dataset.root={data}"] if named == "by a key" else []
    assert guarded(lambda: command(arguments)) == 2
    err = capsys.readouterr().err
    assert f"error: out={tmp_path}/link/new/x {SAID}" in err
    assert err.count("error: ") == 1


def test_another_command_knows_nothing_of_the_last_ones_folders(tmp_path: Path) -> None:
    data_folders.declare(tmp_path, "a test")
    with pytest.raises(UserError, match=rf"^{tmp_path}/x {SAID} \(a test\): give another results_dir=DIR or out=FILE\.$"):
        data_folders.refuse(tmp_path / "x")
    data_folders.begin()
    data_folders.refuse(tmp_path / "x")
