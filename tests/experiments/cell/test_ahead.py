"""Decoding ahead of its turn: the same images, records and failures as in line, and never more than a few images held."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from experiments.cell import prefetch as module
from experiments.cell.prefetch import load, prefetch
from experiments.store.records import read_records
from suny.images.dataset import Sample
from suny.images.decode import UnreadableImage
from suny.images.view import View
from tests.conftest import Cli

VIEW = View(resize=8, crop=8, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)


def photographs(root: Path, count: int) -> list[Sample]:
    """Images of one colour each, (10 * i, 0, 0); the second one is cut off."""
    root.mkdir(parents=True)
    samples = []
    for i in range(count):
        path = root / f"{i}.png"
        Image.fromarray(np.full((16, 16, 3), (10 * i, 0, 0), dtype=np.uint8)).save(path)
        samples.append(Sample(str(i), path))
    samples[1].path.write_bytes(samples[1].path.read_bytes()[:40])
    return samples


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_and_failures_are_those_of_the_list(tmp_path: Path, workers: int) -> None:
    found: list[Any] = []
    for sample, seen in prefetch(photographs(tmp_path / "i", 7), VIEW, workers):
        try:
            decoded, pixels = seen()
            found.append((sample.image, decoded.stored_size, round(float(pixels[0, 0, 0]) * 255)))
        except UnreadableImage:
            found.append((sample.image, "unreadable"))
    expected: list[Any] = [(str(i), (16, 16), 10 * i) for i in range(7)]
    expected[1] = ("1", "unreadable")
    assert found == expected


def test_a_few_images_are_held_and_the_rest_is_left_when_the_run_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    lock = threading.Lock()

    def counted(sample: Sample, view: View) -> Any:
        with lock:
            begun.append(sample.image)
        return load(sample, view)

    monkeypatch.setattr(module, "load", counted)
    coming = prefetch(photographs(tmp_path / "i", 40), VIEW, 2)
    _, first = next(coming)
    first()
    coming.close()  # what an exception in the loop does, Ctrl-C among them
    assert "0" in begun
    assert len(begun) <= 2 * 2  # two a worker, of forty


def test_what_is_no_failure_of_the_image_ends_the_run_in_its_turn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(sample: Sample, view: View) -> Any:
        if sample.image == "2":
            raise MemoryError
        return sample.image

    monkeypatch.setattr(module, "load", broken)
    seen: list[Any] = []
    with pytest.raises(MemoryError):
        seen.extend(decode() for _, decode in prefetch(photographs(tmp_path / "i", 5), VIEW, 1))
    assert seen == ["0", "1"]


def test_records_do_not_depend_on_workers(cli: Cli, tmp_path: Path) -> None:
    photographs(tmp_path / "data" / "one_class", 5)
    lines = []
    for workers in (0, 1, 3):
        results = tmp_path / f"{workers}"
        ended = cli("dataset=imagefolder", f"dataset.root={tmp_path / 'data'}", "model=causal_cnn", "method=random",
                    "metrics=[deletion]", "points=3", f"workers={workers}", f"results_dir={results}")  # fmt: skip
        assert ended.code == 0, ended.err
        (card,) = results.glob("*/*/*/card.yaml")
        records = read_records(card.parent)
        assert [r["status"] for r in records] == ["ok", "unreadable", "ok", "ok", "ok"]
        lines.append((card.parent.name, [{k: v for k, v in r.items() if "seconds" not in k} for r in records]))
        assert json.loads((card.parent / "summary.json").read_text())["failures"]["unreadable"] == 1
    assert lines[0] == lines[1] == lines[2]  # the cell's hash too
