"""Tables as a pure function of cards and records: columns, marks, holes, statistics, the check of what was committed."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from experiments.command.program import guarded
from experiments.store.reading import entry_of, failures_of, read_result, read_results
from experiments.tables.__main__ import main
from experiments.tables.ablations import ablation_sweeps
from experiments.tables.build import build
from experiments.tables.columns import blocks
from experiments.tables.comparisons import compare_columns
from experiments.tables.specs import SPECS
from experiments.tables.text import bounds, interval, limits, p_value
from tests.cells import change_record, write_cell
from tests.conftest import ROOT, Cli

BASE = np.array([0.10, 0.25, 0.31, 0.42, 0.20, 0.55, 0.38, 0.61, 0.47, 0.29])  # of ten images
NOISE = np.array([1, -1, 2, -2, 3, -3, 4, -4, 5, -5]) / 1000


def rows(text: str) -> list[list[str]]:
    """The lines of all Markdown tables, as cells."""
    return [[c.strip() for c in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| ")]


def line(text: str, method: str) -> list[str]:
    (found,) = [r for r in rows(text) if r[0] == method]
    return found


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Deletion of four methods: Grad-CAM and SUNY differ by noise, Grad-CAM++ is worse by .1 everywhere, random by .3."""
    for method, values in {
        "random": BASE + 0.3,
        "suny": BASE + NOISE,
        "gradcampp": BASE + 0.1 - NOISE,
        "gradcam": BASE,
    }.items():
        write_cell(tmp_path / "runs", method, {"deletion": values.tolist(), "insertion": (1 - values).tolist()})
    return tmp_path / "runs"


def test_the_table_by_hand(results: Path) -> None:
    text = build(read_results(results), results / "tables")["table1.md"]
    assert rows(text)[0] == ["method", "n", "deletion ↓", "insertion ↑", "failures"]
    assert [r[0] for r in rows(text)[1:]] == [
        "gradcam", "gradcampp", "smoothgrad", "rise", "scorecam", "cexcnn", "groupcam", "suny", "suny_n", "suny_s", "random",
    ]  # fmt: skip
    # the mean of BASE is .358; the interval is that of the cell's own summary
    entry = entry_of(None, "deletion", read_records_of(results, "gradcam"))
    low, high = entry["ci95"]
    assert line(text, "gradcam") == [
        "gradcam", "10", f"**0.358** [{low:.3f}, {high:.3f}] ★", f"**0.642** [{1 - high:.3f}, {1 - low:.3f}] ★", "none",
    ]  # fmt: skip
    assert line(text, "suny")[2].startswith("**0.358** [")  # not the best mean by .0000, not told apart
    assert "★" not in line(text, "suny")[2]
    assert line(text, "gradcampp")[2].startswith("*0.458* [")  # second: told apart from the first two
    assert line(text, "random")[2].startswith("0.658 [")
    assert line(text, "rise") == ["rise", "-", "-", "-", "-"]
    assert "No results yet for ilsvrc2012 / vgg16, ilsvrc2012 / inception_v3" in text
    assert "(../demo/efficientnet_lite0/gradcam-" in text


def read_records_of(results: Path, method: str) -> list[dict[str, object]]:
    (folder,) = results.glob(f"*/*/{method}-????????")
    return list(read_result(folder).records.values())


def test_marks_are_those_of_scipy(results: Path) -> None:
    (block,) = blocks(read_results(results), ["deletion"])
    (column,) = block.columns
    values = {row: [r["deletion"] for r in cell.records.values()] for row, cell in column.cells.items()}
    p = [stats.wilcoxon(values["gradcam"], values[m]).pvalue for m in ("suny", "gradcampp", "random")]
    assert p[0] > 0.05
    assert max(p[1:]) * 3 < 0.05  # also after Holm
    assert column.marks == {"gradcam": "best", "suny": "best", "gradcampp": "second"}


