"""Help, mistakes and the way to the first image: what is imported, and what is not."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torchvision

import suny
from experiments.command.configuration import CONF
from suny import later
from suny.classifiers.torchvision_names import names
from suny.later import Later
from tests.conftest import ROOT, small_birds

# what takes long to import beside torch
HEAVY = ("torchvision", "torch._dynamo", "pytorch_grad_cam", "captum", "pandas", "scipy", "sklearn", "skimage", "matplotlib")

# In another process: runs a command line after the other, with what is said on stderr, the exit code, and the modules so far.
PROGRAM = """
import contextlib, io, json, runpy, sys
from hydra.core.global_hydra import GlobalHydra

def ran(program, *arguments):
    GlobalHydra.instance().clear()
    sys.argv = [program, *arguments]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.redirect_stderr(said):
        try:
            if program.endswith(".py"):
                runpy.run_path(program, run_name="__main__")
            else:
                runpy.run_module(program, run_name="__main__", alter_sys=True)
        except SystemExit as error:
            code = error.code
    return {"said": said.getvalue(), "shown": shown.getvalue(), "code": code, "loaded": loaded()}

def loaded():
    return [m for m in WATCHED if m in sys.modules]
"""


def child(program: str) -> list[dict[str, object]]:
    """What the child's program has put into ``found``."""
    text = f"WATCHED = {('torch', *HEAVY)!r}\n{PROGRAM}\nfound = []\n{program}\nprint(json.dumps(found))"
    done = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def commands(program: str, *several: tuple[str, ...]) -> list[dict[str, object]]:
    return child(f"for arguments in {several!r}: found.append(ran({program!r}, *arguments))")


def test_help_and_what_hydra_itself_refuses_need_no_torch() -> None:
    """A wrong key, a name that there is none of, a wrong value at the top."""
    shown, *refused = commands(
        "run.py",
        ("--help",),
        ("methd=suny",),
        ("method=suni",),
        ("dataset=demoo",),
        ("model=resnet51",),
        ("seed=x",),
        ("metrics=[]",),
        ("shards=many",),
    )
    assert shown["code"] == 0
    assert "Choices (conf/<group>/<name>.yaml" in str(shown["shown"])
    said = ["'method'", "'suny'", "'demo'", "'resnet50'", "seed=x", "at least one metric", "shards=many"]
    for one, part in zip(refused, said, strict=True):
        assert one["code"] == 2, one
        assert part in str(one["said"])
        assert str(one["said"]).count("\n") == 1
    assert [one["loaded"] for one in (shown, *refused)] == [[]] * 8


def test_mistakes_that_need_no_network_need_no_torchvision(tmp_path: Path) -> None:
    """Settings of every group, folders and lists of data sets; methods and metrics that build on every library."""
    birds = small_birds(tmp_path / "birds")
    (birds / "image_class_labels.txt").write_text("1 5\n2\n")
    cub = ("dataset=cub", f"dataset.root={tmp_path / 'birds'}")
    nowhere = f"dataset.root={tmp_path / 'nowhere'}"
    methods = sorted(p.stem for p in (CONF / "method").glob("*.yaml"))
    asked: list[tuple[tuple[str, ...], str]] = [
        (("method.k=0",), "method.k=0"),
        (("method=gradcam", "method.kind=gradcm"), "Did you mean 'gradcam'?"),
        (("model.seed=x",), "model.seed=x"),
        (("dataset.limit=0",), "dataset.limit is 0"),
        (("dataset=cub", nowhere), "is not a folder"),
        (("dataset=ilsvrc2012", nowhere, "metrics=all"), "is not a folder"),
        (("dataset=imagefolder", nowhere, "model=densenet121"), "is not a folder"),
        (cub, "image_class_labels.txt, line 2: expected 2 fields"),
        *((("dataset=cub", nowhere, f"method={name}"), "is not a folder") for name in methods),
    ]
    for one, (arguments, part) in zip(commands("run.py", *(a for a, _ in asked)), asked, strict=True):
        assert one["code"] == 2, one
        assert part in str(one["said"]), arguments
        assert one["loaded"] == ["torch"], arguments


def test_a_run_imports_what_it_needs_before_its_first_image(tmp_path: Path) -> None:
    """No image's seconds contain an import, and SUNY needs neither what draws nor what other methods are made of."""
    arguments = ["method.k=2", "method.prescreen=2", "dataset.limit=1", "points=3"]
    before, after, ended = child(f"""
from experiments.cell.cell import Cell
record_of = Cell.record
def watched(*arguments):
    found.append(loaded())
    record = record_of(*arguments)
    found.append(loaded())
    return record
Cell.record = watched
found.append(ran("run.py", *{arguments!r}, "results_dir={tmp_path}"))
""")
    assert ended["code"] == 0, ended
    assert after == before
    assert {"torchvision", "scipy"} <= set(before)
    assert not {"matplotlib", "sklearn", "skimage", "captum", "pytorch_grad_cam"} & set(ended["loaded"])  # type: ignore[arg-type]


def test_help_of_the_other_programs_needs_no_torchvision() -> None:
    programs = ["explain", "score", "train", "tables", "report", "plan", "failures", "figures", "train_causal"]
    found = child(f"for name in {programs!r}: found.append(ran(f'experiments.{{name}}', '--help'))")
    for name, one in zip(programs, found, strict=True):
        assert one["code"] == 0
        assert f"python -m experiments.{name}" in str(one["shown"])
        assert not {"torchvision", "captum", "pytorch_grad_cam", "pandas", "sklearn"} & set(one["loaded"]), name  # type: ignore[call-overload]


def test_asking_where_torchvision_lies_imports_nothing() -> None:
    (loaded,) = child("""
import importlib.util
import suny
from suny.classifiers.torchvision_names import names
assert importlib.util.find_spec("torchvision").submodule_search_locations and names()
found.append(loaded())
""")
    assert loaded == []


def test_the_names_are_those_that_torchvision_lists() -> None:
    assert list(names()) == sorted(torchvision.models.list_models(module=torchvision.models))


def test_the_public_names_are_the_library_s() -> None:
    from suny import library

    assert suny.Suny is library.Suny
    assert suny.SunyResult is library.SunyResult
    with pytest.raises(AttributeError, match="no attribute 'Sunny'"):
        suny.Sunny  # type: ignore[attr-defined]  # noqa: B018


def test_later_imports_when_it_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the first attribute, or with all others; a module is run once."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(later, "_named", set())
    for name in ("late_one", "late_two"):
        (tmp_path / f"{name}.py").write_text("value = 3\n")
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    one, _ = Later("late_one"), Later("late_two")
    assert not {"late_one", "late_two"} & set(sys.modules)
    assert one.value == 3
    assert "late_two" not in sys.modules
    first = sys.modules["late_one"]
    later.import_all()
    assert "late_two" in sys.modules
    assert sys.modules["late_one"] is first
    with pytest.raises(AttributeError):
        one.other  # noqa: B018
