"""What a class that a configuration names raises is one line, wherever it lies; a fault of what runs it is a traceback."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import baselines
import metrics
from experiments.command.folders import own_folder
from experiments.command.program import guarded
from experiments.store.records import CellFolder, read_records
from suny.classifiers.engine import Engine
from tests.conftest import Cli, only_error

HEAD = """
import torch
from suny.classifiers.classifier import Model
from suny.configured import configured
from suny.explanation import Explanation
from suny.images.dataset import Dataset
"""

METHOD = """
@configured
class Own:
    name: str = "own"
    def explain(self, engine, images, targets, seeds):
        return {}
"""

METRIC = """
from metrics.base import BaseMetric
seen = []
@configured
class Own(BaseMetric):
    name = "own"
    higher_is_better = None
    unit = "none"
    reference = "none"
    def measure(self, case):
        seen.append(case)
        return {}
"""

BASE = """
class Base:
    def read(self):
        return None
    def build(self):
        return self.weights / 0

@configured
class Own({}, Base):
    read, build = Base.read, Base.build
"""


@pytest.fixture(params=["a module of one's own", pytest.param("in a folder of the project", marks=pytest.mark.slow)])
def put(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> Any:
    """Writes a class and its conf file; returns how its cell is computed."""
    number = iter(range(9))

    def write(group: str, text: str, *more: str) -> tuple[Path, Any]:
        package = {"metrics": metrics, "method": baselines}.get(group, baselines)
        name = f"own_{group}_{abs(hash((request.node.name, next(number))))}"
        (tmp_path / name).mkdir()
        if request.param == "in a folder of the project":
            monkeypatch.setattr(package, "__path__", [*package.__path__, str(tmp_path / name)])
            module = f"{package.__name__}.{name}"
        else:
            monkeypatch.syspath_prepend(str(tmp_path / name))
            module = name
        file = tmp_path / name / f"{name}.py"
        file.write_text(HEAD + text)
        (tmp_path / "conf" / group).mkdir(parents=True, exist_ok=True)
        target = f"_target_: {module}.Own\n"
        own = f"own:\n  {target}" if group == "metrics" else f"{target}name: own\n"
        (tmp_path / "conf" / group / "own.yaml").write_text(own)
        words = ["--config-dir", str(tmp_path / "conf"), f"{group}=own", "points=3", f"results_dir={tmp_path / 'r'}", *more]
        words += ["method=center"] * (group != "method") + ["metrics=[deletion]"] * (group != "metrics")
        return file, lambda *keys: cli(*words, *keys)

    return write


def the_line(err: str) -> str:
    (line,) = [text for text in err.splitlines() if text.startswith("error: ")]
    assert not [text for text in err.splitlines() if text.startswith("Traceback")]
    return line


def test_a_method(put: Any) -> None:
    file, ended = put("method", METHOD.format("helper()") + "\ndef helper():\n    return [][0]\n", "dataset.limit=1")
    done = ended()
    assert done.code == 1
    said = f"error: class Own ({file}, line 15): IndexError: list index out of range; debug=true shows the traceback."
    assert the_line(done.err) == said
    assert "Traceback (most recent call last)" in ended("debug=true").err


def test_a_metric_loses_nothing_that_was_computed(put: Any, tmp_path: Path) -> None:
    file, ended = put("metrics", METRIC.format("1.0 if len(seen) % 3 else 1 / 0"), "dataset.limit=4")
    done = ended()
    assert done.code == 1
    assert the_line(done.err).startswith(f"error: class Own ({file}, line 18): ZeroDivisionError: division by zero; ")
    (card,) = (tmp_path / "r").glob("*/*/*/card.yaml")
    assert len(read_records(card.parent)) == 2
    file.write_text(file.read_text().replace("1 / 0", "1.0"))
    ended()  # the module is imported already: its fourth image is counted on from there
    assert len(read_records(card.parent)) == 4


def test_a_network(put: Any) -> None:
    file, ended = put("model", BASE.format("Model"), "dataset.limit=1")
    done = ended()
    assert done.code == 1
    line = the_line(done.err)
    assert line.startswith("error: class Own ")
    assert str(file) in line
    assert "TypeError" in line


def test_a_data_set_that_reads_nothing(put: Any) -> None:
    file, ended = put("dataset", BASE.format("Dataset"))
    assert only_error(ended()) == f"dataset 'own': read returned a NoneType, no ImageList: class Own ({file})."


@pytest.mark.parametrize("value", ["torch.ones(2)", "object()", "[torch.ones(2)]", "'much'"])
def test_values_that_no_record_holds_are_refused(put: Any, value: str) -> None:
    _, ended = put("metrics", METRIC.format(value), "dataset.limit=1")
    said = only_error(ended())
    assert said.startswith("metric 'own' of class Own (")
    assert said.endswith(": return a float, or None where there is no value.")


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("None", "method 'own' returned a NoneType, no suny.explanation.Explanation; "),
        ("images[:, 0].abs()", "method 'own' returned a Tensor, no suny.explanation.Explanation; "),
        ("Explanation(images[:, 0].abs().numpy())", "method 'own' returned a saliency map of ndarray, no tensor; "),
        ("Explanation(None)", "method 'own' returned a saliency map of NoneType, no tensor; "),
        ("Explanation(images[:, 0].abs().double())", "method 'own' returned a saliency map of torch.float64, "),
    ],
)
def test_what_is_no_explanation_is_refused(put: Any, value: str, said: str) -> None:
    _, ended = put("method", METHOD.format(value), "dataset.limit=1")
    assert only_error(ended()).startswith(said)


@pytest.mark.parametrize("text", ["x = 1 / 0\n", "def broken(:\n", "import not_there\n"])
def test_a_file_that_cannot_be_imported(put: Any, text: str) -> None:
    file, ended = put("method", text)
    said = only_error(ended())
    assert said.startswith("method._target_=")
    assert " cannot be imported: " in said
    assert "not_there" in said or (file.name in said and "line 7" in said)


@pytest.mark.parametrize(("cls", "name"), [(Engine, "probabilities"), (CellFolder, "append")])
def test_a_fault_of_engine_or_store_keeps_its_traceback(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cls: type, name: str
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(cls, name, fails)
    with pytest.raises(RuntimeError, match="a defect"):
        cli("method=center", "metrics=[deletion]", "points=3", "dataset.limit=1", f"results_dir={tmp_path}")


def test_a_folder_of_ones_own_is_that_of_its_command_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path | None] = []

    def program() -> int:
        seen.append(own_folder())
        return 0

    for arguments in ([f"--config-dir={tmp_path}"], []):
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments])
        assert guarded(program) == 0
    assert seen == [tmp_path, None]