def test_few_images_have_no_marks(tmp_path: Path) -> None:
    """The smallest p of n differences is 2 / 2^n: .0625 of five, .031 of six; after Holm over two methods .0625 again."""
    for count, methods, marked in ((5, 2, False), (6, 2, True), (6, 3, False), (7, 3, True)):
        root = tmp_path / f"{count}-{methods}"
        for method, shift in (("gradcam", 0.0), ("random", 0.3), ("center", 0.4))[:methods]:
            write_cell(root, method, {"deletion": (BASE[:count] + shift).tolist()})
        (block,) = blocks(read_results(root), ["deletion"])
        assert bool(block.columns[0].marks) == marked


def test_other_points_are_another_column(results: Path) -> None:
    write_cell(results, "layercam", {"deletion": BASE.tolist()}, overrides=["points=225"])
    (block,) = blocks(read_results(results), ["deletion"])
    assert [c.title for c in block.columns] == ["deletion ↓ (points=29)", "deletion ↓ (points=225)"]
    assert list(block.columns[1].cells) == ["layercam"]
    (note,) = block.notes
    assert note.startswith("Not one column of deletion: points=29 in gradcam ")
    assert "points=225 in layercam " in note


@pytest.mark.parametrize(
    ("changes", "images", "said"),
    [
        ({"explained_class": "label"}, None, "explained_class is label, not predicted"),
        ({"target_layer": "conv1"}, None, "target_layer is conv1, not last"),
        ({"seed": 3}, None, "seed is 3, not 0"),
        ({}, 11, "images is 11 ("),
    ],
)
def test_other_protocols_are_kept_apart(results: Path, changes: dict[str, object], images: int | None, said: str) -> None:
    write_cell(results, "layercam", {"deletion": BASE.tolist()}, changes=changes, images=images)
    (block,) = blocks(read_results(results), ["deletion"])
    assert "layercam" not in block.rows
    assert said in block.notes[0]
    assert "(left out)" in block.notes[0]
    write_cell(results, "edges", {"deletion": BASE.tolist()}, changes=changes, images=images)
    first, second = blocks(read_results(results), ["deletion"])
    assert second.rows == ["layercam", "edges"]
    assert "a table of their own" in first.notes[0]
    key = said.split(" ")[0]
    assert f"{key}=" in first.title
    assert first.title != second.title


def test_partial_results_give_a_partial_table(results: Path) -> None:
    write_cell(results, "rise", {"deletion": BASE[:4].tolist()}, images=10)
    text = build(read_results(results), results)["table1.md"]
    rise = line(text, "rise")
    assert rise[1] == "4 of 10"
    assert rise[3] == "-"
    # pairs are those of the images that both have
    (block,) = blocks(read_results(results), ["deletion"])
    found = block.columns[0].against("gradcam", ["rise"])["rise"]
    assert (found["n"], found["mean"]) == (4, 0.0)


def test_a_torn_or_undefined_value_is_missing_from_n(results: Path) -> None:
    (gradcam,) = results.glob("*/*/gradcam-????????")
    change_record(gradcam, 0, deletion=None)
    with (gradcam / "records.jsonl").open("a") as file:
        file.write('{"image": "torn"')
    text = build(read_results(results), results)["table1.md"]
    mean = BASE[1:].mean()
    assert line(text, "gradcam")[1] == "10"
    assert line(text, "gradcam")[2].startswith(f"**{mean:.3f}** [")
    assert "(n=9)" in line(text, "gradcam")[2]


def test_of_copies_of_a_cell_the_fullest_counts(results: Path) -> None:
    (gradcam,) = results.glob("*/*/gradcam-????????")
    copy = Path(shutil.copytree(gradcam, results / "a" / "b" / "c" / gradcam.name))
    (copy / "records.jsonl").write_text("".join((gradcam / "records.jsonl").read_text().splitlines(keepends=True)[:3]))
    cells = [r for r in read_results(results) if r.method == "gradcam"]
    assert [len(c.records) for c in cells] == [10]


