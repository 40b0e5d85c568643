"""What is written survives: torn lines, crashes, two writers, a full disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.store.records import CellFolder, digest_of, read_records, write_atomically
from suny.errors import UserError
from tests.conftest import ROOT


def record(i: int) -> dict[str, object]:
    return {"image": f"image/{i} é", "status": "ok", "deletion": i / 7}


def filled(folder: Path, count: int) -> bytes:
    with CellFolder.open(folder) as cell:
        for i in range(count):
            cell.append(record(i))
    return (folder / "records.jsonl").read_bytes()


def test_records_come_back(tmp_path: Path) -> None:
    content = filled(tmp_path / "cell", 4)
    assert len(content.splitlines()) == 4
    with CellFolder.open(tmp_path / "cell") as cell:
        assert list(cell.records.values()) == [record(i) for i in range(4)]
        assert not cell.repairs
    assert read_records(tmp_path / "cell") == [record(i) for i in range(4)]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(0, 200))
def test_a_torn_end_loses_the_torn_line_only(tmp_path: Path, cut: int) -> None:
    folder = tmp_path / str(cut)
    content = filled(folder, 3) if not folder.exists() else b"".join(json.dumps(record(i)).encode() + b"\n" for i in range(3))
    torn = content[: max(0, len(content) - cut)]
    (folder / "records.jsonl").write_bytes(torn)
    whole = torn.count(b"\n")
    with CellFolder.open(folder) as cell:
        assert list(cell.records.values()) == [record(i) for i in range(whole)]
        assert len(cell.repairs) == (0 if torn.endswith(b"\n") or not torn else 1)
        for i in range(whole, 3):
            cell.append(record(i))
    assert (folder / "records.jsonl").read_bytes() == content


def test_garbage_and_doubled_lines_are_set_aside(tmp_path: Path) -> None:
    content = filled(tmp_path, 2)
    lines = content.splitlines(keepends=True)
    garbage = b"\x00\xff garbage\n[1]\n{}\n" + lines[0]
    (tmp_path / "records.jsonl").write_bytes(lines[0] + garbage + lines[1])
    with CellFolder.open(tmp_path) as cell:
        assert list(cell.records.values()) == [record(0), record(1)]
        assert "4 lines (the first: 2)" in cell.repairs[0]
    assert (tmp_path / "records.jsonl").read_bytes() == content
    assert (tmp_path / "records.bad.jsonl").read_bytes() == garbage


def test_a_summary_is_that_of_its_records(tmp_path: Path) -> None:
    with CellFolder.open(tmp_path) as cell:
        cell.write_summary({"records": digest_of([record(0), record(1)])})
        assert cell.read_summary(digest_of([record(0) | {"seconds": 3.0}, record(1)])) is not None
        assert cell.read_summary(digest_of([record(1), record(0)])) is None
        assert cell.read_summary(digest_of([record(0)])) is None
        for damaged in ("{", "[]", "{}", ""):
            cell.summary_path.write_text(damaged)
            assert cell.read_summary(digest_of([])) is None


@pytest.mark.whole
def test_a_second_writer_is_told_who_holds_the_cell(tmp_path: Path) -> None:
    with CellFolder.open(tmp_path):
        other = subprocess.run(
            [
                sys.executable,
                "-c",
                "from pathlib import Path\nfrom experiments.store.records import CellFolder\n"
                f"with CellFolder.open(Path({str(tmp_path)!r})): pass",
            ],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
    assert f"UserError: {tmp_path} is being written by process {os.getpid()} on " in other.stderr
    with CellFolder.open(tmp_path):
        pass  # free again


@pytest.mark.whole
def test_a_killed_writer_frees_the_cell(tmp_path: Path) -> None:
    program = (
        "import os, pathlib\nfrom experiments.store.records import CellFolder\n"
        f"with CellFolder.open(pathlib.Path({str(tmp_path)!r})) as cell:\n"
        "    cell.append({'image': 'a', 'status': 'ok'})\n    os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True)
    assert killed.returncode == -9
    with CellFolder.open(tmp_path) as cell:
        assert list(cell.records) == ["a"]


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    with CellFolder.open(tmp_path) as cell:
        (tmp_path / "records.jsonl").symlink_to("/dev/full")
        with pytest.raises(UserError, match=r"No space left on device.*the same command continues"):
            cell.append(record(0))
        assert cell.records == {}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(UserError, match=r"cannot write results to .*results_dir=DIR"),
        CellFolder.open(tmp_path / "file" / "cell"),
    ):
        pass


def test_not_a_number_is_never_written(tmp_path: Path) -> None:
    with CellFolder.open(tmp_path) as cell, pytest.raises(ValueError, match="not JSON compliant"):
        cell.append({"image": "a", "status": "ok", "deletion": float("nan")})


def test_replacing_a_file_leaves_no_other(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", b"1")
    write_atomically(tmp_path / "a.json", b"2")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_bytes() == b"2"
