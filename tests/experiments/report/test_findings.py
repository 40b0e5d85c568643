"""The head and the tables of the page: sentences that the intervals carry, by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from experiments.figures.inline import inline
from experiments.report.findings import findings
from experiments.report.tables import tables
from experiments.store.reading import read_results
from experiments.tables.comparisons import compare_columns
from tests.cells import write_cell

COUNT = 10
BASE = [0.30, 0.42, 0.35, 0.51, 0.44, 0.38, 0.47, 0.33, 0.40, 0.45]


def shifted(by: float) -> list[float]:
    """Values that are larger on every image, by nearly the same."""
    return [v + by + 0.001 * i for i, v in enumerate(BASE)]


def wavering() -> list[float]:
    """Values that are larger on every second image, by the same."""
    return [v + 0.05 * (-1) ** i for i, v in enumerate(BASE)]


def written(root: Path, methods: dict[str, dict[str, list[float]]]) -> list[Any]:
    for method, values in methods.items():
        write_cell(root, method, values)
    return read_results(root)


def sentences(results: list[Any]) -> list[str]:
    (found,) = findings(results, compare_columns(results))
    return list(found.sentences)


def test_ahead_tied_and_behind(tmp_path: Path) -> None:
    results = written(
        tmp_path,
        {
            "gradcam": {"overall": BASE, "deletion": BASE},
            "suny": {"overall": shifted(0.1), "deletion": BASE},
            "suny_semi": {"overall": wavering(), "deletion": BASE},
            "center": {"overall": shifted(-0.2), "deletion": BASE},
        },
    )
    (said,) = sentences(results)  # deletion is a part of overall
    # the mean of .001 i over ten images is .0045
    assert re.fullmatch(
        r"overall ↑: suny \(by 0\.10[45] \[0\.10\d, 0\.10\d\]\) is ahead of gradcam, the best baseline; "
        r"suny_semi can't be told apart from it; center \(by 0\.19[56] \[0\.19\d, 0\.19\d\]\) is behind it \(10 images\)\.",
        said,
    )


def test_a_smaller_deletion_is_ahead(tmp_path: Path) -> None:
    results = written(tmp_path, {"gradcam": {"deletion": BASE}, "suny": {"deletion": shifted(-0.1)}})
    (said,) = sentences(results)
    assert said.startswith("deletion ↓: suny (by 0.09")
    assert "is ahead of gradcam" in said


def test_ties_alone(tmp_path: Path) -> None:
    results = written(tmp_path, {"gradcam": {"overall": BASE}, "suny": {"overall": wavering()}})
    assert sentences(results) == ["overall ↑: suny can't be told apart from gradcam, the best baseline (10 images)."]


def test_images_too_few_for_any_p_below_the_level(tmp_path: Path) -> None:
    """Five images: the smallest p that there is is 2 / 32; six and one comparison: 2 / 64."""
    results = written(tmp_path / "five", {"gradcam": {"overall": BASE[:5]}, "suny": {"overall": shifted(0.1)[:5]}})
    assert sentences(results) == ["overall ↑: 5 images are too few to tell 2 methods apart."]
    six = written(tmp_path / "six", {"gradcam": {"overall": BASE[:6]}, "suny": {"overall": shifted(0.1)[:6]}})
    assert "suny (by 0.10" in sentences(six)[0]


def test_few_images_and_one_method(tmp_path: Path) -> None:
    few = written(tmp_path / "few", {"gradcam": {"overall": BASE[:4]}, "suny": {"overall": shifted(0.1)[:4]}})
    assert sentences(few) == ["overall ↑: 4 images are too few to tell 2 methods apart."]
    one = written(tmp_path / "one", {"suny": {"overall": BASE}})
    assert sentences(one) == ["Fewer than two methods have a number here: there is nothing to compare."]


def test_facts_and_plots(tmp_path: Path) -> None:
    results = written(tmp_path, {m: {"overall": shifted(0.1 * i)} for i, m in enumerate(("gradcam", "rise", "suny"))})
    (found,) = findings(results, compare_columns(results))
    assert found.facts["Methods"] == "3: gradcam, rise, suny"
    assert found.facts["Command"].startswith("python run.py -m method=gradcam,rise,suny dataset=")
    assert "10 images" in found.facts["Data"]
    forest, ranks = found.plots
    assert forest.startswith("<svg class")
    assert "critical difference" in ranks
    assert "difference to rise" in forest


def test_an_inline_figure_takes_the_colours_of_the_page() -> None:
    from matplotlib.figure import Figure

    from experiments.figures.drawing import styled

    with styled():
        figure = Figure()
        axis = figure.subplots()
        axis.plot([0, 1], [0, 1], "ks")
        axis.set_title("<script>alert(1)</script>")
        first, second = inline(figure, "one", 'a "label"'), inline(figure, "two", "b")
    assert first.startswith('<svg class="figure" role="img" aria-label="a &quot;label&quot;" ')
    assert "<script" not in first
    assert "<style" not in first
    assert "#000000" not in first
    assert "currentColor" in first
    ids = [set(re.findall(r' id="([^"]+)"', text)) for text in (first, second)]
    assert ids[0]
    assert not ids[0] & ids[1]
    for text, own in zip((first, second), ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', text)) <= own


def test_no_column_is_repeated_and_no_empty_interval_is_printed(tmp_path: Path) -> None:
    results = written(
        tmp_path,
        {m: {"energy_proportion": shifted(0.1 * i), "pointing_game": [1.0] * COUNT} for i, m in enumerate(("gradcam", "suny"))},
    )
    groups = tables(results, compare_columns(results))
    heads = [t["head"] for g in groups if not g["title"].startswith("Statistics") for t in g["tables"]]
    columns = [c for head in heads for c in head if c not in ("method", "n")]
    assert len(columns) == len(set(columns))
    pointing = next(t for g in groups for t in g["tables"] if any(h.startswith("pointing game") for h in t["head"]))
    at = next(i for i, h in enumerate(pointing["head"]) if h.startswith("pointing game"))
    assert pointing["rows"][0][at]["t"].rstrip(" ★") == "1.000"  # not 1.000 [1.000, 1.000]
    assert any("In an earlier table: energy proportion" in text for text in pointing["texts"])


@pytest.mark.parametrize("count", [3, 9])
def test_many_methods_are_counted(count: int) -> None:
    from experiments.report.findings import _names

    names = [f"m{i}" for i in range(count)]
    assert _names(names) == ("m0, m1 and m2" if count == 3 else "m0, m1, m2, m3 and 5 more")
