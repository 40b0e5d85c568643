"""Sweeps on a real Slurm of one node: ``make test-slurm``, as root on Debian."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.gates import Gate

pytestmark = pytest.mark.slurm

SCRIPT = Path(__file__).with_name("cluster.sh")
CELL = ("method=suny", "dataset=causal_shapes", "dataset.count=90")
SHARDED = (*CELL, "shards=3", "hydra/launcher=slurm_array")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment of a process that uses the cluster."""
    if os.getuid() != 0:
        pytest.skip("starts Slurm's daemons, which needs root")
    folder = tmp_path_factory.mktemp("cluster")
    try:
        up = subprocess.run([SCRIPT, "up", folder], stdout=subprocess.PIPE, text=True, check=True)
        assert "hello from a Slurm job" in up.stdout
        yield os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    finally:
        subprocess.run([SCRIPT, "down", folder], check=True)


def start(environment: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "run.py"), *arguments]
    return subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def asked(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


def stopped(environment: dict[str, str], results: Path, shard: int, gate: Gate) -> subprocess.Popen[str]:
    """Starts a sweep; returns when one of its jobs stands before the gate, with two images done."""
    own = gate.environment(only=f"SLURM_ARRAY_TASK_ID={shard}")
    process = start(environment | {"PYTHONPATH": own["PYTHONPATH"]}, *SHARDED, f"results_dir={results}")
    assert gate.reached(lambda: process.poll() is None), process.communicate()[1]
    return process


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate", "experiments.store.records:CellFolder.append", passes=2)


def test_a_job_at_its_time_limit_continues(slurm: dict[str, str], tmp_path: Path, gate: Gate) -> None:
    process = stopped(slurm, tmp_path / "r", 0, gate)
    (job,) = [i for i in asked(slurm, "squeue", "--noheader", "--array", "--format=%i").split() if i.endswith("_0")]
    # as Slurm does some time before the limit; scancel, for which the job is gone too soon, would try again for a minute
    with subprocess.Popen(["scancel", "--signal=USR2", job], env=slurm, stderr=subprocess.DEVNULL) as signal:
        while asked(slurm, "squeue", "--noheader", "--format=%T", f"--jobs={job}").strip() != "PENDING":
            assert process.poll() is None, process.communicate()[1]
            time.sleep(0.1)
        signal.kill()
    gate.open()
    asked(slurm, "scontrol", "update", f"jobid={job}", "starttime=now")  # else it waits for two minutes
    out, err = process.communicate()
    assert process.returncode == 0, err
    assert out.count("| suny ") == 1


def test_a_job_that_scancel_kills_is_repaired_by_the_same_command(slurm: dict[str, str], tmp_path: Path, gate: Gate) -> None:
    whole = start(slurm, *CELL, f"results_dir={tmp_path / 'whole'}")
    _, err = whole.communicate()
    assert whole.returncode == 0, err

    process = stopped(slurm, tmp_path / "r", 1, gate)
    (job,) = [i for i in asked(slurm, "squeue", "--noheader", "--array", "--format=%i").split() if i.endswith("_1")]
    asked(slurm, "scancel", job)
    _, err = process.communicate()
    assert process.returncode == 1
    assert "Traceback" not in err
    lines = [line.strip() for line in err.replace("\r", "\n").splitlines()]
    (told,) = [line for line in lines if line.startswith("error: ")]
    assert told.startswith(f"error: job {job} was killed (CANCELLED); its output: ")
    assert told.endswith("the same command continues. [shard.index=1]")
    assert lines[-1] == "failed: shard.index=1"
    done = {f.parent.name: f.read_text().count("\n") for f in (tmp_path / "r").glob("*/*/*/shards/*/records.jsonl")}
    assert done == {"00000-of-00003": 30, "00001-of-00003": 2, "00002-of-00003": 30}

    again = start(slurm, *SHARDED, f"results_dir={tmp_path / 'r'}")
    out, err = again.communicate()
    assert again.returncode == 0, err
    assert out.count("| suny ") == 1
    cells = [card.parent for d in ("whole", "r") for card in (tmp_path / d).glob("*/*/*/card.yaml")]
    assert (cells[0] / "summary.json").read_bytes() == (cells[1] / "summary.json").read_bytes()
    images = [[json.loads(line)["image"] for line in (c / "records.jsonl").read_text().splitlines()] for c in cells]
    assert images[0] == images[1]
    assert len(images[0]) == 90
    assert not (cells[1] / "shards").exists()
