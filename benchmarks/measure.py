"""What the benchmarks share: a process's time and peak memory, the machine, and where results go."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import psutil

from edgeqkv.checkpoints.synthetic import SCALES, write_random_checkpoint

__all__ = ["RESULTS", "Usage", "checkpoint", "machine", "run", "save"]

RESULTS = Path(__file__).parent / "results"
_CACHE = Path(tempfile.gettempdir()) / "edgeqkv-benchmarks"


@dataclass(frozen=True)
class Usage:
    """What a command took.

    Attributes:
        seconds: wall time.
        cpu_seconds: of it and its descendants, in user mode and in the system.
        process_bytes: peak resident memory of the largest of its processes, mapped files included.
        tree_bytes: peak of the sum over its processes, sampled; shared pages count in each.
        output: what it printed.
    """

    seconds: float
    cpu_seconds: float
    process_bytes: int
    tree_bytes: int
    output: str


def run(command: Sequence[str], every: float = 0.01) -> Usage:
    """Run a command to its end, looking at its processes ``every`` so many seconds; raises if it fails."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output)
        tree = 0
        while (done := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            tree = max(tree, _resident(process.pid))
            time.sleep(every)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(done[1])
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    cpu = done[2].ru_utime + done[2].ru_stime
    # Linux counts in KiB, and this is the largest of the process and its descendants.
    return Usage(seconds, cpu, done[2].ru_maxrss * 1024, tree, printed)


def _resident(pid: int) -> int:
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            total += process.memory_info().rss
    except psutil.NoSuchProcess:  # it ended in between
        pass
    return total


def checkpoint(scale: str, variant: str, **sizes: int) -> Path:
    """A random checkpoint of one of the paper's sizes, as a training run leaves it; made once and kept.

    ``sizes`` are those that are to be others.
    """
    names = "".join(f"-{name}-{size}" for name, size in sizes.items())
    path = _CACHE / f"{scale}-{variant}{names}.pt"
    if not path.exists():
        _CACHE.mkdir(exist_ok=True)
        partial = path.with_suffix(".partial")
        # In a process of its own: the system counts what this one once took to the processes that it starts later.
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            given = {"optimizer": not sizes, "masks": not sizes, "ddp": True, **SCALES[scale], **sizes}
            pool.submit(write_random_checkpoint, partial, variant, **given).result()
        partial.rename(path)
    return path


def machine() -> dict[str, Any]:
    """The machine, in words that do not say whose it is."""
    names = [line.partition(":")[2].strip() for line in _cpuinfo() if line.startswith("model name")]
    return {
        "cpu": names[0] if names else "unknown",
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
    }


def _cpuinfo() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def save(name: str, results: Any) -> None:
    """Write results as ``benchmarks/results/NAME.json``, with the machine they come from."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), "results": results}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n")