def test_one_line_a_number(results: Path) -> None:
    folder = results / "tables"
    with_header = csv.DictReader(build(read_results(results), folder)["table1.csv"].splitlines())
    found = {(r["method"], r["measure"]): r for r in with_header}
    assert len(found) == 8
    one = found["gradcampp", "deletion"]
    assert float(one["mean"]) == pytest.approx((BASE + 0.1 - NOISE).mean(), rel=1e-5)
    assert (one["n"], one["images"], one["mark"], one["higher_is_better"]) == ("10", "10", "second", "False")
    assert (folder / one["card"]).resolve().is_file()


def test_latex(results: Path) -> None:
    write_cell(results, "suny_filter", {"deletion": BASE.tolist()})
    write_cell(results, "gradcam", {"deletion": BASE.tolist()}, overrides=["model=vgg16"])
    text = build(read_results(results), results)["table1.tex"]
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    assert r"\multicolumn{2}{c}{efficientnet\_lite0}" in text
    assert r"\multicolumn{1}{c}{VGG16}" in text
    assert r"\cmidrule(lr){2-2} \cmidrule(lr){3-4}" in text  # the published network first
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0].strip().splitlines()
    assert all(r.count(" & ") == 3 and r.endswith(r" \\") for r in body)
    assert r"Grad-CAM & 0.358 & \textbf{0.358} & \textbf{0.642} \\" in body
    assert r"Grad-CAM++ & -- & \underline{0.458} & \underline{0.542} \\" in body
    assert any(r.startswith(r"suny\_filter & ") for r in body)
    assert r"deletion $\downarrow$ & insertion $\uparrow$" in text


def test_costs(results: Path) -> None:
    (suny,) = results.glob("*/*/suny-????????")
    change_record(suny, 0, explain_forwards=13)
    text = build(read_results(results), results)["cost.md"]
    assert rows(text)[0][2:] == ["forwards/image ↓", "passes of the tail/image ↓", "backwards/image ↓", "s/image ↓", "failures"]
    assert line(text, "suny")[2].startswith("4 [")
    assert line(text, "gradcam")[2:6] == ["3 [3, 3]", "0 [0, 0]", "1 [1, 1]", "0.500 [0.500, 0.500]"]
    assert "**" not in text.split("##")[1]


def test_statistics_are_against_the_best_baseline(results: Path) -> None:
    write_cell(results, "center", {"deletion": (BASE - 0.05).tolist()})  # better than all: yet a control
    deletion, insertion = compare_columns(read_results(results))
    assert deletion.reference == "gradcam"
    assert list(deletion.differences) == ["center", "suny", "gradcampp", "random"]
    worse = deletion.differences["random"]
    assert worse["mean"] == pytest.approx(0.3)
    assert worse["effect"] == 1.0
    assert worse["p"] == pytest.approx(2 / 2**10)
    # four tests; those of center, gradcampp and random share the smallest p
    assert worse["p_holm"] == pytest.approx(4 * 2 / 2**10)
    assert dict(zip(deletion.ranked, deletion.ranks["ranks"], strict=True)) == {  # type: ignore[index]
        "center": 1.0, "gradcam": 2.5, "suny": 2.5, "gradcampp": 4.0, "random": 5.0,
    }  # fmt: skip
    assert insertion.column.title == "insertion ↑"
    text = build(read_results(results), results)["statistics.md"]
    assert "deletion ↓: difference to gradcam" in text
    assert line(text.split("### insertion")[0], "random")[1] == "+0.300"


def test_metrics_over_the_whole_data_set_are_compared_too(tmp_path: Path) -> None:
    labels = [0, 0, 0, 0, 0, 0, 1, 2]
    for method, hits in {"gradcam": [1] * 8, "edges": [0] * 6 + [1] * 2, "random": [0] * 8}.items():
        write_cell(tmp_path, method, {"pointing_game": hits}, records={"label": labels, "predicted": labels})
    (found,) = compare_columns(read_results(tmp_path))
    assert found.reference == "gradcam"
    # mean over classes: edges misses one class of three
    assert found.differences["edges"]["mean"] == pytest.approx(-1 / 3)
    assert found.differences["random"]["mean"] == pytest.approx(-1)


