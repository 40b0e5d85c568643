"""Faults that runs survive: nothing finished is lost, nothing is counted twice, the summary is that of an undisturbed run.

The default tier kills at known places; the slow one adds 50 kills at random moments over one run (``make test-faults``).
"""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

from baselines import rise
from experiments.store.records import FORMAT, CellFolder
from experiments.training.data import Plain, photographs
from metrics.attack import SaliencyAttack
from metrics.base import Case, NotFinite
from metrics.deletion_insertion import Deletion
from metrics.drop_keep import AverageDrop, HarmonicMean, IncreaseInConfidence
from suny.classifiers.engine import Engine
from suny.errors import UserError
from suny.images.dataset import Sample
from suny.images.view import View
from tests.conftest import ROOT, Cli, Ended, SmallNet, engine_for, noise, only_error
from tests.gates import Gate

COUNT = 20
CELL = ("dataset=causal_shapes", "method=gradcam", "metrics=fast", "points=5", "maps=true", "pictures=1")
TIMES = ("seconds", "explain_seconds")


def command(data: Path, results: Path, count: int = COUNT) -> list[str]:
    return [*CELL, f"dataset.count={count}", f"dataset.root={data}", f"results_dir={results}"]


def folder_of(results: Path) -> Path:
    (card,) = results.glob("causal_shapes/*/*/card.yaml")
    return card.parent


def records_of(folder: Path) -> list[dict[str, Any]]:
    """Without times, and every line has to be a whole one."""
    text = (folder / "records.jsonl").read_text()
    assert text.endswith("\n")
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in text.splitlines()]


def assert_same(results: Path, undisturbed: Path) -> None:
    """Records but for their times, summary, maps and pictures, byte for byte; and nothing else is left behind."""
    one, other = folder_of(results), folder_of(undisturbed)
    assert json.dumps(records_of(one)) == json.dumps(records_of(other))
    assert (one / "summary.json").read_bytes() == (other / "summary.json").read_bytes()
    kept = [sorted(p.relative_to(f).as_posix() for p in f.rglob("*") if p.is_file()) for f in (one, other)]
    assert kept[0] == kept[1]
    for name in kept[0]:
        if name.startswith(("maps", "pictures")):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def entry(arguments: list[str], log: str, gate: Gate | None = None) -> None:
    """``python run.py ARGUMENTS`` as a child process has it."""
    os.chdir(ROOT)
    if gate:
        gate.install()
    with open(log, "w", buffering=1) as file:
        sys.stdout = sys.stderr = file
        sys.argv = [str(ROOT / "run.py"), *arguments]
        from experiments.command.program import guarded
        from run import main

        os._exit(guarded(main))


