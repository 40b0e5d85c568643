"""Cells in shards: a partition, merged to the same bytes; launchers: what one job's death leaves of the others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.utils import get_class
from hypothesis import given
from hypothesis import strategies as st

from experiments.cell.cell import Cell
from experiments.command import progress
from experiments.command.configuration import CONF, Shard, register_launchers
from experiments.jobs.arguments import arguments_of
from experiments.store.records import CellFolder, read_records
from experiments.store.shards import PARTS, merge, recorded
from suny.errors import UserError
from tests.conftest import Cli, only_error

# ten images; a method and metrics that take no time
QUICK = ("method=gradcam", "dataset=causal_shapes", "dataset.count=10")


def cell_of(results: Path) -> Path:
    (card,) = results.glob("*/*/*/card.yaml")
    return card.parent


def left_of(cell: Path) -> dict[str, Any]:
    """What must be the same however a cell was computed: the summary's bytes, and records but for their times."""
    records = [json.loads(line) for line in (cell / "records.jsonl").read_text().splitlines()]
    return {
        "summary": (cell / "summary.json").read_bytes(),
        "records": [{k: v for k, v in r.items() if not k.endswith("seconds")} for r in records],
        "files": sorted(p.name for p in cell.iterdir()),
    }


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The unsharded cell, computed by the first test that asks for it."""
    return [tmp_path_factory.mktemp("whole")]


@pytest.fixture
def unsharded(whole: list[Any], cli: Cli) -> dict[str, Any]:
    if len(whole) == 1:
        assert cli(*QUICK, f"results_dir={whole[0]}").code == 0
        whole.append(left_of(cell_of(whole[0])))
    return whole[1]


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are computed, in their order."""
    done: list[str] = []
    compute: Callable[..., Any] = Cell.record

    def counting(*arguments: Any) -> Any:
        record = compute(*arguments)
        done.append(record["image"])
        return record

    monkeypatch.setattr(Cell, "record", counting)
    return done


# the split


@given(count=st.integers(1, 99), images=st.integers(0, 300))
def test_shards_are_a_partition_of_even_parts(count: int, images: int) -> None:
    shards = [Shard(count=count, index=i) for i in range(count)]
    parts = [[at for at in range(images) if shard.has(at)] for shard in shards]
    assert sorted(at for part in parts for at in part) == list(range(images))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_neighbours_are_in_different_shards() -> None:
    assert [at for at in range(9) if Shard(count=4, index=1).has(at)] == [1, 5]


# the merge


def record(image: str, value: float = 0.0) -> dict[str, Any]:
    return {"image": image, "status": "missing", "label": None, "forwards": 0, "seconds": 0.0, "deletion": value}


def write(folder: Path, *records: dict[str, Any]) -> None:
    with CellFolder.open(folder) as cell:
        for r in records:
            cell.append(r)


def test_an_image_counts_once_wherever_it_is_recorded(tmp_path: Path) -> None:
    write(tmp_path, record("c", 1), record("a", 1))
    write(tmp_path / PARTS / "00000-of-00002", record("a", 2), record("e", 2))
    write(tmp_path / PARTS / "00001-of-00003", record("e", 3), record("b", 3))
    assert [r["image"] for r in read_records(tmp_path)] == ["c", "a", "e", "b"]  # those of the shards follow the cell's own
    with CellFolder.open(tmp_path) as cell:
        assert {i: r["deletion"] for i, r in recorded(cell).items()} == {"a": 1, "b": 3, "c": 1, "e": 2}
        merge(cell, ["a", "b", "c", "d", "e"])
    assert read_records(tmp_path) == [record("a", 1), record("b", 3), record("c", 1), record("e", 2)]
    assert not (tmp_path / PARTS).exists()


@pytest.mark.parametrize("step", ["os.replace", "shutil.rmtree"])
def test_a_crash_in_the_merge_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def crash(*_: object, **__: object) -> None:
        raise SystemExit

    write(tmp_path, record("c"))
    write(tmp_path / PARTS / "00000-of-00002", record("a"))
    write(tmp_path / PARTS / "00001-of-00002", record("b"))
    with monkeypatch.context() as crashing, CellFolder.open(tmp_path) as cell:
        crashing.setattr(step, crash)
        with pytest.raises(SystemExit):
            merge(cell, ["a", "b", "c"])
    for _ in range(2):
        with CellFolder.open(tmp_path) as cell:
            assert sorted(recorded(cell)) == ["a", "b", "c"]
            merge(cell, ["a", "b", "c"])
    assert read_records(tmp_path) == [record("a"), record("b"), record("c")]
    assert not (tmp_path / PARTS).exists()


