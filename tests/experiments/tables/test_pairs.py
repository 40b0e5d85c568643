"""Any two cells compared: the numbers of ``suny.compare``, what differs is said, and nothing is wider than a terminal."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import suny
from experiments.command.program import guarded
from experiments.compare import main
from experiments.store.reading import read_results
from experiments.tables.__main__ import main as tables
from experiments.tables.comparisons import compare_columns
from experiments.tables.pairs import Section, compare_all, compare_two, console, markdown, tidy
from suny.errors import UserError
from tests.cells import change_record, write_cell

BASE = np.array([0.10, 0.25, 0.31, 0.42, 0.20, 0.55, 0.38, 0.61, 0.47, 0.29])
SHIFT = np.array([0.05, 0.02, -0.01, 0.04, 0.08, -0.03, 0.06, 0.07, 0.09, 0.11])
HITS = [1, 0, 1, 1, 0, 1, 1, 0, 1, 1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three methods on ten images; of SUNY eight images are done, on one of which insertion is not defined."""
    for method, change in (("gradcam", 0 * SHIFT), ("suny", SHIFT), ("center", 0.3 + 0 * SHIFT)):
        count = 8 if method == "suny" else 10
        values = (BASE + change)[:count]
        hits = HITS[:count] if method == "suny" else [1 - h for h in HITS]
        found = {"deletion": values.tolist(), "insertion": (1 - values).tolist(), "pointing_game": hits}
        labels = [0, 0, 0, 1, 1, 2, 2, 2, 3, 3][:count]
        written = write_cell(tmp_path, method, found, images=10, records={"label": labels, "predicted": [0] * count})
        if method == "suny":
            change_record(written, 2, insertion=None)
    return tmp_path


def entries(section: Section) -> dict[tuple[str, str], dict[str, object]]:
    return {(line.measure, line.difference.label): line.difference.entry for lines in section.tables.values() for line in lines}


def test_two_methods_by_hand(folder: Path) -> None:
    (section,) = compare_two(read_results(folder), "suny", "gradcam")
    found = entries(section)
    deletion, insertion = found["deletion", "suny"], found["insertion", "suny"]
    assert deletion["mean"] == pytest.approx(SHIFT[:8].mean())
    assert (deletion["n"], insertion["n"]) == (8, 7)
    defined = np.delete(SHIFT[:8], 2)
    assert insertion["mean"] == pytest.approx(-defined.mean())
    assert deletion["p"] == pytest.approx(stats.wilcoxon(SHIFT[:8].round(9)).pvalue)
    p = [found[m, "suny"]["p"] for m in ("deletion", "insertion", "pointing_game")]
    assert [found[m, "suny"]["p_holm"] for m in ("deletion", "insertion", "pointing_game")] == pytest.approx(
        stats_holm(p)  # over the metrics
    )
    assert section.title == "demo / efficientnet_lite0"
    assert section.notes == []
    (turned,) = compare_two(read_results(folder), "gradcam", "suny")
    assert entries(turned)["deletion", "gradcam"]["mean"] == pytest.approx(-SHIFT[:8].mean())


def stats_holm(p: list[object]) -> list[float]:
    """Holm's adjustment by its definition: the largest of p_(j) (m - j + 1) up to one's own place."""
    values = [float(v) for v in p]  # type: ignore[arg-type]
    ordered = sorted(values)
    m = len(values)
    return [min(1.0, max(ordered[j] * (m - j) for j in range(ordered.index(v) + 1))) for v in values]


def test_the_numbers_are_those_of_suny_compare(folder: Path) -> None:
    results = read_results(folder)
    columns = ["target", "label", "deletion", "insertion", "pointing_game"]
    frames = {r.method: pd.DataFrame(r.records.values()).set_index("image")[columns] for r in results}
    for a, b in (("suny", "gradcam"), ("center", "suny")):
        (section,) = compare_two(results, a, b)
        found, expected = entries(section), suny.compare(frames[a], frames[b])
        assert {m for m, _ in found} == set(expected.index)
        for (name, _), e in found.items():
            row = expected.loc[name]
            assert [e["mean"], *e["ci95"], e["n"], e["p"], e["effect"]] == row[
                ["difference", "low", "high", "n", "p", "effect"]
            ].tolist()  # fmt: skip


