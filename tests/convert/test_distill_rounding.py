"""Distillation for an export that rounds: the student sees the rounding, and learns as if it were not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from divergence import TOKENS, divergence

import edgeqkv
from edgeqkv import InputError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.rounding import Rounding
from edgeqkv.convert.student import Student
from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import sequence_logits

BOTH = Rounding("int4", "int8")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    path = tmp_path_factory.mktemp("rounding") / "model.pt"
    teacher = edgeqkv.load(write_random_checkpoint(path, "qkv", std=0.2, **TINY))
    return teacher, edgeqkv.convert(teacher, "q-k=v", tokens=TOKENS)


@pytest.mark.parametrize(("weights", "state"), [("int4", "int8"), ("int8", "fp32"), ("fp32", "int8")])
def test_the_student_computes_what_an_export_will_store(weights: str, state: str, pair: tuple[Model, Model]) -> None:
    """But for the state's scales, which an export takes of keys and values that the layers before did not round."""
    rounding = Rounding(weights, state)
    student = pair[1]
    stored = rounding.stored(student, TOKENS[:48])
    seen = Student(student, rounding)(torch.from_numpy(TOKENS[:48])[None])[0].detach().numpy()
    expected = sequence_logits(stored, TOKENS[:48])
    moved = np.abs(expected - sequence_logits(student, TOKENS[:48])).max()
    assert np.abs(seen - expected).max() < (0.1 if weights != "fp32" else 0.5) * moved


def test_gradients_pass_the_rounding(pair: tuple[Model, Model]) -> None:
    student = Student(pair[1], BOTH)
    student(torch.from_numpy(TOKENS[:48])[None]).square().sum().backward()
    assert all(float(number.grad.abs().sum()) > 0 for number in student.numbers if number.dim() == 2)


def test_what_learned_with_rounding_is_better_rounded(pair: tuple[Model, Model]) -> None:
    teacher, student = pair
    schedule = Schedule(30, batch=4, rate=3e-3)
    plain = distilled(teacher, student, TOKENS, schedule)
    aware = distilled(teacher, student, TOKENS, replace(schedule, rounding=BOTH))
    before, unaware, after = (divergence(teacher, BOTH.stored(model, TOKENS)) for model in (student, plain, aware))
    assert after < 0.95 * min(before, unaware)
    assert aware.weight_bytes == student.weight_bytes


def test_a_run_for_one_rounding_does_not_go_on_with_another(pair: tuple[Model, Model], tmp_path: Path) -> None:
    schedule = Schedule(1, batch=1)
    distilled(*pair, TOKENS, schedule, kept=tmp_path / "kept")
    with pytest.raises(InputError, match="kept is of another distillation"):
        distilled(*pair, TOKENS, replace(schedule, rounding=BOTH), kept=tmp_path / "kept")


@pytest.mark.parametrize("text", ["", "int3", "int4,int8", "int8-state,int8-state", "int4,", "int4 int8-state", "fp32"])
def test_what_is_no_rounding_is_said(text: str) -> None:
    with pytest.raises(InputError, match=r"is unknown; give int4 or int8 \(weights\), int8-state, or both"):
        Rounding.parse(text)


def test_either_half_may_be_said_alone() -> None:
    assert Rounding.parse("int8-state") == Rounding("fp32", "int8")
    assert Rounding.parse("int8-state,int8") == Rounding("int8", "int8")
