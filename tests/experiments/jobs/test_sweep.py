"""What a sweep holds in memory: the records of one cell at a time, whatever its number of cells."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cell.cell import Cell
from experiments.command.configuration import CONF
from experiments.jobs.after_sweep import compared_numbers
from experiments.store import reading as store
from experiments.store.reading import Numbers, compare, read_result, without_records
from experiments.tables.specs import ABLATED
from tests.cells import write_cell
from tests.conftest import Cli

CELLS = 3
SWEEP = ("-m", "method=suny_region", "method.k=2,3,4", "dataset=causal_shapes", "dataset.count=10", "dataset.limit=2")


class Known(dict[str, Any]):
    """A record that can be asked for whether it is still in memory."""


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Callable[[], set[Any]]:
    """The cells of which a record is in memory, by what the test knows them by."""
    references: list[tuple[Any, weakref.ref[Known]]] = []
    make: Callable[..., Any] = Cell.record
    read: Callable[..., Any] = store.read_records

    def known(cell: Any, record: dict[str, Any]) -> Known:
        kept = Known(record)
        references.append((cell, weakref.ref(kept)))
        return kept

    def making(cell: Any, *arguments: Any) -> Known:
        seen.append(living())
        return known(cell.run.explainer.k, make(cell, *arguments))

    def reading(folder: Path, *arguments: Any) -> list[Known]:
        seen.append(living())
        return [known(folder, r) for r in read(folder, *arguments)]

    def living() -> set[Any]:
        gc.collect()
        return {cell for cell, reference in references if reference() is not None}

    seen: list[set[Any]] = []
    monkeypatch.setattr(Cell, "record", making)
    monkeypatch.setattr(store, "read_records", reading)

    def ever() -> set[Any]:
        assert len({cell for cell, _ in references}) == 2 * CELLS  # each was made, and read
        assert max(map(len, seen)) == 1
        return living()

    return ever


@pytest.mark.slow
def test_a_sweep_holds_one_cell(cli: Cli, tmp_path: Path, alive: Callable[[], set[Any]]) -> None:
    ended = cli(*SWEEP, "metrics=[auroc,deletion]", "points=3", f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    tables = [text for text in ended.out.split("\n\n") if text.startswith("| method ")]
    assert tables
    assert all(text.count("| suny_region (") == CELLS for text in tables)
    assert "# Ablation: number of candidates k" in ended.out
    assert len(alive()) <= 1


@pytest.fixture
def pair(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    folders = []
    for method in ("center", "random"):
        deletion = [*rng.random(38).tolist(), None, 1]
        records = {"explain_seconds": rng.random(40).tolist()}
        folders.append(
            write_cell(tmp_path, method, {"deletion": deletion, "insertion": rng.random(40).tolist()}, records=records)
        )
    return folders


def test_numbers_say_what_records_say(pair: list[Path]) -> None:
    whole = [read_result(folder) for folder in pair]
    small = [without_records(result, [*compared_numbers(result), "explain_seconds"]) for result in whole]
    for one, other in zip(whole, small, strict=True):
        assert list(one.records) == list(other.records)
        for image, record in one.records.items():
            for name in ("image", "deletion", "insertion", "explain_seconds"):
                assert other.records[image][name] == record[name]
        for name in ("deletion", "insertion", "explain_seconds"):
            assert one.entry(name) == other.entry(name)
        assert "none" not in other.records
    for name in ("deletion", "insertion"):
        assert compare(*whole, name) == compare(*small, name)


def test_what_is_no_number_is_left_to_the_summary() -> None:
    found = Numbers({"a": {"image": "a", "sanity": {"x": [1, 2]}, "deletion": None}}, ["sanity", "deletion", "absent"])
    assert found["a"] == {"image": "a", "deletion": None, "absent": None}


def test_what_ablations_show_are_numbers() -> None:
    """A metric with values of another kind would be missing from the text on a sweep."""
    for name in ABLATED:
        text = (CONF / "metrics" / f"{name}.yaml").read_text()
        module, _, cls = next(x for x in text.split() if x.startswith("metrics.")).rpartition(".")
        metric = getattr(__import__(module, fromlist=[cls]), cls)
        assert not hasattr(metric, "each")
        assert not hasattr(metric, "summarise")
