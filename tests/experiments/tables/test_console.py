"""What a terminal shows of finished cells: 80 columns, and nothing lost that is not said."""

from __future__ import annotations

from pathlib import Path

import pytest
from tqdm import tqdm

from experiments.jobs import sweep
from experiments.jobs.work import _told_apart
from experiments.store.reading import read_results
from experiments.tables.ablations import ablation_sweeps
from experiments.tables.console import WIDTH, ablation_table, sweep_table
from tests.cells import write_cell

VALUES = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
MANY = ("deletion", "insertion", "overall", "energy_proportion", "pointing_game", "necessity", "sufficiency")


def rows(root: Path, names: tuple[str, ...], methods: tuple[str, ...] = ("suny", "gradcam")) -> str:
    for method in methods:
        write_cell(root, method, dict.fromkeys(names, VALUES))
    return sweep_table([(r.row, r) for r in read_results(root)], root)


def test_few_columns_have_their_intervals(tmp_path: Path) -> None:
    text = rows(tmp_path, ("deletion",))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert "0.350 [0." in text
    assert "mean [95% bootstrap interval over images]" in text
    assert "experiments.tables" not in text


def test_many_columns_lose_their_intervals_and_say_where_they_are(tmp_path: Path) -> None:
    text = rows(tmp_path, MANY)
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert max(len(line) for table in tables for line in table.splitlines()) <= WIDTH
    assert "[0." not in text
    assert text.endswith(f"95% intervals: python -m experiments.tables results_dir={tmp_path}")
    heads = [[c.strip() for c in table.splitlines()[0].split("|")[1:-1]] for table in tables]
    assert all(head[0] == "method" for head in heads)
    columns = [c for head in heads for c in head[1:]]
    assert len(columns) == len(set(columns)) == 1 + len(MANY) + 3  # n, the means, passes, seconds, failures


def test_a_long_name_is_wrapped(tmp_path: Path) -> None:
    write_cell(tmp_path, "suny", {"deletion": VALUES})
    (result,) = read_results(tmp_path)
    name = "suny (k=2, candidates=random, prescreen=64, mask=max, combine=harmonic)"
    text = sweep_table([(name, result)])
    assert max(map(len, text.splitlines())) <= WIDTH
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    for table in tables:
        said = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
        assert " ".join(filter(None, said)) == name


def test_rows_of_one_name_are_told_apart_by_the_keys_that_differ(tmp_path: Path) -> None:
    for k in (2, 4):
        write_cell(tmp_path, "suny", {"deletion": VALUES}, overrides=[f"method.k={k}"])
    named = [("suny", r) for r in read_results(tmp_path)]
    assert sorted(_told_apart(row, r, named) for row, r in named) == ["suny (k=2)", "suny (k=4)"]
    assert _told_apart("gradcam", named[0][1], [*named, ("gradcam", named[0][1])]) == "gradcam"


def test_the_place_in_a_sweep_and_the_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(sweep.time, "monotonic", lambda: now[0])
    jobs = sweep.Sweep(expected=12, began=now[0])
    assert jobs.place() == "cell 1 of 12"
    jobs.endings += [sweep.JobEnding(()), sweep.JobEnding(())]
    now[0] += 60  # two took a minute: ten take five
    assert jobs.place() == f"cell 3 of 12, {tqdm.format_interval(300)} left" == "cell 3 of 12, 05:00 left"
    assert sweep.Sweep().place() == ""


def test_an_ablation_fits_too(tmp_path: Path) -> None:
    for k in (2, 4, 8):
        values = {name: [v + k / 100 for v in VALUES] for name in ("deletion", "insertion", "overall", "necessity")}
        write_cell(tmp_path, "suny", values, overrides=[f"method.k={k}"])
    (sweep_of_k,) = [s for s in ablation_sweeps(read_results(tmp_path)) if s.ablation.name == "k"]
    text = ablation_table(sweep_of_k, "DIR")
    tables = [part for part in text.split("\n\n") if part.startswith("|")]
    assert max(len(line) for table in tables for line in table.splitlines()) <= WIDTH
    rows = [[c.strip() for c in line.split("|")[1:4]] for line in tables[0].splitlines()[2:]]
    # .35 + k / 100; six images that all differ from k=8 have p = 2 / 64, and .0625 adjusted over two
    assert rows == [["2", "6", "0.370"], ["4", "6", "0.390"], ["8 (usual)", "6", "0.430"]]
    assert text.startswith("# Ablation: number of candidates k\n\n")
    assert text.endswith("results_dir=DIR")