def test_a_shard_that_is_held_keeps_its_folder(tmp_path: Path) -> None:
    part = tmp_path / PARTS / "00000-of-00001"
    with CellFolder.open(part) as held:
        held.append(record("a"))
        with CellFolder.open(tmp_path) as cell:
            merge(cell, ["a"])
            assert part.is_dir()
            merge(cell, ["a"], own=held)
    assert not (tmp_path / PARTS).exists()
    assert read_records(tmp_path) == [record("a")]


# cells


@pytest.mark.parametrize("count", [3, pytest.param(11, marks=pytest.mark.slow)])  # the last of 11 has no image
def test_shards_give_the_bytes_of_the_unsharded_run(cli: Cli, tmp_path: Path, unsharded: dict[str, Any], count: int) -> None:
    ended = cli(*QUICK, f"shards={count}", f"results_dir={tmp_path}")
    assert ended.code == 0, ended.err
    assert left_of(cell_of(tmp_path)) == unsharded
    assert ended.out.count("results: ") == 1
    assert ended.out.count("| gradcam") == ended.out.count("| method ")  # a line in each table
    again = cli(*QUICK, f"shards={count}", f"results_dir={tmp_path}")
    assert again.code == 0
    assert "img" not in again.err
    assert left_of(cell_of(tmp_path)) == unsharded


def test_shards_may_be_run_one_by_one_in_any_number(
    cli: Cli, tmp_path: Path, unsharded: dict[str, Any], counted: list[str]
) -> None:
    results = f"results_dir={tmp_path}"
    ended = cli(*QUICK, "shard.count=2", "shard.index=1", results)
    assert ended.code == 0
    assert "the shard is complete; 5 of 10 images are recorded" in ended.out
    assert not (cell_of(tmp_path) / "summary.json").exists()
    assert cli(*QUICK, "shard.count=3", "shard.index=0", results).code == 0  # places 0, 3, 6, 9, of which 3 and 9 are done
    assert len(counted) == 7
    assert [r["image"] for r in read_records(cell_of(tmp_path))] == [*sorted(counted[5:]), *sorted(counted[:5])]
    assert cli(*QUICK, results).code == 0
    assert len(counted) == len(set(counted)) == 10
    assert left_of(cell_of(tmp_path)) == unsharded


def test_a_torn_line_of_a_shard(cli: Cli, tmp_path: Path, unsharded: dict[str, Any], counted: list[str]) -> None:
    arguments = (*QUICK, f"results_dir={tmp_path}")
    for index in (0, 1):
        assert cli(*arguments, "shard.count=3", f"shard.index={index}").code == 0
    for index in (0, 1):
        file = cell_of(tmp_path) / PARTS / f"0000{index}-of-00003" / "records.jsonl"
        file.write_bytes(file.read_bytes()[:-9])
    counted.clear()
    assert cli(*arguments, "shards=3").code == 0
    assert len(counted) == 2 + 3
    assert left_of(cell_of(tmp_path)) == unsharded