def test_ablations(results: Path) -> None:
    for k, shift in ((2, 0.2), (16, 0.0), (4, -0.001)):
        write_cell(results, "suny", {"deletion": (BASE + NOISE + shift).tolist()}, overrides=[f"method.k={k}"])
    found = build(read_results(results), results)
    table = rows(found["ablation_k.md"])
    assert table[0] == ["number of candidates k", "n", "deletion ↓"]
    assert [r[0] for r in table[1:]] == ["2", "4", "8 (usual)", "16"]
    assert table[1][2].endswith("] †")
    assert table[2][2].endswith("] †")  # small, but on every image
    assert table[4][2].endswith("]")
    lines = {r["value"]: r for r in csv.DictReader(found["ablation_k.csv"].splitlines())}
    assert float(lines["2"]["difference"]) == pytest.approx(0.2)
    assert float(lines["2"]["effect"]) == 1
    assert lines["8"]["usual"] == "True"
    # the tables show the usual setting only, and say so
    assert [r[0] for r in rows(found["table1.md"])].count("suny") == 1
    assert "Other settings, shown in the tables of ablations: suny (k=16), suny (k=2), suny (k=4)." in found["table1.md"]


def test_ablations_of_the_budget_of_points_and_of_the_layer(tmp_path: Path) -> None:
    write_cell(tmp_path, "suny", {"deletion": BASE.tolist()})
    for orders in (2, 32):
        write_cell(
            tmp_path, "suny", {"deletion": BASE.tolist()}, overrides=["method.estimator=sampled", f"method.orders={orders}"]
        )
    write_cell(tmp_path, "suny", {"deletion": BASE.tolist(), "energy_proportion": BASE.tolist()}, overrides=["points=11"])
    write_cell(tmp_path, "suny", {"deletion": BASE.tolist()}, changes={"target_layer": "blocks.10"})
    write_cell(tmp_path, "suny", {"deletion": BASE.tolist()}, changes={"target_layer": "blocks.9"})
    found = {s.ablation.name: s for s in ablation_sweeps(read_results(tmp_path))}
    assert set(found) == {"budget", "points", "layer"}
    assert found["budget"].labels == ["2", "32", "exact"]
    assert found["budget"].usual == "exact"
    assert found["points"].labels == ["11", "29"]
    assert found["layer"].labels == ["blocks.9", "blocks.10", "last"]
    assert set(found["points"].curves) == {"deletion"}


def test_a_setting_without_the_usual_one_is_a_row_of_its_own(tmp_path: Path) -> None:
    write_cell(tmp_path, "suny", {"deletion": BASE.tolist()}, overrides=["method.k=4"])
    assert "| suny (k=4)" in build(read_results(tmp_path), tmp_path)["table1.md"]


def check(results: Path, *more: str) -> int:
    return guarded(lambda: main([f"results_dir={results}", "--check", *more]))