@pytest.fixture(scope="module")
def processes() -> Any:
    """Starts processes that have the imports behind them already, so that a kill is seldom one of an import."""
    context = multiprocessing.get_context("forkserver")
    needed = [
        "experiments.cell.cell",
        "experiments.figures.explanation",
        "baselines.gradient_cams",
        "suny.images.causal_shapes",
    ]
    later = ["torchvision", "pytorch_grad_cam", "scipy.stats", "scipy.ndimage"]
    context.set_forkserver_preload(["run", *needed, *later, "tests.faults.test_faults"])
    return context


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def undisturbed(data: Path, processes: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    results = tmp_path_factory.mktemp("undisturbed")
    assert ended(processes, command(data, results)).code == 0
    return results


def ended(processes: Any, arguments: list[str]) -> Ended:
    log = Path(next(a for a in arguments if a.startswith("results_dir=")).removeprefix("results_dir=") + ".log")
    process = processes.Process(target=entry, args=(arguments, str(log)))
    process.start()
    process.join()
    return Ended(process.exitcode, "", log.read_text())


# kill -9


def killed_at(processes: Any, arguments: list[str], log: Path, gate: Gate) -> None:
    process = processes.Process(target=entry, args=(arguments, str(log), gate))
    process.start()
    try:
        assert gate.reached(process.is_alive), log.read_text()
    finally:
        process.kill()
        process.join()


# in the order of a run: before its card is written, and when that is written but not in its place; before a picture; when a
# record is written but perhaps not on the disk; between records; before the summary, and when that is not in its place
PLACES = (
    ("experiments.cell.cell:carry_card", 0),
    ("os:replace", 0),
    ("experiments.figures.explanation:save_picture", 0),
    ("os:fsync", 2),  # after the picture's and the map's
    ("experiments.store.records:CellFolder.append", 5),
    ("experiments.store.records:CellFolder.write_summary", 0),
    ("os:replace", 0),
)


def test_killed_at_every_kind_of_place(processes: Any, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    arguments = command(data, tmp_path / "killed")
    done = []
    for at, (place, passes) in enumerate(PLACES):
        killed_at(processes, arguments, tmp_path / "log", Gate(tmp_path / f"gate {at}", place, passes))
        done.append(lines(tmp_path / "killed"))
    assert done == [0, 0, 0, 1, 6, COUNT, COUNT]
    assert (folder_of(tmp_path / "killed") / ".summary.json.new").exists()
    assert ended(processes, arguments).code == 0
    assert_same(tmp_path / "killed", undisturbed)


def killed_over_a_run(processes: Any, arguments: list[str], results: Path, undisturbed: Path, kills: int, seed: int) -> None:
    """Starts and kills a run until it has been killed so often, wherever that is.

    One kill in five falls between the start and the first record (of a life), the others while images are computed. A run
    that ends before it is killed has to be that which nothing disturbed, and another one begins in its place.
    """
    rng, survived = np.random.default_rng(seed), 0
    log = f"{results}.log"
    spent = [1.0]  # seconds to the first record of a life
    for _ in range(10 * kills):  # most lives are killed: a bound, in case that none is
        process = processes.Process(target=entry, args=(arguments, log))
        begun, before = time.monotonic(), lines(results)
        process.start()
        early = rng.random() < 0.2
        until = begun + rng.uniform(0, np.mean(spent)) if early else None
        while process.is_alive() and (until is None or time.monotonic() < until):
            if until is None and lines(results) > before:
                spent.append(time.monotonic() - begun)
                until = time.monotonic() + rng.exponential(0.05)
            time.sleep(0.001)
        process.kill()
        process.join()
        if process.exitcode == 0:
            assert_same(results, undisturbed)
            shutil.rmtree(results)
            continue
        assert process.exitcode == -signal.SIGKILL, Path(log).read_text()
        survived += 1
        if survived == kills:
            return
    pytest.fail(f"only {survived} of {10 * kills} runs were killed before their end")


def lines(results: Path) -> int:
    return sum(p.read_bytes().count(b"\n") for p in results.glob("causal_shapes/*/*/records.jsonl"))


@pytest.mark.slow
def test_killed_50_times_at_random_moments(processes: Any, tmp_path: Path) -> None:
    # the images are made by the run, too, so that kills fall into that as well
    whole = command(tmp_path / "data", tmp_path / "whole", count=400)
    assert ended(processes, whole).code == 0
    arguments = command(tmp_path / "data again", tmp_path / "killed", count=400)
    killed_over_a_run(processes, arguments, tmp_path / "killed", tmp_path / "whole", kills=50, seed=1)
    print(f"50 kills survived, {lines(tmp_path / 'killed')} of 400 images done by then")
    assert ended(processes, arguments).code == 0
    assert_same(tmp_path / "killed", tmp_path / "whole")


def test_a_cell_of_a_sweep_that_is_killed_leaves_the_others(
    processes: Any, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    sweep = ["-m", *command(data, tmp_path / "sweep"), "method=center,gradcam"]
    within_the_second = Gate(tmp_path / "gate", "experiments.store.records:CellFolder.append", passes=COUNT + 5)
    killed_at(processes, sweep, tmp_path / "log", within_the_second)
    assert lines(tmp_path / "sweep") == COUNT + 5
    center = next((tmp_path / "sweep").glob("causal_shapes/*/center-*"))
    before = {p.name: p.read_bytes() for p in center.glob("*.*")}
    assert ended(processes, [*sweep, "metrics=fast"]).code == 0
    assert {p.name: p.read_bytes() for p in center.glob("*.*")} == before
    shutil.rmtree(center)
    assert_same(tmp_path / "sweep", undisturbed)


# disks


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small file system of its own at a folder."""
    folder.mkdir(exist_ok=True)
    if shutil.which("mount") is None or os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def remounted(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_disk_that_fills_up(cli: Cli, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    results = tmp_path / "full"
    with mounted(results, "size=200k"):
        arguments = command(data, results)
        assert "No space left on device" in only_error(cli(*arguments))
        done = lines(results)
        assert 0 < done < COUNT
        complete = (folder_of(results) / "records.jsonl").read_bytes().splitlines(keepends=True)[:done]
        remounted(results, "size=20m")
        assert cli(*arguments).code == 0
        assert (folder_of(results) / "records.jsonl").read_bytes().splitlines(keepends=True)[:done] == complete
        assert_same(results, undisturbed)


@pytest.mark.parametrize("size", [8, 12, 40])
def test_a_disk_that_is_full_at_once(cli: Cli, data: Path, undisturbed: Path, tmp_path: Path, size: int) -> None:
    """In kB: there is no room for a folder, for the card, for a line."""
    results = tmp_path / "full"
    with mounted(results, f"size={size}k"):
        only_error(cli(*command(data, results)))
        remounted(results, "size=20m")
        assert cli(*command(data, results)).code == 0
        assert_same(results, undisturbed)


def test_a_file_system_that_is_or_becomes_read_only(
    cli: Cli, data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = tmp_path / "readonly"
    written = CellFolder.append

    def lost(self: CellFolder, record: dict[str, Any]) -> None:
        if len(self.records) == 7:
            # a mount over the folder: a file system with an open file, the lock, can't be made read-only by hand
            subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True)
            remounted(self.folder, "bind,ro")
        written(self, record)

    with mounted(results, "size=20m"):
        remounted(results, "ro")
        assert "Read-only file system" in only_error(cli(*command(data, results)))
        remounted(results, "rw")
        with monkeypatch.context() as patch:
            patch.setattr(CellFolder, "append", lost)
            assert "cannot write results to" in (said := only_error(cli(*command(data, results))))
        assert "Read-only file system" in said
        assert lines(results) == 7
        subprocess.run(["umount", "-l", str(folder_of(results))], check=True)
        assert cli(*command(data, results)).code == 0
        (folder_of(results) / ".holder").unlink(missing_ok=True)  # as after a kill
        assert_same(results, undisturbed)


def test_a_folder_of_somebody_else() -> None:
    """Rights do not bind root, so that another user tries."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    own = os.geteuid()
    try:
        if own == 0:
            os.seteuid(65534)
        with (
            pytest.raises(UserError, match=r"cannot write results to .*/cell: Permission denied"),
            CellFolder.open(folder / "cell"),
        ):
            pass
    finally:
        os.seteuid(own)
        folder.rmdir()


# records


def test_a_garbage_line_is_set_aside_and_its_image_done_again(
    cli: Cli, processes: Any, data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    results = tmp_path / "garbage"
    shutil.copytree(undisturbed, results)
    path = folder_of(results) / "records.jsonl"
    content = path.read_bytes().splitlines(keepends=True)
    garbage = b'{"image": "0004-inh\x00\x00\xff...\n'
    path.write_bytes(b"".join([*content[:4], garbage, *content[5:], content[9]]) + b'{"image": "torn')
    done = cli(*command(data, results))
    assert done.code == 0
    assert "records.bad.jsonl: 2 lines (the first: 5); images that have no other are done again" in done.err
    assert "the last line of records.jsonl was torn off" in done.err
    bad = path.with_name("records.bad.jsonl")
    assert bad.read_bytes() == garbage + content[9]
    bad.unlink()
    found = path.read_bytes().splitlines(keepends=True)
    assert found[:4] + found[5:] == content[:4] + content[5:]  # what was whole is as it was, what was done again in its place
    assert_same(results, undisturbed)


def test_the_last_line_cut_anywhere(cli: Cli, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    results = tmp_path / "cut"
    shutil.copytree(undisturbed, results)
    path = folder_of(results) / "records.jsonl"
    content = path.read_bytes()
    last = len(content.splitlines()[-1]) + 1
    for cut in (1, 2, last // 2, last - 1, last):
        path.write_bytes(content[:-cut])
        assert cli(*command(data, results)).code == 0
        assert_same(results, undisturbed)


def older(folder: Path, **changes: Any) -> None:
    """The third record loses a key, or has another value."""
    content = (folder / "records.jsonl").read_text().splitlines()
    record = json.loads(content[2])
    for key, value in changes.items():
        record = {k: v for k, v in record.items() if k != key} | ({} if value is None else {key: value})
    content[2] = json.dumps(record)
    (folder / "records.jsonl").write_text("\n".join(content) + "\n")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"boxes_lost": None}, "boxes_lost: Field required"),
        ({"explain_tail_forwards": None}, "explain_tail_forwards: Field required"),
        ({"status": "skipped"}, "Input tag 'skipped'"),
        ({"prob": "high"}, "prob: Input should be a valid number"),
    ],
)
def test_records_of_another_version_are_refused_and_stay(
    cli: Cli, data: Path, undisturbed: Path, tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    from experiments.command.program import guarded
    from experiments.report import __main__ as report

    results = tmp_path / "older"
    shutil.copytree(undisturbed, results)
    older(folder_of(results), **changes)
    before = (folder_of(results) / "records.jsonl").read_bytes()
    error = only_error(cli(*command(data, results)))
    assert said in error
    assert "records.jsonl, line 3: the record of image '0002-or'" in error
    assert "Delete that line to have the image done again, or move the folder away" in error
    assert (folder_of(results) / "records.jsonl").read_bytes() == before
    assert guarded(lambda: report.main([f"results_dir={results}", f"out={tmp_path / 'report.html'}"])) == 2


def test_cards_of_other_formats_are_refused_in_one_line(cli: Cli, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    results = tmp_path / "format"
    shutil.copytree(undisturbed, results)
    path = folder_of(results) / "card.yaml"
    card = yaml.safe_load(path.read_text())
    assert card["format"] == FORMAT
    path.write_text(yaml.safe_dump({k: v for k, v in card.items() if k != "format"}))
    said = only_error(cli(*command(data, results)))
    assert f"{path.parent} was written by an earlier version of the project (format 1; this one has {FORMAT})" in said
    assert f"python -m experiments.migrate {path.parent} brings it over" in said
    path.write_text(yaml.safe_dump(card | {"format": FORMAT + 1}))
    said = only_error(cli(*command(data, results)))
    assert f"was written by a later version of the project (format {FORMAT + 1}; this one has {FORMAT})" in said


def test_finished_work_of_another_version_is_told(cli: Cli, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    results = tmp_path / "version"
    shutil.copytree(undisturbed, results)
    old = folder_of(results)
    card = yaml.safe_load((old / "card.yaml").read_text())
    card["identity"]["weights"]["sha256"] = "0" * 64
    (old / "card.yaml").write_text(yaml.safe_dump(card | {"hash": "0" * 64}))
    renamed = old.rename(old.with_name("gradcam-00000000"))
    done = cli(*command(data, results))
    assert done.code == 0
    assert f"note: {renamed} has the same settings but other weights: it stays, and all is computed anew" in done.err
    assert len(records_of(renamed)) == COUNT


# two writers


def test_two_writers_of_one_cell(processes: Any, data: Path, undisturbed: Path, tmp_path: Path) -> None:
    arguments = command(data, tmp_path / "two")
    logs = [tmp_path / f"{i}.log" for i in range(2)]
    gates = [Gate(tmp_path / f"gate {i}", "experiments.store.records:CellFolder.append") for i in range(2)]
    both = [processes.Process(target=entry, args=(arguments, str(log), gate)) for log, gate in zip(logs, gates, strict=True)]
    for process in both:
        process.start()
    # whoever comes first holds the cell, and goes on when the other has ended
    first = [gate.reached(process.is_alive) for gate, process in zip(gates, both, strict=True)]
    for gate in gates:
        gate.open()
    for process in both:
        process.join()
    assert sorted(first) == [False, True]
    assert [p.exitcode for p in both] == [0 if f else 2 for f in first]
    late = logs[first.index(False)].read_text()
    assert "is being written by" in late
    assert "Traceback" not in late
    assert_same(tmp_path / "two", undisturbed)


# the clock


def test_a_clock_that_goes_backwards(
    cli: Cli, data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter(range(4_000_000_000, 0, -3600))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    results = tmp_path / "clock"
    assert cli(*command(data, results)).code == 0
    monkeypatch.undo()
    cell = folder_of(results)
    for line in (cell / "records.jsonl").read_text().splitlines():
        assert all(0 <= json.loads(line)[key] < 3600 for key in TIMES)
    assert_same(results, undisturbed)
    # files from the future and from the past: the summary is that of the records, whatever is older
    content = (cell / "records.jsonl").read_text().splitlines(keepends=True)
    (cell / "records.jsonl").write_text("".join(content[:-1]))
    os.utime(cell / "records.jsonl", (0, 0))
    os.utime(cell / "summary.json", (4e9, 4e9))
    assert cli(*command(data, results)).code == 0
    assert_same(results, undisturbed)
    older(cell, prob=0.125)
    os.utime(cell / "records.jsonl", (0, 0))
    before = (cell / "summary.json").read_bytes()
    assert cli(*command(data, results)).code == 0
    assert (cell / "summary.json").read_bytes() != before


# images


def test_a_lost_disk_is_no_property_of_the_image(
    cli: Cli, data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once mended, the same command gives the undisturbed summary."""
    opened, results = Image.open, tmp_path / "lost"

    def failing(path: Path, *rest: Any, **keys: Any) -> Image.Image:
        if "0009" in str(path) and "images" in str(path):
            raise OSError(errno.EIO, "Input/output error")
        return opened(path, *rest, **keys)

    with monkeypatch.context() as patch:
        patch.setattr(Image, "open", failing)
        said = only_error(cli(*command(data, results), "dataset.strict=false"))
    assert "Input/output error; mend that, and the same command continues" in said
    assert lines(results) == 0 or "0009" not in (folder_of(results) / "records.jsonl").read_text()
    assert cli(*command(data, results), "dataset.strict=false").code == 0
    assert records_of(folder_of(results)) == records_of(folder_of(undisturbed))


@pytest.mark.parametrize("strict", [True, False])
def test_nor_is_it_when_outputs_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    def failing(*_: Any, **__: Any) -> Image.Image:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Image, "open", failing)
    view = View(resize=16, crop=16, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    found = photographs([Sample("a", tmp_path / "a.png")], Plain(view), [[(0, 0)]], 0, strict)
    with pytest.raises(UserError, match=r"cannot read .*a\.png: Input/output error"):
        list(found)


class Dies(Plain):
    """Ends the process that looks at an image, as the system does where memory does not suffice."""

    def __call__(self, image: Image.Image, sample: str, epoch: int) -> Image.Image:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError


def test_a_worker_that_dies_is_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
    view = View(resize=16, crop=16, interpolation="bilinear", mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(UserError, match="a worker process died"):
        list(photographs([Sample("a", tmp_path / "a.png")], Dies(view), [[(0, 0)]], 1, False))


# memory


ON_CARD = (torch.cuda.OutOfMemoryError, "CUDA out of memory. Tried to allocate 2.00 GiB.")
ON_CPU = (RuntimeError, "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you tried")


def greedy(room: int, kind: tuple[type[Exception], str]) -> Engine:
    """With memory for so many images at once; where there are more, it says what PyTorch says."""
    engine = engine_for(SmallNet(), 16, "relu", 16)
    inner = engine.network.forward

    def forward(x: Tensor) -> Tensor:
        if len(x) > room:
            raise kind[0](kind[1])
        return inner(x)

    engine.network.forward = forward  # type: ignore[method-assign]
    return engine


@pytest.mark.parametrize("kind", [ON_CARD, ON_CPU, (MemoryError, "")])
@pytest.mark.parametrize(("room", "left"), [(16, 16), (15, 8), (5, 4), (1, 1)])
def test_batches_are_halved_where_memory_does_not_suffice(
    capsys: pytest.CaptureFixture[str], kind: tuple[type[Exception], str], room: int, left: int
) -> None:
    images = noise(37, 3, 16, 16)
    expected = engine_for(SmallNet(), 16, "relu", 16).probabilities(images)
    engine = greedy(room, kind)
    torch.testing.assert_close(engine.probabilities(images), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(engine.score(37, images.__getitem__, 1), expected[:, 1], rtol=1e-5, atol=1e-6)
    assert engine.batch_size == left
    assert engine.cost.forwards == 2 * 37  # what failed is not counted
    said = [line for line in capsys.readouterr().err.splitlines() if line]
    assert len(said) == {16: 0, 8: 1, 4: 2, 1: 4}[left]
    if said:
        assert said[0] == "note: too little memory for a batch of 16 images: batches have at most 8 from here on"


def test_no_memory_for_a_single_image_is_one_line() -> None:
    with pytest.raises(UserError, match="device=cpu has too little memory for a single image"):
        greedy(0, ON_CARD).probabilities(noise(3, 3, 16, 16))


def test_other_errors_of_the_network_are_no_matter_of_memory() -> None:
    engine = greedy(4, (RuntimeError, "mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        engine.probabilities(noise(5, 3, 16, 16))
    assert engine.batch_size == 16


def test_tails_are_halved_too() -> None:
    """Alone: a batch of the whole network is another matter."""
    engine = engine_for(SmallNet(), 16, "relu", 2)
    activation, carried = engine.activations(noise(1, 3, 16, 16))
    scale = torch.linspace(0, 2, 3000)[:, None, None, None]
    expected = engine.score_tail(3000, lambda part: activation * scale[part], carried, 0)
    inner = engine.network.tail

    def tail(x: Tensor, beside: Any) -> Tensor:
        if len(x) > 800:
            raise ON_CARD[0](ON_CARD[1])
        return inner(x, beside)

    engine.network.tail = tail  # type: ignore[method-assign]
    before = engine.cost.tail_forwards
    found = engine.score_tail(3000, lambda part: activation * scale[part], carried, 0)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (engine.tail_batch_size, engine.batch_size) == (750, 2)
    assert engine.cost.tail_forwards - before == 3000


@pytest.mark.parametrize("method", ["rise", "integrated_gradients", "occlusion", "smoothgrad_vanilla"])
def test_a_run_goes_on_with_smaller_batches(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """Of methods that cut their work into batches by themselves, too."""
    few = {
        "rise": ["method.masks=40"],
        "integrated_gradients": ["method.steps=20"],
        "smoothgrad_vanilla": ["method.samples=20"],
    }
    arguments = [
        *command(data, tmp_path / "whole"),
        f"method={method}",
        *few.get(method, []),
        "dataset.limit=2",
        "batch_size=16",
    ]
    arguments += ["maps=false", "pictures=0"]
    assert cli(*arguments).code == 0
    limited: list[int] = []
    counted, blended = Engine._count, rise.blend

    def at_most_five(count: int) -> None:
        if count > 5:
            limited.append(count)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    def count(self: Engine, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        counted(self, module, inputs)
        at_most_five(len(inputs[0]))

    def blend(image: Tensor, blank: Tensor, masks: Tensor) -> Tensor:
        at_most_five(len(masks))
        return blended(image, blank, masks)

    monkeypatch.setattr(Engine, "_count", count)
    monkeypatch.setattr(rise, "blend", blend)  # beside the engine's own passes
    done = cli(*arguments, f"results_dir={tmp_path / 'lowered'}")
    assert done.code == 0
    assert limited
    assert done.err.count("note: too little memory for a batch") == 2
    whole, lowered = (records_of(folder_of(tmp_path / name)) for name in ("whole", "lowered"))
    assert [r["batch_size"] for r in whole + lowered] == [16, 16, 4, 4]
    for one, other in zip(whole, lowered, strict=True):
        assert one["forwards"] == other["forwards"]
        assert one["insertion"] == pytest.approx(other["insertion"], abs=1e-4)


# NaN


def spoilt_case(first: int) -> Case:
    """A case whose network returns NaN for images of which less than so many pixels are left."""
    weights = torch.full((3, 4, 4), 1 / 48)

    class Coarse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Identity()

        def forward(self, x: Tensor) -> Tensor:
            p = (self.features(x) * weights).sum((1, 2, 3)).clamp(1e-6, 1 - 1e-6)
            p = torch.where(p * 16 < first - 0.5, torch.nan, p)
            return torch.stack([p.log(), (1 - p).log()], 1)

    saliency = torch.arange(16.0).reshape(4, 4)
    return Case(engine_for(Coarse(), 4, "features"), torch.full((3, 4, 4), 0.95), 0, saliency)


@pytest.mark.parametrize(
    "metric",
    [Deletion(points=5), HarmonicMean(points=5), AverageDrop(), IncreaseInConfidence(), SaliencyAttack(q=25, epsilon=0.5)],
)
def test_a_metric_of_nan_has_no_value(metric: Any) -> None:
    """Several would hide it: max(0, NaN) is 0, and NaN > p is False."""
    with pytest.raises(NotFinite, match="returns NaN for"):
        metric.measure(spoilt_case(15))
    assert np.isfinite(Deletion(points=5).measure(spoilt_case(0)))


def test_nan_for_changed_images_is_counted_and_spoils_no_mean(
    cli: Cli, data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored, spoilt = Engine.score, []

    def score(self: Engine, count: int, build: Any, target: int, output: Any = "probability") -> Tensor:
        p = scored(self, count, build, target, output).clone()
        if not spoilt:  # the first curve of the first image
            spoilt.append(count)
            p[-1] = torch.nan
        return p

    results = tmp_path / "nan"
    monkeypatch.setattr(Engine, "score", score)
    done = cli(*command(data, results))
    assert done.code == 0
    assert "NaN for changed copies of image 0000-one, counted as a failure: no value of deletion" in done.err
    assert "1 not finite" in done.out
    found, whole = records_of(folder_of(results)), records_of(folder_of(undisturbed))
    assert found[0]["deletion"] is None
    assert found[0]["not_finite"][0] == "deletion"
    assert found[1:] == whole[1:]
    summary = json.loads((folder_of(results) / "summary.json").read_text())
    assert summary["failures"]["not_finite"] == 1
    assert summary["n"] == COUNT
    assert summary["metrics"]["deletion"]["n"] == COUNT - 1
    assert summary["metrics"]["deletion"]["mean"] == pytest.approx(np.mean([r["deletion"] for r in whole[1:]]), abs=1e-12)


def test_numbers_of_a_method_that_are_not_finite_are_no_error(
    cli: Cli, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from baselines.controls import Center
    from suny.explanation import Explanation

    explained = Center.explain

    def explain(*arguments: Any) -> Explanation:
        found = explained(*arguments)
        found.diagnostics = [{"gain": float("nan"), "steps": [1.0, float("inf")], "of": {"x": -float("inf")}}]
        return found

    monkeypatch.setattr(Center, "explain", explain)
    assert cli(*command(data, tmp_path / "r"), "method=center", "dataset.limit=1", "maps=false", "pictures=0").code == 0
    (record,) = records_of(folder_of(tmp_path / "r"))
    kept = {k: record["diagnostics"][k] for k in ("gain", "steps", "of")}
    assert kept == {"gain": None, "steps": [1.0, None], "of": {"x": None}}