def test_a_reference_against_all_others(folder: Path) -> None:
    results = read_results(folder)
    (section,) = compare_all(results, "gradcam")
    found = entries(section)
    assert {label for _, label in found} == {"suny", "center"}
    assert found["deletion", "center"]["mean"] == pytest.approx(0.3)
    # over the two methods: center's p is the smaller one
    p = [found["deletion", label]["p"] for label in ("center", "suny")]
    assert [found["deletion", label]["p_holm"] for label in ("center", "suny")] == pytest.approx(stats_holm(p))
    # the tables say the same of the columns that they have
    for compared in compare_columns(results, "gradcam"):
        for row, entry in compared.differences.items():
            assert entry == found[compared.column.measure.name, row]


def test_cells_by_their_hashes_and_what_differs(folder: Path) -> None:
    other = write_cell(folder, "suny", {"deletion": BASE.tolist()}, changes={"seed": 3})
    change_record(other, 0, target=7)
    results = read_results(folder)
    first = next(r for r in results if r.method == "suny" and r.protocol["seed"] == 0)
    for name in (other.name, other.name[-8:], other.name[-8:-3], f"demo/efficientnet_lite0/{other.name}"):
        (section,) = compare_two(results, name, f"suny-{first.digest}")
        (entry,) = entries(section).values()
        assert entry["mean"] == pytest.approx(-SHIFT[:8].mean())
    a, b = f"suny {other.name[-8:]}", f"suny {first.digest}"
    said = f"{a} and {b} differ in seed (3, 0). Of 8 common images 1 are explained for another class."
    assert section.notes == [said]
    assert section.label == b
    # a method's name means the cells that were measured alike
    (usual,) = compare_two(results, "suny", "gradcam")
    assert usual.notes == []


def test_another_network_is_said(folder: Path) -> None:
    other = write_cell(folder, "gradcam", {"deletion": BASE.tolist()}, overrides=["model=vgg16"])
    (section,) = compare_two(read_results(folder), "suny", other.name)
    assert section.title == "demo / efficientnet_lite0 and demo / vgg16"
    (note,) = section.notes
    assert note.startswith("suny and gradcam differ in network (efficientnet_lite0, vgg16); weights (")
    (only,) = compare_two(read_results(folder), "suny", "gradcam")  # on the network that has both
    assert only.title == "demo / efficientnet_lite0"
    with pytest.raises(UserError, match="suny is no method or hash of a cell"):
        compare_two(read_results(folder), "suny", "gradcam", model="vgg16")


def test_what_was_measured_in_another_way_is_left_out(folder: Path) -> None:
    write_cell(folder, "edges", {"deletion": BASE.tolist(), "pointing_game": HITS}, overrides=["points=225"])
    (section,) = compare_two(read_results(folder), "edges", "gradcam")
    assert list(entries(section)) == [("pointing_game", "edges")]
    (note,) = section.notes
    assert note.startswith("deletion is left out for edges ")
    assert note.endswith("it was measured in another way (points=225 and points=29).")


def test_a_metric_with_two_settings_has_two_lines(folder: Path) -> None:
    for method, change in (("suny", 0.1), ("gradcam", 0.0)):
        write_cell(folder, method, {"deletion": (BASE + change).tolist()}, images=10, overrides=["points=225"])
    (section,) = compare_two(read_results(folder), "suny", "gradcam")
    titles = [d.metric for d in section.lines if d.metric.startswith("deletion")]
    assert titles == ["deletion ↓ (points=29)", "deletion ↓ (points=225)"]
    found = {d.metric: d.entry["mean"] for d in section.lines}
    assert found["deletion ↓ (points=225)"] == pytest.approx(0.1)


