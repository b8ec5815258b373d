"""One of the processes that distil a tiny model together, as tests start them: ``python -m distilling FOLDER STEPS``.

The folder has ``teacher.pt``, ``student.pt`` and ``tokens.npy``. Into it come the run's state and its log, and the
numbers that were learned: ``result.pt`` by this run, ``whole.pt`` by another one that begins anew, and ``uneven.pt`` by
one whose windows the processes cannot share alike, and ``sharded.pt`` by one that was stopped in its midst and whose
numbers are sharded as FSDP does it. With ``KILLED_AT`` in the environment the first process is killed at
that step, as the system would do it, after its state was kept; the log that it left is ``left.jsonl`` afterwards.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

import edgeqkv
from edgeqkv.convert import distill
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.processes import LostProcess, Processes, joined
from edgeqkv.progress import Progress

BATCH, UNEVEN = 4, 3


def sharding(processes: Processes) -> Processes:
    """These processes, sharing the numbers out as accelerate does it for FSDP, which it has for GPUs alone."""

    class Sharding(type(processes)):  # type: ignore[misc]
        def prepared(self, module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> Any:
            from torch.distributed.fsdp import fully_shard

            sharded = fully_shard(module)
            alike = {name: optimizer.defaults[name] for name in ("betas", "weight_decay")}
            return sharded, torch.optim.AdamW(sharded.parameters(), **alike)

    made = Sharding.__new__(Sharding)
    vars(made).update(vars(processes))
    return made


def stopped(_: str, part: float | None = None) -> None:
    """In every process alike."""
    if part == 0.5:
        raise KeyboardInterrupt


def main(folder: Path, steps: int) -> None:
    torch.set_num_threads(1)
    distill._SAVE_SECONDS = 0.0
    killed_at = int(os.environ.get("KILLED_AT", "-1"))
    processes = joined()
    teacher, student = (edgeqkv.load(folder / name) for name in ("teacher.pt", "student.pt"))
    tokens = np.load(folder / "tokens.npy")

    def told(_: str, part: float | None = None) -> None:
        if processes.leads and part is not None and round(part * steps) == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def run(
        name: str,
        batch: int,
        kept: Path | None = None,
        log: Path | None = None,
        processes: Processes = processes,
        on_progress: Progress = told,
    ) -> None:
        schedule = Schedule(steps, batch=batch, rate=3e-3)
        result = distilled(
            teacher, student, tokens, schedule, processes=processes, kept=kept, log=log, on_progress=on_progress
        )
        if processes.leads:
            torch.save([weight.tensor for weight in result.weights], folder / name)

    if processes.leads and (folder / "log.jsonl").exists():
        shutil.copyfile(folder / "log.jsonl", folder / "left.jsonl")
    try:
        run("result.pt", BATCH, folder / "state", folder / "log.jsonl")
    except LostProcess:
        sys.exit(3)
    run("whole.pt", BATCH)
    run("uneven.pt", UNEVEN)
    with suppress(KeyboardInterrupt):
        run("sharded.pt", BATCH, folder / "sharded", processes=sharding(processes), on_progress=stopped)
    run("sharded.pt", BATCH, folder / "sharded", processes=sharding(processes))
    processes.end()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
