"""``import torchvision`` works whichever build of it is installed."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

from suny import torchvision_guard
from tests.conftest import ROOT


def python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.whole
def test_torchvision_and_grad_cam_import_after_suny() -> None:
    done = python(
        "import suny, torchvision, pytorch_grad_cam; print(torchvision.models.resnet18(weights=None).fc.out_features)"
    )
    assert done.stdout.strip() == "1000", done.stderr


@pytest.mark.whole
@pytest.mark.parametrize("package", ["baselines", "metrics", "experiments"])
def test_every_package_installs_the_guard_itself(package: str) -> None:
    assert python(f"import {package}, torchvision").returncode == 0


@pytest.mark.whole
def test_the_guard_is_needed_exactly_where_the_extension_does_not_load() -> None:
    alone = python("import torchvision")
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