def test_texts(folder: Path) -> None:
    write_cell(folder, "suny", {"necessity_sufficiency": BASE.tolist()}, overrides=["method.k=4", "method.candidates=all"])
    results = read_results(folder)
    for sections in (
        compare_two(results, "suny", "gradcam"),
        compare_all(results, "gradcam"),
    ):
        text = console(sections)
        assert max(map(len, text.splitlines())) <= 80
        assert "8 of 10 images, failures: 5 wrong class." in text
        assert "10 of 10 images" in markdown(sections)
        lines = list(csv.DictReader(tidy(sections).splitlines()))
        assert len(lines) == sum(len(section.lines) for section in sections)
    (line,) = [r for r in lines if (r["measure"], r["method"]) == ("deletion", "center")]
    assert (line["reference"], line["difference"], line["n"], line["higher_is_better"]) == ("gradcam", "0.3", "10", "False")
    assert (line["images"], line["reference_images"], line["failures"]) == ("10", "10", "7 wrong class")


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: main(["suny", "gradcam", f"results_dir={folder}"])) == 0
    shown = capsys.readouterr().out
    assert "suny - gradcam" in shown
    written = folder / "comparisons"
    assert {p.name for p in written.iterdir()} == {f"suny-gradcam.{kind}" for kind in ("md", "csv", "png", "svg")}
    assert guarded(lambda: main(["reference=gradcam", f"results_dir={folder}", f"out={folder / 'elsewhere'}"])) == 0
    assert "deletion ↓: difference to gradcam" in capsys.readouterr().out
    assert (folder / "elsewhere" / "reference=gradcam.svg").is_file()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["suny"], "give two methods or hashes to compare"),
        (["suny", "gradcam", "reference=center"], "give two methods or hashes to compare"),
        (["suny", "gradcan"], "gradcan is no method or hash of a cell. Did you mean 'gradcam'? Valid: "),
        (["suny", "suny"], "are the same cell, suny "),
        (["suny", "gradcam", "dataset=cub"], "no cell has dataset=cub and model=any. There are: dataset=demo"),
        (["suny", "edges"], "there is nothing to compare: suny and edges share no metric"),
        (["reference=edges"], "there is nothing to compare: edges and another method share no metric"),
        (["suny", "gradcam", "result_dir=x"], "unknown key result_dir. Did you mean 'results_dir'?"),
        (["--reference", "suny"], "Keys have no dashes: write reference="),
    ],
)
def test_mistakes(folder: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    write_cell(folder, "edges", {"energy_proportion": BASE.tolist()})
    given = arguments if "result_dir=x" in arguments else [*arguments, f"results_dir={folder}"]
    assert guarded(lambda: main(given)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert said in error


def test_names_that_mean_several_cells(folder: Path) -> None:
    write_cell(folder, "edges", {"deletion": BASE.tolist()}, changes={"seed": 1})
    write_cell(folder, "edges", {"deletion": BASE.tolist()}, changes={"seed": 2})
    with pytest.raises(UserError, match="no two cells of suny and edges have the same data, network and protocol: give two"):
        compare_two(read_results(folder), "suny", "edges")


def test_tables_against_a_reference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert guarded(lambda: tables([f"results_dir={folder}", "reference=suny"])) == 0
    text = (folder / "tables" / "statistics.md").read_text()
    assert "### deletion ↓: difference to suny" in text
    assert "The reference is suny; columns without it are left out." in text
    lines = list(csv.DictReader((folder / "tables" / "statistics.csv").read_text().splitlines()))
    assert {r["reference"] for r in lines} == {"suny"}
    (line,) = [r for r in lines if (r["measure"], r["method"]) == ("deletion", "gradcam")]
    assert float(line["difference"]) == pytest.approx(-SHIFT[:8].mean(), rel=1e-5)
    assert guarded(lambda: tables([f"results_dir={folder}", "--check", "reference=suny"])) == 0
    assert guarded(lambda: tables([f"results_dir={folder}", "--check"])) == 1  # those are against the best baseline
    capsys.readouterr()
    assert guarded(lambda: tables([f"results_dir={folder}", "reference=suni"])) == 2
    assert "reference=suni is in no column. Did you mean 'suny'? Valid: " in capsys.readouterr().err
