"""Thread pools: asleep while they wait, one thread for small dense algebra, and so the same numbers with any number of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from suny import threads
from suny.threads import one_thread

# What a fresh process does (pools take their size and policy when their library is loaded): it looks at the pools where a
# library is called, and prints them with a digest of what was found.
PROGRAM = """
import hashlib, json, os, sys
import numpy as np
from suny.method import candidates, field
from suny.games import values
import torch
from threadpoolctl import threadpool_info
from baselines.eigencam import EigenCam
from metrics import statistics

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
told = {"policy": os.environ["OMP_WAIT_POLICY"]}

def watched(name, owner, called, work):
    real, seen = getattr(owner, called), []
    def watching(*arguments, **keys):
        pools = [[pool["user_api"], pool["num_threads"]] for pool in threadpool_info()]
        seen.extend([*pools, ["torch", torch.get_num_threads()]])
        return real(*arguments, **keys)
    setattr(owner, called, watching)
    found = b"".join(np.ascontiguousarray(x).tobytes() for x in work())
    setattr(owner, called, real)
    told[name] = {"seen": seen, "digest": hashlib.sha256(found).hexdigest(), "after": torch.get_num_threads()}

def fit():
    rows, q = field.draw_coalitions(10, 3, 240, np.random.default_rng(0))
    noise = 0.05 * np.random.default_rng(1).normal(size=240)
    trend = np.stack([np.ones_like(q), q, q * q], 1)
    found = field.fit_fields(rows, rows[:, :20].mean(1) + noise, trend, field.nearness(10), q**2)
    return found.drawn([0])

draws, table = np.random.default_rng(0), np.random.default_rng(0).uniform(size=2**16)
activation = torch.rand(96, 9, 9, generator=torch.Generator().manual_seed(0)) ** 8
watched("fit", np.linalg, "eigh", fit)
# the first call imports what it needs, and limits that too
watched("first", np.linalg, "norm", lambda: [candidates.group_channels(activation, activation, 6, "kmeans")])
from sklearn.cluster import KMeans
from sklearn.decomposition import NMF
watched("nmf", NMF, "fit_transform", lambda: [candidates.group_channels(activation, activation, 6, "nmf")])
watched("kmeans", KMeans, "fit_predict", lambda: [candidates.group_channels(activation, activation, 6, "kmeans")])
watched("eigencam", torch.linalg, "svd", lambda: [EigenCam()._project(activation)])
watched("band", np, "quantile", lambda: statistics.mean_band(draws.uniform(size=(300, 225))))
# differences so many that OpenBLAS would share their sums among threads
watched("semivalues", values, "comb", lambda: [values.semivalues(table)])
watched("interactions", values, "factorial", lambda: [values.interactions(table)])
print(json.dumps(told))
"""


def run(program: str, count: int) -> Any:
    """What a program says, started with so many threads."""
    ours = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in ours} | {"OMP_NUM_THREADS": str(count)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


@pytest.mark.slow
def test_dense_algebra_has_one_thread_and_the_same_bits() -> None:
    alone, several = (run(PROGRAM, count) for count in (1, 2))
    assert alone.pop("policy") == several.pop("policy") == "PASSIVE"  # torch was imported after it was set
    assert several.keys() == {"fit", "first", "nmf", "kmeans", "eigencam", "band", "semivalues", "interactions"}
    for name, told in several.items():
        assert {kind for kind, _ in told["seen"]} == {"blas", "openmp", "torch"}, name
        assert {count for _, count in told["seen"]} == {1}, name
        assert told["after"] == 2, name  # the network gets its threads back
    assert {name: told["digest"] for name, told in alone.items()} == {name: told["digest"] for name, told in several.items()}


def test_the_threads_come_back_after_an_error() -> None:
    def told() -> list[int]:
        return [pool["num_threads"] for pool in threadpool_info()]

    @one_thread
    def fails() -> None:
        assert set(told()) == {1}
        raise ValueError("of the work")

    before, own = told(), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        with pytest.raises(ValueError, match="of the work"):
            fails()
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(own)
    assert told() == before


def test_a_library_that_is_imported_later_is_limited_too() -> None:
    program = """
import importlib.util, json, numpy
from threadpoolctl import threadpool_info
spec = importlib.util.spec_from_file_location("alone", PATH)  # the package imports all of them
threads = importlib.util.module_from_spec(spec)
spec.loader.exec_module(threads)
told = threads.one_thread(lambda: [pool["num_threads"] for pool in threadpool_info()])
early = told()
import scipy.linalg, sklearn.cluster
print(json.dumps([early, told()]))
"""
    early, late = run(program.replace("PATH", repr(threads.__file__)), 2)
    assert len(late) > len(early) > 0
    assert {*early, *late} == {1}


@pytest.mark.parametrize(
    ("already", "given", "expected"), [((), None, "PASSIVE"), ((), "ACTIVE", "ACTIVE"), (("torch",), None, None)]
)
def test_threads_of_openmp_sleep_while_they_wait(
    monkeypatch: pytest.MonkeyPatch, already: tuple[str, ...], given: str | None, expected: str | None
) -> None:
    """Unless the user has said otherwise, or it is too late to be read."""
    monkeypatch.setenv("OMP_WAIT_POLICY", "")  # what stands there is put back afterwards
    del os.environ["OMP_WAIT_POLICY"]
    if given:
        os.environ["OMP_WAIT_POLICY"] = given
    monkeypatch.setattr(sys, "modules", dict.fromkeys(already))
    threads.install()
    assert os.environ.get("OMP_WAIT_POLICY") == expected