def test_a_failed_shard_is_told_at_once_and_repaired(
    cli: Cli, tmp_path: Path, unsharded: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    compute: Callable[..., Any] = Cell.record
    ended_before: list[int] = []

    def failing(cell: Any, *arguments: Any) -> Any:
        ended_before.append(cell.run.shard.index)
        if cell.run.shard.index == 1:
            raise UserError("a lack of luck")
        return compute(cell, *arguments)

    arguments = (*QUICK, "shards=3", f"results_dir={tmp_path}")
    with monkeypatch.context() as broken:
        broken.setattr(Cell, "record", failing)
        ended = cli(*arguments)
    assert ended.code == 2
    lines = ended.err.replace("\r", "\n").splitlines()
    told = [line for line in lines if not line.startswith(("note: ", "noted: ")) and "img" not in line]
    incomplete = f"incomplete: 7 of 10 images are recorded: {cell_of(tmp_path)}; the same command continues."
    assert [t.strip() for t in told if t.strip()] == ["error: a lack of luck", incomplete, "failed: shard.index=1"]
    assert ended_before == [0, 0, 0, 0, 1, 2, 2, 2]
    assert cli(*arguments).code == 0
    assert left_of(cell_of(tmp_path)) == unsharded


def test_nobody_computes_what_a_running_shard_computes(cli: Cli, tmp_path: Path) -> None:
    arguments = (*QUICK, f"results_dir={tmp_path}")
    assert cli(*arguments, "shard.count=3", "shard.index=1").code == 0
    part = cell_of(tmp_path) / PARTS / "00001-of-00003"
    with CellFolder.open(part):
        said = f"{part} is being written by process {os.getpid()} on "
        for other in ((), ("shard.count=2", "shard.index=0"), ("shard.count=3", "shard.index=1")):
            assert said in only_error(cli(*arguments, *other))
        assert cli(*arguments, "shard.count=3", "shard.index=0").code == 0
    assert cli(*arguments).code == 0


def test_a_batch_size_is_calibrated_by_the_first_shard(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([5, 6])
    monkeypatch.setattr("suny.classifiers.engine.Engine._calibrated", lambda *_: next(sizes))
    assert cli(*QUICK, "batch_size=auto", "shards=2", f"results_dir={tmp_path}").code == 0
    assert yaml.safe_load((cell_of(tmp_path) / "card.yaml").read_text())["batch_size"] == 5
    assert next(sizes) == 6


# the command line


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("method=suny", "method=suny"),
        ("shards=1 method=suny", "method=suny"),
        ("shards=4 method=a,b", "-m method=a,b shard.count=4 shard.index=range(4)"),
        ("-m shards=2", "-m shard.count=2 shard.index=range(2)"),
        ("hydra/launcher=joblib method=suny", "-m hydra/launcher=joblib method=suny"),
        ("shards=2 hydra/launcher=joblib --cfg job", "hydra/launcher=joblib --cfg job"),
        ("hydra/launcher=basic method=suny", "hydra/launcher=basic method=suny"),
    ],
)
def test_arguments(given: str, taken: str) -> None:
    assert arguments_of(given.split()) == taken.split()


