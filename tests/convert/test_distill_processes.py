"""Distillation in several processes: it computes what one does, and stands what happens to them.

They have the variables that a launcher gives its processes.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from distilling import BATCH, UNEVEN
from launched import Ended, Process, launched

import edgeqkv
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.checkpoints.writing import write
from edgeqkv.convert import processes
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.processes import Alone, joined
from edgeqkv.errors import InputError, MissingExtra

STEPS, KILLED_AT = 6, 3
IMPORTED = ("edgeqkv.convert.distill", "accelerate", "torch.distributed.fsdp")
RESULTS = ("result", "whole", "uneven", "sharded")
TOKENS = np.random.default_rng(0).integers(0, TINY["vocab_size"], 48 * 8)

Numbers = list[torch.Tensor]


def losses(log: Path) -> list[float]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(len(lines)))
    return [line["loss"] for line in lines]


def apart(one: Numbers, other: Numbers) -> float:
    """The largest difference."""
    return max(float((x - y).abs().max()) for x, y in zip(one, other, strict=True))


@dataclass
class Ran:
    """How two processes ended, of the run that was killed and of the one after, and what they made."""

    killed: list[Ended]
    finished: list[Ended]
    left: list[float]
    losses: list[float]
    result: Numbers
    whole: Numbers
    uneven: Numbers
    sharded: Numbers


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("together")
    teacher = edgeqkv.load(write_random_checkpoint(folder / "teacher.pt", "qkv", std=0.2, **TINY))
    write(edgeqkv.convert(teacher, "q-k=v+mqa", tokens=TOKENS), folder / "student.pt")
    np.save(folder / "tokens.npy", TOKENS)
    return folder


@pytest.fixture(scope="module")
def ran(folder: Path) -> Ran:
    pytest.importorskip("accelerate")
    killed, finished = launched(folder, IMPORTED, together(folder, KILLED_AT=str(KILLED_AT)), together(folder))
    numbers = [torch.load(folder / f"{name}.pt", weights_only=True) for name in RESULTS]
    left = losses(folder / "left.jsonl")
    return Ran(killed, finished, left, losses(folder / "log.jsonl"), *numbers)


def together(folder: Path, **variables: str) -> list[Process]:
    return [Process("distilling", [str(folder), str(STEPS)], str(folder), variables)] * 2


def alone(folder: Path, batch: int, processes: Alone, log: Path | None = None) -> Numbers:
    teacher, student = (edgeqkv.load(folder / name) for name in ("teacher.pt", "student.pt"))
    schedule = Schedule(STEPS, batch=batch, rate=3e-3)
    result = distilled(teacher, student, TOKENS, schedule, processes=processes, log=log)
    return [weight.tensor for weight in result.weights]


def test_two_processes_have_the_losses_of_one(ran: Ran, folder: Path, tmp_path: Path) -> None:
    """But for the order in which float32 numbers are summed."""
    numbers = alone(folder, BATCH, Alone(), tmp_path / "log.jsonl")
    assert ran.losses == pytest.approx(losses(tmp_path / "log.jsonl"), rel=1e-5)
    moved = apart(numbers, [weight.tensor for weight in edgeqkv.load(folder / "student.pt").weights])
    assert apart(ran.whole, numbers) < 1e-3 * moved


def test_windows_that_cannot_be_shared_alike_count_alike(ran: Ran, folder: Path) -> None:
    assert UNEVEN % 2 == 1
    numbers = alone(folder, UNEVEN, Alone())
    assert apart(ran.uneven, numbers) < 0.01 * apart(numbers, ran.whole)


def test_two_processes_that_were_killed_go_on_to_the_same_result(ran: Ran) -> None:
    assert len(ran.left) == KILLED_AT
    assert ran.losses[:KILLED_AT] == ran.left
    assert len(ran.losses) == STEPS
    assert apart(ran.result, ran.whole) == 0.0


def test_numbers_that_are_sharded_learn_alike_and_go_on_after_a_stop(ran: Ran, folder: Path) -> None:
    moved = apart(ran.whole, [weight.tensor for weight in edgeqkv.load(folder / "student.pt").weights])
    assert apart(ran.sharded, ran.whole) < 1e-3 * moved


def test_one_that_is_killed_ends_the_other_and_nothing_is_printed(ran: Ran) -> None:
    assert ran.killed == [Ended(-9, "", ""), Ended(3, "", "")]
    assert ran.finished == [Ended(0, "", "")] * 2


def test_one_process_has_the_same_bits_with_accelerate_and_without(folder: Path) -> None:
    pytest.importorskip("accelerate")
    accelerated = joined()
    assert type(accelerated) is not Alone
    assert apart(alone(folder, BATCH, accelerated), alone(folder, BATCH, Alone())) == 0.0


def test_several_processes_need_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    monkeypatch.setattr(processes, "find_spec", lambda _: None)
    assert type(joined()) is Alone
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(MissingExtra, match=r"several processes needs the package 'accelerate'.*edgeqkv\[distill\]"):
        joined()


def test_processes_that_do_not_find_each_other_are_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("accelerate")
    joined()  # which found one
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes were launched, and accelerate finds 1"):
        joined()
