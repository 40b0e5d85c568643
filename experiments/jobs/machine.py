"""Measures this process: time, memory, age."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def in_turn(works: Sequence[Callable[[], Any]], device: torch.device, seconds: float, warm: bool = True) -> list[float]:
    """Seconds of one call of each, timed in turn for so many seconds each; where ``warm``, after an untimed call."""
    spent, rounds = [0.0] * len(works), 0
    for work in works if warm else ():
        work()
    while sum(spent) < seconds * len(works):
        for at, work in enumerate(works):
            spent[at] += timed(work, device)
        rounds += 1
    return [s / rounds for s in spent]


def timed(work: Callable[[], Any], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def forget_peak(device: torch.device) -> None:
    """Begins a new measurement of the peak; that of a process begins anew on Linux only, elsewhere it is since its start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> float:
    """The peak of the GPU's tensors, or of the process, bytes."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    known = _status("VmHWM")
    return known if known is not None else 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def held_memory(device: torch.device) -> float:
    """Bytes that the GPU's tensors hold now, or the process (its peak where the system is not Linux)."""
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    known = _status("VmRSS")
    return known if known is not None else peak_memory(device)


def process_age() -> float:
    """Seconds since this process was started, its imports included; 0 where the system does not say."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")  # after boot
        return time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0


def _status(key: str) -> float | None:
    """A figure of /proc/self/status in bytes."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))
    except (OSError, StopIteration, ValueError):
        return None
