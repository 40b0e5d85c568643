"""``import torchvision`` works whichever build of it is installed."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from suny import torchvision_first, torchvision_guard
from suny.errors import UserError
from tests.conftest import ROOT


def python(program: str, *flags: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *flags, "-c", program], cwd=ROOT, capture_output=True, text=True)


def bare(program: str) -> subprocess.CompletedProcess[str]:
    """Without what ``site-packages`` has Python do when it starts."""
    return python(f"import sys; sys.path.append({sysconfig.get_path('purelib')!r}); {program}", "-S")


@pytest.mark.slow
def test_torchvision_and_grad_cam_import_after_suny() -> None:
    done = python(
        "import suny, torchvision, pytorch_grad_cam; print(torchvision.models.resnet18(weights=None).fc.out_features)"
    )
    assert done.stdout.strip() == "1000", done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("package", ["baselines", "metrics", "experiments"])
def test_every_package_installs_the_guard_itself(package: str) -> None:
    assert python(f"import {package}, torchvision").returncode == 0


@pytest.mark.whole
def test_the_guard_is_needed_exactly_where_the_extension_does_not_load() -> None:
    alone = bare("import torchvision")
    declared = python("from suny import torchvision_guard as g; print(g.install())").stdout.strip()
    assert (alone.returncode != 0) == (declared == "True")


def test_nothing_is_declared_where_the_extension_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_guard, "_library", None)
    monkeypatch.setattr(torchvision_guard, "extension_loads", lambda: True)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    assert torchvision_guard.install() is False


def test_nothing_is_declared_after_torchvision_was_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_guard, "_library", None)
    monkeypatch.setattr(torchvision_guard, "extension_loads", lambda: pytest.fail("not asked"))
    monkeypatch.setitem(sys.modules, "torchvision", SimpleNamespace())  # type: ignore[arg-type]
    assert torchvision_guard.install() is False


def test_the_extension_is_tried_by_loading_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []
    monkeypatch.setattr(torch.ops, "load_library", tried.append)
    assert torchvision_guard.extension_loads() is True
    assert len(tried) == 1
    assert "_C" in tried[0]


# torchvision before suny

_USES = "print(torchvision.models.resnet18(weights=None).fc.out_features)"


@pytest.fixture
def mended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The beginning of a program in an environment that was mended."""
    monkeypatch.setattr(torchvision_first, "_complaint", lambda: "RuntimeError: operator torchvision::nms does not exist")
    assert "is written" in torchvision_first.mend(tmp_path)
    assert "is there" in torchvision_first.mend(tmp_path)
    return f"import site; site.addsitedir({str(tmp_path)!r}); "


@pytest.mark.whole
def test_once_mended_torchvision_comes_first(mended: str) -> None:
    done = bare(f"{mended}import torchvision; import suny; {_USES}")
    assert done.stdout.strip() == "1000", done.stderr


@pytest.mark.whole
def test_a_mended_environment_imports_nothing_by_itself(mended: str) -> None:
    asked = "import importlib.util; importlib.util.find_spec('torchvision'); import json"
    assert bare(f"{mended}assert 'suny' not in sys.modules").returncode == 0
    assert bare(f"{mended}{asked}; assert 'torch' not in sys.modules").returncode == 0


@pytest.mark.slow
def test_a_mended_environment_without_suny_is_as_before(mended: str) -> None:
    library = "import sys; sys.path = [p for p in sys.path if 'lib' in p and 'site' not in p]"
    done = python(f"{mended}{library}; import torchvision", "-S")
    assert "ModuleNotFoundError: No module named 'torchvision'" in done.stderr


@pytest.mark.slow
def test_after_torchvision_has_failed_suny_mends_the_same_program() -> None:
    tried = "\ntry:\n    import torchvision\nexcept RuntimeError:\n    pass\nimport suny, torchvision\n"
    done = bare(f"{tried}{_USES}")
    assert done.stdout.strip() == "1000", done.stderr


@pytest.mark.whole
def test_the_command_finds_out_whether_it_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = bare("import torchvision")
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: alone)
    needed = alone.returncode != 0
    said = torchvision_first.mend(tmp_path)
    assert ("is written" in said) == needed == (tmp_path / torchvision_first.FILE).exists()
    assert needed or "there is nothing to do" in said


def test_what_the_command_can_t_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_first, "_complaint", lambda: "")
    assert "there is nothing to do" in torchvision_first.mend(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(torchvision_first, "_complaint", lambda: "ModuleNotFoundError: No module named 'torchvision'")
    with pytest.raises(UserError, match="not for want of its extension: ModuleNotFoundError"):
        torchvision_first.mend(tmp_path)
    monkeypatch.setattr(torchvision_first, "_complaint", lambda: "operator torchvision::nms does not exist")
    with pytest.raises(UserError, match=r"cannot write .*import suny before torchvision"):
        torchvision_first.mend(tmp_path / "absent")
