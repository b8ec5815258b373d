"""The log of a distillation, as it is after runs that were killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgeqkv import InputError
from edgeqkv.convert.log import Log


@pytest.fixture(autouse=True)
def no_board(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


def record(path: Path, start: int, steps: range) -> None:
    with Log(path, start) as log:
        for step in steps:
            log.record(step, loss=0.5 / (step + 1), rate=1e-4)


def test_a_run_that_goes_on_says_no_step_twice(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    record(path, 0, range(5))
    with path.open("a") as torn:
        torn.write('{"step": 5, "lo')
    record(path, 3, range(3, 7))
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(7))
    assert lines[1] == {"step": 1, "loss": 0.25, "rate": 1e-4}
    record(path, 0, range(1))
    assert len(path.read_text().splitlines()) == 1
    assert [each.name for each in tmp_path.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("text", ["my notes\n", '{"a": 1}\n', "[1]\n"])
def test_another_file_is_not_written_over(text: str, tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match="in the way and no log of a distillation"):
        Log(path, 0)
    assert path.read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_tensorboard_is_told_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    class Writer:
        def __init__(self, folder: str, purge_step: int) -> None:
            told.append((folder, purge_step))

        def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
            told.append((tag, scalar_value, global_step))

        def close(self) -> None:
            told.append("closed")

    module = ModuleType("tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    record(tmp_path / "out.distilling.jsonl", 2, range(2, 3))
    assert told == [
        (str(tmp_path / "out.distilling.tensorboard"), 2),
        ("distillation/loss", 0.5 / 3, 2),
        ("distillation/rate", 1e-4, 2),
        "closed",
    ]


def test_tensorboard_itself_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
    record(tmp_path / "out.distilling.jsonl", 0, range(3))
    (events,) = (tmp_path / "out.distilling.tensorboard").iterdir()
    assert b"distillation/loss" in events.read_bytes()