@pytest.mark.parametrize(
    ("arguments", "said"),
    {
        "shards=0": "shards=0: give how many shards a cell is split into",
        "shards=many": "shards=many: give how many shards a cell is split into",
        "shards=2 shard.index=1": "give one of the two",
        "shard=2": "shard=2: give shards=N for N shards",
        "shard.count=2": "give shard.index=0..1 for one of them, or shards=2 for all",
        "shard.count=2 shard.index=2": "index=2 is none of 0..1",
        "shard.counts=2": "unknown key shard.counts. Did you mean 'shard.count'?",
        "hydra/launcher=jobli": "hydra/launcher=jobli is unknown. Did you mean 'joblib'?",
        "hydra/launcher=joblib hydra.launcher.n_jobs=0": "hydra.launcher.n_jobs=0: give how many jobs run at a time",
        "hydra/launcher=joblib hydra.launcher.jobs=2": "unknown key hydra.launcher.jobs",
        "hydra/launcher=joblib hydra.launcher.gpus=x": "hydra.launcher.gpus=x: PyTorch sees 0 here",
        "hydra/launcher=joblib_gpu": "hydra.launcher.gpus=-1: PyTorch sees 0 here",
    }.items(),
)
def test_a_mistake_is_one_line(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, said: str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert said in only_error(cli(*QUICK, *arguments.split(), f"results_dir={tmp_path}"))
    assert not list(tmp_path.glob("*/*/*/card.yaml"))


def test_a_launcher_that_is_not_installed(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = Plugins.instance()
    known = {k: v for k, v in plugins.class_name_to_class.items() if "suny_launchers" not in k}
    monkeypatch.setattr(plugins, "class_name_to_class", known)
    said = only_error(cli(*QUICK, "hydra/launcher=slurm_cpu", f"results_dir={tmp_path}"))
    assert said == 'this hydra/launcher is not installed: pip install -e ".[cluster]".'


def test_no_slurm_here(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    said = only_error(cli(*QUICK, "hydra/launcher=slurm_cpu", "shards=2", f"results_dir={tmp_path}"))
    assert 'Could not detect "srun"' in said


# launchers

LAUNCHERS = sorted(p.stem for folder in ("launchers", "hydra/launcher") for p in (CONF / folder).glob("*.yaml"))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_preset_composes_and_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("submitit.slurm.slurm.SlurmExecutor.affinity", classmethod(lambda _: 1))
    register_launchers()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        params = dict(compose("config", [f"hydra/launcher={name}"], return_hydra_config=True).hydra.launcher)
    launcher = get_class(params.pop("_target_"))(**params)
    if "slurm" in name:
        text = launcher.executor(tmp_path, launcher.params)._executor._make_submission_file_text("run", "0")
        assert "#SBATCH --job-name=suny\n" in text
        assert ("#SBATCH --gpus-per-node=1\n" in text) == (name == "slurm_gpu")
        assert ("#SBATCH --cpus-per-task=1\n" in text) == (name == "slurm_array")
    elif "local" in name:
        keys = {k: v for k, v in launcher.params.items() if k != "n_jobs"}
        assert launcher.executor(tmp_path, keys)._executor.parameters["timeout_min"] == 525600


def test_every_job_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra_plugins.suny_launchers._joblib import _gpus

    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert (_gpus(0), _gpus(2), _gpus(-1)) == ([], ["0", "1"], ["0", "1", "2"])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-1a2b")
    assert _gpus(-1) == ["5", "GPU-1a2b"]
    with pytest.raises(UserError, match="sees 2 here"):
        _gpus(3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1,2")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert _gpus(-1) == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(UserError, match="sees 0 here"):
        _gpus(-1)


# kills the first process in which it explains an image, once
KILLER = """
import os, signal
from pathlib import Path
from baselines.controls import Center
from suny.configured import configured

@configured
class Killer(Center):
    flag: str

    def explain(self, *arguments):
        try:
            Path(self.flag).open("x").close()
        except FileExistsError:
            return super().explain(*arguments)
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_killed_job_ends_no_other(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, launcher: str) -> None:
    (tmp_path / "killer.py").write_text(KILLER)
    (tmp_path / "conf" / "method").mkdir(parents=True)
    conf = (CONF / "method" / "center.yaml").read_text().replace("baselines.controls.Center", "killer.Killer")
    (tmp_path / "conf" / "method" / "killer.yaml").write_text(f"{conf}\nflag: {tmp_path / 'flag'}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    arguments = ("--config-dir", str(tmp_path / "conf"), "method=killer", *QUICK[1:], "shards=2")
    arguments += (f"results_dir={tmp_path / 'r'}",)
    ended = cli("-m", *arguments, f"hydra/launcher={launcher}", "hydra.launcher.n_jobs=2")
    assert ended.code == 1, ended.err
    assert "Traceback" not in ended.err
    (error,) = re.findall(r"error: .*", ended.err)
    how = r"the process was killed \(SIGKILL\(-9\)\)" if launcher == "joblib" else r"job \d+ was killed"
    assert re.match(rf"error: {how}.*the same command continues. \[shard.index=[01]\]", error)
    assert "incomplete: 5 of 10 images are recorded" in ended.err
    assert "2 of 2 jobs ended" in ended.err
    card = yaml.safe_load((cell_of(tmp_path / "r") / "card.yaml").read_text())
    assert card["machine"]["threads"] == max(len(os.sched_getaffinity(0)) // 2, 1)
    assert cli("-m", *arguments).code == 0
    records = read_records(cell_of(tmp_path / "r"))
    assert len(records) == len({r["image"] for r in records}) == 10


# what is shown


def test_jobs_elsewhere_are_one_bar(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [tmp_path / str(i) for i in range(4)]
    try:
        for report, done, total in zip(reports[:2], (4, 0), (10, 20), strict=True):
            progress.enter(report)
            images = progress.ProgressBar("a cell", done, total)
            images.update()
            images.close()
            progress.tell("a line")
            job = progress.current_job()
            assert job is not None
            assert job.lines == ["a line"]
    finally:
        progress.enter(None)
    assert [r.read_text() for r in reports[:2]] == ["4 5 10", "0 1 20"]
    reports[2].write_text("0 ")  # being written
    bar = progress.JobsBar(reports)
    bar.refresh()
    assert (bar._bar.initial, bar._bar.n) == (4, 6)
    assert bar._bar.total == 30 + 2 * 15  # those that have not begun are as large as the others
    bar.end(3)  # had nothing to do
    assert bar._bar.total == 30 + 15
    bar.close()
    assert "1 of 4 jobs ended" in capsys.readouterr().err
