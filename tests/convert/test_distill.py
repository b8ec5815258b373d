from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import TINY
from divergence import TOKENS, divergence

import edgeqkv
from edgeqkv import InputError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.convert import distill
from edgeqkv.convert.distill import Schedule, distilled
from edgeqkv.convert.student import Student, Teacher
from edgeqkv.model.model import Model

SCHEDULE = Schedule(steps=12, batch=2, rate=3e-3)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Model]:
    path = tmp_path_factory.mktemp("distill") / "model.pt"
    teacher = edgeqkv.load(write_random_checkpoint(path, "qkv", std=0.2, **TINY))
    return teacher, edgeqkv.convert(teacher, "q-k=v+mqa", tokens=TOKENS)


def weights(model: Model) -> list[torch.Tensor]:
    return [weight.tensor for weight in model.weights]


def test_the_student_comes_closer(pair: tuple[Model, Model], tmp_path: Path) -> None:
    teacher, student = pair
    before = divergence(teacher, student)
    closer = distilled(teacher, student, TOKENS, SCHEDULE, log=tmp_path / "log.jsonl")
    assert divergence(teacher, closer) < 0.9 * before
    assert (closer.variant, closer.config) == (student.variant, student.config)
    assert closer.network.head is closer.network.token_table
    assert closer.network.blocks[0].attention.merged
    assert divergence(teacher, student) == before
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(12))
    assert lines[-1]["loss"] < lines[0]["loss"]


def test_a_run_that_was_killed_goes_on_to_the_same_result(
    pair: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "_SAVE_SECONDS", 0.0)
    whole = distilled(*pair, TOKENS, SCHEDULE)
    kept = tmp_path / "kept"

    def killed(stage: str, part: float | None = None) -> None:
        if part == 7 / 12:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distilled(*pair, TOKENS, SCHEDULE, kept=kept, on_progress=killed)
    parts: list[float | None] = []
    resumed = distilled(*pair, TOKENS, SCHEDULE, kept=kept, on_progress=lambda _, part=None: parts.append(part))
    assert parts[0] == 7 / 12
    assert all(torch.equal(one, other) for one, other in zip(weights(resumed), weights(whole), strict=True))
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    again = distilled(*pair, TOKENS, SCHEDULE, kept=kept)
    assert all(torch.equal(one, other) for one, other in zip(weights(again), weights(whole), strict=True))


def test_what_another_run_kept_is_not_taken_up(
    pair: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    kept.write_bytes(b"something else")
    with pytest.raises(InputError, match="kept is of another distillation"):
        distilled(*pair, TOKENS, SCHEDULE, kept=kept)
    assert kept.read_bytes() == b"something else"


def test_all_of_it_is_computed_where_the_tokens_are(pair: tuple[Model, Model]) -> None:
    """Here a device that stands in for others: it computes shapes, and takes no tensors of the CPU's."""
    device = torch.device("meta")
    windows = torch.zeros(2, 48, dtype=torch.int64, device=device)
    for model in pair:
        logits = Student(model).to(device)(windows)
        assert (logits.device, tuple(logits.shape)) == (device, (2, 48, TINY["vocab_size"]))
        assert Teacher(model, device)(windows).device == device


def test_windows_that_are_compared_in_parts_give_the_same(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    schedule = replace(SCHEDULE, batch=3, steps=4)
    whole = distilled(*pair, TOKENS, schedule)
    monkeypatch.setattr(distill, "_LOGITS_AT_ONCE", 48 * TINY["vocab_size"] * 2)
    parts = distilled(*pair, TOKENS, schedule)
    for one, other, before in zip(weights(whole), weights(parts), weights(pair[1]), strict=True):
        assert float((one - other).norm()) <= 0.01 * float((one - before).norm())


def test_a_full_disk_is_said_and_what_was_kept_stays(
    pair: tuple[Model, Model], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distill, "_SAVE_SECONDS", 0.0)
    kept, save, saved = tmp_path / "kept", torch.save, []

    def full(state: object, path: Path) -> None:
        if saved:
            path.write_bytes(b"half of")
            raise RuntimeError("PytorchStreamWriter failed writing file data/5: file write failed\nmore")
        saved.append(state)
        save(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot keep the state .* takes .* kB twice: .* file write failed$"):
        distilled(*pair, TOKENS, SCHEDULE, kept=kept)
    assert list(tmp_path.iterdir()) == [kept]
    assert torch.load(kept, weights_only=True)["done"] == 1


def test_the_rate_rises_and_falls_to_nothing() -> None:
    schedule = Schedule(steps=100, rate=1.0)
    rates = [schedule.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) <= 1.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.01)


def test_too_little_text_is_said(pair: tuple[Model, Model]) -> None:
    with pytest.raises(InputError, match="a text of 96 tokens or more; there are 90"):
        distilled(*pair, TOKENS[:90], SCHEDULE)
    with pytest.raises(InputError, match="0 steps"):
        distilled(*pair, TOKENS, Schedule(steps=0))
