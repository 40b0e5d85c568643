"""The search for a preset: photographs cut once, every variant a run, and the table by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from experiments.command.configuration import CONF, read
from experiments.command.program import composed
from experiments.store.reading import read_results
from experiments.studies.search import EXPLORED, build, explored, front, stages
from suny.errors import UserError
from suny.images.photographs import Photographs
from tests.cells import write_cell
from tests.experiments.tables.test_tables import line, rows

OVERALL = np.array([0.50, 0.40, 0.61, 0.33, 0.72, 0.45, 0.58, 0.39])
WORSE = OVERALL - [0.05, 0.07, 0.02, 0.09, 0.04, 0.06, 0.01, 0.08]


def photographs(ilsvrc: Path, **keys: object) -> Photographs:
    return Photographs(name="photographs", root=str(ilsvrc.parent), **keys)  # type: ignore[arg-type]


def test_the_parts_are_a_partition_drawn_by_seed(ilsvrc: Path, imagenet_sample: Path) -> None:
    parts = {
        part: [s.image for s in photographs(ilsvrc, part=part).load().samples]
        for part in ("screen", "confirm", "reserve", "all")
    }
    assert [len(parts[p]) for p in ("screen", "confirm", "reserve")] == [30, 60, 35]
    assert sorted(parts["screen"] + parts["confirm"] + parts["reserve"]) == parts["all"]
    other = [s.image for s in photographs(ilsvrc, part="screen", split_seed=1).load().samples]
    assert other != parts["screen"]


def test_only_the_images_of_ilsvrc_have_boxes(ilsvrc: Path, imagenet_sample: Path) -> None:
    images = photographs(ilsvrc, part="all").load()
    assert images.label_space == "imagenet"
    assert {s.image.startswith("ILSVRC2012_val_") for s in images.samples if s.boxes} == {True}
    assert sum(bool(s.boxes) for s in images.samples) == 25


def test_a_part_without_images_is_one_line(ilsvrc: Path, imagenet_sample: Path) -> None:
    with pytest.raises(UserError, match=r"125 images: none is left for dataset\.part=reserve"):
        photographs(ilsvrc, part="reserve", confirm=95).load()


@pytest.mark.parametrize("name", sorted(p.stem for p in (CONF / "method" / "search").glob("*.yaml")))
def test_every_variant_changes_something(name: str) -> None:
    run = read(composed([f"method=search/{name}"]))
    preset = composed([f"method={run.explainer.name}"]).method
    assert dict(run.resolved["method"]) != dict(preset)


def cells(root: Path, part: str = "confirm", world: str = "main") -> None:
    shown = (f"dataset.part={part}",)
    for method, values, forwards in (("suny_semi", OVERALL, 483), ("rise", WORSE, 4000), ("gradcam", WORSE - 0.01, 1)):
        write_cell(
            root,
            method,
            {"overall": values.tolist(), "necessity_sufficiency": values.tolist()},
            ("dataset=photographs", "points=225", *shown),
            records={"explain_forwards": [forwards] * 8},
        )
    known = ("dataset=causal_shapes", f"dataset.world={world}")
    write_cell(root, "suny_semi", {"pair_accuracy": [0.5, 1.0], "auroc_n": [0.9, 0.9]}, known)


def test_the_table_by_hand(tmp_path: Path) -> None:
    cells(tmp_path)
    text = build(read_results(tmp_path))["search.md"]
    assert "## Confirmation" in text
    assert "Variants: 3; 8 images, 225 points" in text
    assert [r[0] for r in rows(text)[1:4]] == ["suny_semi", "rise", "gradcam"]  # the best overall first
    got = dict(zip(rows(text)[0], line(text, "rise"), strict=True))
    assert got["minus suny_semi"].startswith(f"{(WORSE - OVERALL).mean():+.3f}")
    # Holm over two: the smaller p twice, and both p are those of eight differences of one sign
    p = stats.wilcoxon(WORSE - OVERALL).pvalue
    assert got["p (Holm)"] == f"{2 * p:.4f}"
    best = dict(zip(rows(text)[0], line(text, "suny_semi"), strict=True))
    assert best["minus suny_semi"] == "-"
    assert best["pair accuracy ↑"].startswith("0.750")
    # RISE is worse and dearer than the fields; Grad-CAM is worse, but cheaper
    assert [best["front"], got["front"], line(text, "gradcam")[1]] == ["●", "", "●"]


def test_the_exploration_by_hand() -> None:
    better, worse = OVERALL.tolist(), WORSE.tolist()
    table = pd.DataFrame(
        {
            "round": 1,
            "variant": ["worse"] * 8 + ["better"] * 8,
            "forwards": [440] * 8 + [880] * 8,
            "image": [str(i) for i in range(8)] * 2,
            "deletion": 0.25,
            "insertion": [v + 0.25 for v in worse + better],
        }
    )
    first, second = explored(table)
    assert first[:4] == [1, "better", 880, 8]
    assert first[5] == "-"
    assert second[5].startswith(f"{(WORSE - OVERALL).mean():+.3f}")
    assert second[6] == f"{stats.wilcoxon(WORSE - OVERALL).pvalue:.4f}"


def test_the_exploration_names_every_photograph_of_the_screen(ilsvrc: Path, imagenet_sample: Path) -> None:
    table = pd.read_csv(EXPLORED)
    screen = {s.image for s in photographs(ilsvrc, part="screen").load().samples}
    assert set(table["image"]) == screen
    assert table[["deletion", "insertion"]].stack().between(0, 1).all()
    assert not table.duplicated(["round", "variant", "image"]).any()


def test_each_side_is_compared_with_the_other_sides_map(tmp_path: Path) -> None:
    sides = {"necessity_by_n": OVERALL.tolist(), "necessity_by_s": WORSE.tolist()}
    write_cell(tmp_path, "suny_semi", {"overall": OVERALL.tolist()}, ("dataset=photographs",), records=sides)
    (stage,) = stages(read_results(tmp_path))
    ahead = stage.variants[0].ahead
    assert ahead["N"]["mean"] == pytest.approx((OVERALL - WORSE).mean())
    assert "S" not in ahead


def test_another_layer_is_another_variant(tmp_path: Path) -> None:
    cells(tmp_path)
    layer = ("dataset=photographs", "points=225", "dataset.part=confirm", "model.target_layer=_blocks.10")
    write_cell(tmp_path, "suny_semi", {"overall": WORSE.tolist()}, layer)
    (stage,) = stages(read_results(tmp_path))
    known = {v.row: v.known for v in stage.variants}
    assert known["suny_semi"] is not None
    assert known["suny_semi at _blocks.10"] is None


def test_birds_are_a_stage_where_the_preset_was_measured(tmp_path: Path) -> None:
    cells(tmp_path)
    birds = ("dataset=cub", "dataset.root=x", "points=225")
    write_cell(tmp_path, "gradcam", {"overall": WORSE.tolist()}, birds)
    assert [s.part for s in stages(read_results(tmp_path))] == ["confirm"]
    write_cell(tmp_path, "suny_semi", {"overall": OVERALL.tolist()}, birds)
    stage = stages(read_results(tmp_path))[-1]
    assert stage.part == "birds"
    assert stage.differences["gradcam"]["mean"] == pytest.approx((WORSE - OVERALL).mean())


def test_the_stages_are_told_apart(tmp_path: Path) -> None:
    cells(tmp_path, "screen", "dev")
    cells(tmp_path, "confirm", "main")
    found = stages(read_results(tmp_path))
    assert [s.part for s in found] == ["screen", "confirm"]
    assert all(front(s.variants) == s.front for s in found)
    for stage, world in zip(found, ("dev", "main"), strict=True):
        known = next(v.known for v in stage.variants if v.known is not None)
        assert known.configuration["dataset"]["world"] == world
