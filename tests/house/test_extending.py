"""The pages on classes of one's own are a project that runs: their blocks of code, written to a folder outside of this one."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT

# A block names its file in the first comment, or, where the first belongs to Hydra, in the second.
BLOCK = re.compile(r"^```(?:python|yaml)\n((?:# @package \S+\n)?# (\S+\.(?:py|yaml))\n.*?)^```$", re.MULTILINE | re.DOTALL)


def files_of(page: Path) -> dict[str, str]:
    """The whole files that a page shows, by name."""
    return {name: text for text, name in BLOCK.findall(page.read_text(encoding="utf-8"))}


def photographs(folder: Path, count: int = 6) -> None:
    """Noise with a bright square on its left or right half, and its box."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with (folder / "boxes.csv").open("w", newline="") as lines:
        rows = csv.writer(lines)
        rows.writerow(["file", "label", "x0", "y0", "x1", "y1"])
        for at in range(count):
            pixels = rng.integers(0, 128, (64, 64, 3), dtype=np.uint8)
            left = 8 + 32 * (at % 2)
            pixels[20:40, left : left + 16] = 255
            Image.fromarray(pixels).save(folder / f"photo{at}.png")
            rows.writerow([f"photo{at}.png", at % 2, left, 20, left + 16, 40])


class Project:
    """A folder with the files of a page."""

    def __init__(self, folder: Path, page: Path) -> None:
        self.folder = folder
        for name, text in files_of(page).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")

    @property
    def conf(self) -> Path:
        return self.folder / "my_conf"

    def call(self, *arguments: str, code: int = 0, **environment: str) -> str:
        """Runs Python in the folder, as a user would whose environment has this project; returns what it prints."""
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == code, ended.stderr
        return ended.stdout + ended.stderr

    def run(self, *arguments: str, code: int = 0) -> str:
        return self.call(str(ROOT / "run.py"), "--config-dir", "my_conf", *arguments, code=code)

    def text(self, name: str) -> str:
        return (self.folder / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The page's project after its experiment, as two processes."""
    made = Project(tmp_path_factory.mktemp("own"), ROOT / "docs" / "extending.md")
    photographs(made.folder / "photos")
    made.call("my_weights.py")
    made.run("experiment=compare", "maps=true", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2")
    made.call("-m", "experiments.tables")
    return made


def test_the_page_shows_a_pair_of_each_kind() -> None:
    names = set(files_of(ROOT / "docs" / "extending.md"))
    assert {name.split("/")[1] for name in names if name.startswith("my_conf/")} == {
        "method", "metrics", "model", "dataset", "experiment",
    }  # fmt: skip
    assert len([name for name in names if name.endswith(".py")]) == len([name for name in names if name.endswith(".yaml")]) == 6


@pytest.mark.slow
def test_the_files_of_the_page_run_in_other_processes(project: Project) -> None:
    cells = sorted(
        p.parent.relative_to(project.folder / "results/runs").as_posix() for p in project.folder.rglob("summary.json")
    )
    places = [(data, net, cell.rpartition("-")[0]) for data, net, cell in (c.split("/") for c in cells)]
    assert places == [("mydata", net, m) for net in ("my_resnet18", "mynet") for m in ("center", "gradcam", "mine")]


@pytest.mark.slow
def test_a_metric_of_ones_own_is_in_table_statistics_and_report(project: Project) -> None:
    table = project.text("results/runs/tables/metrics_other_metrics.md")
    assert "half area ↓" in table
    assert len(re.findall(r"^\| (?:mine|gradcam|center) ", table, re.MULTILINE)) == 6
    assert project.text("results/runs/tables/statistics.md").count("### half area ↓") == 2
    assert "half\\_area" not in project.text("results/runs/tables/metrics_other_metrics.tex")
    project.call("-m", "experiments.report")
    assert '"Other metrics"' in project.text("results/runs/report.html")
    # a table whose metric is gone is told, and taken away
    stale = project.folder / "results/runs/tables/metrics_gone.md"
    stale.write_text("old")
    assert "metrics_gone.md: no records give it" in project.call("-m", "experiments.tables", "--check", code=1)
    project.call("-m", "experiments.tables")
    assert not stale.exists()


@pytest.mark.slow
def test_the_name_in_latex_comes_from_the_class(project: Project) -> None:
    table = project.text("results/runs/tables/metrics_other_metrics.tex")
    assert re.search(r"^Mine-CAM & ", table, re.MULTILINE)
    assert not re.search(r"^mine & ", table, re.MULTILINE)


@pytest.mark.slow
def test_other_commands_take_the_folder_too(project: Project) -> None:
    project.call("-m", "experiments.explain", "photos/photo0.png", "--config-dir", "my_conf", "method=mine", "model=mynet")
    assert (project.folder / "results" / "runs" / "explained" / "photo0-mine.png").is_file()
    (cell,) = (project.folder / "results/runs/mydata/mynet").glob("mine-*")
    told = project.call(
        "-m", "experiments.score", str(cell), "metrics=half_area", "metrics.half_area.level=0.2", SUNY_CONF="my_conf"
    )
    assert "half area ↓" in told
    assert "half_area" in project.call(str(ROOT / "run.py"), "--config-dir=my_conf", "--metrics")
    assert project.call("see_all.py").strip() == "['center', 'gradcam', 'mine'] half_area"


@pytest.mark.slow
def test_tables_know_the_usual_settings_without_the_folder(project: Project) -> None:
    common = ("dataset=mydata", "model=mynet", "metrics=half_area", "results_dir=powers")
    project.run("-m", "method=mine", "method.power=1.0,2.0", *common)
    project.call("-m", "experiments.tables", "results_dir=powers")
    rows = re.findall(r"^\| (mine.*?) *\|", project.text("powers/tables/cost.md"), re.MULTILINE)
    assert rows == ["mine"], "the usual setting is in the tables, the other one in those of ablations"
    assert "mine (power=1.0)" in project.text("powers/tables/cost.md")


@pytest.mark.slow
def test_what_breaks_a_contract_is_one_line_with_class_and_file(project: Project) -> None:
    broken = {
        ("method", "method=low metrics=half_area"): ("my_method", "upsample(low, images.shape[-2:])", "low", "Mine"),
        ("metrics", "method=center metrics=high"): ("my_metric", "float((", "2 * float(1 + (", "HalfArea"),
    }
    for (group, arguments), (module, old, new, cls) in broken.items():
        name = re.split("[ =]", arguments)[1 if group == "method" else 3]
        text = project.text(f"{module}.py").replace(old, new).replace("half_area", name)
        (project.folder / f"{name}.py").write_text(text)
        more = f"name: {name}\n" if group == "method" else ""
        (project.folder / f"my_conf/{group}/{name}.yaml").write_text(f"_target_: {name}.{cls}\n{more}")
        told = project.run(*arguments.split(), "model=mynet", "dataset=mydata", "results_dir=broken", code=2)
        (line,) = [line for line in told.splitlines() if line.startswith("error: ")]
        assert f"class {cls} ({project.folder / name}.py)" in line


@pytest.mark.whole
def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    project = Project(tmp_path, ROOT / "README.md")
    told = project.run("method=mine", "metrics=[energy_proportion,half_area]", "dataset.limit=1")
    assert "half area" in told
    (summary,) = tmp_path.rglob("summary.json")
    assert json.loads(summary.read_text())["metrics"]["half_area"]["n"] == 1