def test_the_check(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(results) == 1  # nothing written yet
    assert "table1.md: is not there" in capsys.readouterr().err
    assert guarded(lambda: main([f"results_dir={results}"])) == 0
    assert check(results) == 0
    table = results / "tables" / "table1.md"
    good = table.read_text()
    table.write_text(good.replace("0.358", "0.359", 1))
    capsys.readouterr()
    assert check(results) == 1
    (said,) = capsys.readouterr().err.splitlines()[-1:]
    assert "table1.md, line 11: is '| gradcam" in said
    assert "0.359" in said
    assert table.read_text() != good  # a check writes nothing
    table.write_text(good)
    (results / "tables" / "causal.md").write_text("numbers of nobody\n")
    assert check(results) == 1
    assert "causal.md: no records give it" in capsys.readouterr().err
    assert guarded(lambda: main([f"results_dir={results}"])) == 0
    assert not (results / "tables" / "causal.md").exists()
    assert check(results) == 0
    (gradcam,) = results.glob("*/*/gradcam-????????")
    change_record(gradcam, 3, deletion=0.9)
    assert check(results) == 1


def test_tables_know_nothing_but_cards_and_records(results: Path, tmp_path: Path) -> None:
    first = build(read_results(results), results / "tables")
    for folder in results.glob("*/*/*"):
        (folder / "summary.json").write_text("nonsense")
        lines = (folder / "records.jsonl").read_text().splitlines(keepends=True)
        (folder / "records.jsonl").write_text("".join(reversed(lines)))  # as a run that was stopped and continued
    moved = results.rename(tmp_path / "elsewhere")
    assert build(read_results(moved), moved / "tables") == first


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["results_dir=/nowhere"], "results_dir=/nowhere is no folder"),
        (["resultsdir=x"], "unknown key resultsdir. Did you mean 'results_dir'?"),
        (["results_dir=EMPTY"], "has no cell with a record"),
        (["results_dir=DAMAGED"], "card.yaml is damaged: move the folder"),
    ],
)
def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "damaged" / "cell").mkdir(parents=True)
    (tmp_path / "damaged" / "cell" / "card.yaml").write_text("hash: 1\n")
    given = [a.replace("EMPTY", str(tmp_path / "empty")).replace("DAMAGED", str(tmp_path / "damaged")) for a in arguments]
    assert guarded(lambda: main(given)) == 2
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("error: ")
    assert said in error


def test_a_real_cell_has_the_numbers_of_its_summary(cli: Cli, tmp_path: Path) -> None:
    metrics = "metrics=[fast,pointing_game,max_box_acc]"
    assert cli("-m", "method=center,edges", "points=3", "dataset.limit=3", metrics, f"results_dir={tmp_path}").code == 0
    found = read_results(tmp_path)
    assert [r.family for r in found] == ["control", "control"]
    for result in found:
        summary = json.loads((result.folder / "summary.json").read_text())
        assert {name: result.entry(name) for name in summary["metrics"]} == summary["metrics"]
        assert result.failures == summary["failures"] == failures_of(list(result.records.values()), boxes=True)
        assert result.settings == {}
    text = build(found, tmp_path)["localization.md"]
    assert rows(text)[0] == ["method", "n", "energy proportion ↑", "pointing game ↑", "MaxBoxAcc ↑", "failures"]


def test_every_metric_of_a_table_exists() -> None:
    """But for those of the causal benchmark, which may not be there."""
    known = {p.stem for p in (ROOT / "conf" / "metrics").glob("*.yaml")}
    text = "".join(p.read_text() for p in (ROOT / "conf" / "metrics").glob("*.yaml"))
    for spec in SPECS:
        if spec.name not in ("causal", "cost"):
            assert all(m in known or f"\n{m}:" in text for m in spec.measures), spec.name


@pytest.mark.whole
def test_the_committed_tables_are_those_of_the_committed_records() -> None:
    assert guarded(lambda: main([f"results_dir={ROOT / 'results' / 'reference'}", "--check"])) == 0


def test_too_few_images_have_no_interval_to_show() -> None:
    entry = {"mean": 0.5, "ci95": [0.25, 0.75], "n": 5}
    assert (limits(entry), bounds(entry), interval(entry)) == ((0.25, 0.75), "[0.250, 0.750]", "0.500 [0.250, 0.750]")
    few = entry | {"n": 4}
    assert (limits(few), bounds(few), interval(few)) == ((None, None), "-", "0.500 -")
    assert few["ci95"] == [0.25, 0.75]


def test_no_p_is_printed_as_nothing() -> None:
    assert [p_value(p) for p in (None, 1.0, 0.00016, 0.0001, 0.00009, 0.0)] == [
        "-",
        "1.0000",
        "0.0002",
        "0.0001",
        "< 0.0001",
        "< 0.0001",
    ]
