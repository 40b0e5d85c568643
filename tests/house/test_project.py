"""What stands around the code: one version, what distributions hold, generated pages, the site, names of other libraries."""

from __future__ import annotations

import doctest
import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

import suny

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


def module(path: Path) -> ModuleType:
    """A Python file of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(f"docs_{path.stem}", path)
    assert spec
    assert spec.loader
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_version_is_said_once() -> None:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" not in project["project"]
    assert project["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "suny.__version__"}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == suny.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## ([\d.]+)", changelog, re.MULTILINE)[0] == suny.__version__


@pytest.mark.slow
def test_what_the_distributions_hold(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(tmp_path), "."]
    # on a copy: setuptools writes its folders beside the sources
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout.split("\0")
    tracked = {name for name in files if name and (ROOT / name).is_file()}
    copy = tmp_path / "checkout"
    for name in tracked:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(command, cwd=copy, check=True, capture_output=True)

    (source,) = tmp_path.glob("*.tar.gz")
    assert source.name == f"suny_benchmark-{suny.__version__}.tar.gz"
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    left_out = {name for name in tracked - held if not name.startswith((".ci/", ".git", ".pre-commit"))}
    assert not left_out

    (wheel,) = tmp_path.glob("*.whl")
    held = set(zipfile.ZipFile(wheel).namelist())
    rooms = ("suny/", "baselines/", "metrics/", "experiments/", "conf/")
    assert {name for name in tracked if name.startswith(rooms)} <= held
    assert {name.partition("/")[0] + "/" for name in held if ".dist-info/" not in name} == set(rooms)

    # the library works from the wheel alone, where there is no checkout
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    program = "import suny; print(suny.__file__); print(len(suny.methods()), len(suny.metrics()))"
    out = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path / "site", capture_output=True, check=True, text=True
    ).stdout
    assert out.split() == [str(tmp_path / "site" / "suny" / "__init__.py"), str(len(suny.methods())), str(len(suny.metrics()))]


@pytest.mark.parametrize("page", ["keys.md", "sheets.md"])
def test_generated_pages_are_up_to_date(page: str) -> None:
    assert module(DOCS / "generate.py").pages()[page] == (DOCS / page).read_text(encoding="utf-8"), "run: make docs"


@pytest.mark.parametrize("name", ["conf.py", "generate.py"])
def test_examples_in_docstrings(name: str) -> None:
    pytest.importorskip("sphinx")
    tried = doctest.testmod(module(DOCS / name))
    assert tried.attempted
    assert not tried.failed


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    pytest.importorskip("sphinx")
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-d",
        str(tmp_path / "read"),
        str(DOCS),
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {path.stem for path in DOCS.glob("*.md")}
    assert not pages & {"search", "genindex"}, "Sphinx writes pages of these names"
    assert {path.stem for path in (tmp_path / "site").glob("*.html")} >= pages
    fetched = [
        (page.name, address)
        for page in (tmp_path / "site").rglob("*.html")
        for address in re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="(https?:[^"]*)"', page.read_text(encoding="utf-8"))
    ]
    assert not fetched


def test_what_other_libraries_call_it() -> None:
    import captum.attr
    import pytorch_grad_cam
    from pytorch_grad_cam.metrics import road

    text = (DOCS / "from_other_libraries.md").read_text(encoding="utf-8")
    sections = dict(re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE))
    known = {
        "pytorch-grad-cam": {*dir(pytorch_grad_cam), *dir(road)},
        "captum": set(dir(captum.attr)),
    }
    ours = {*suny.methods().index, *suny.metrics().index}
    for title, names in known.items():
        rows = re.findall(r"^\| (`.*?) \| (.*?) \|", sections[title], re.MULTILINE)
        assert len(rows) >= 4
        for theirs, here in rows:
            assert set(re.findall(r"`([A-Z]\w+)`", theirs)) <= names
            assert set(re.findall(r"`([a-z_]+)`", here)) <= ours
