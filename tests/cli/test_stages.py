"""How long a stage has taken, and will."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from rich.console import Console

from edgeqkv.cli import stages
from edgeqkv.cli.stages import Said, Shown


class Clock:
    """A clock that a test turns."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(stages, "time", made)
    return made


def test_a_stage_says_how_long_it_will_take(clock: Clock) -> None:
    said: list[str] = []
    told = Said(said.append)
    told.report("quantizing")
    assert told.where() == ""
    told.report("quantizing", 0.25)
    assert told.where() == "25%"
    clock.now += 10
    told.report("quantizing", 0.5)
    assert told.where() == "50%, 10 s, about 10 s left"
    clock.now += 4  # nothing was heard since: the rest is less by what has passed
    assert told.where() == "50%, 14 s, about 6 s left"
    clock.now += 60
    assert told.where() == "50%, 74 s"
    told.report("verifying ONNX")
    assert told.where() == ""
    clock.now += 3
    assert told.where() == "3 s"
    assert said == ["quantizing", "quantizing: took 74 s", "verifying ONNX"]


def test_a_stage_of_a_moment_is_one_line(clock: Clock) -> None:
    said: list[str] = []
    with Said(said.append) as told:
        told.report("checking the weights")
        clock.now += 1.9
        told.report("quantizing", 0.1)
    assert said == ["checking the weights", "quantizing"]


def test_every_half_a_minute_there_is_a_line(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    told = Said(said.append)
    turns = iter([31.0, 10.0, 25.0])

    def wait(_: float) -> bool:
        passed = next(turns, None)
        clock.now += passed or 0
        return passed is None

    monkeypatch.setattr(told._ended, "wait", wait)
    told.report("tuning", 0.1)
    told._now_and_then()
    assert said == ["tuning", "tuning: 10%, 31 s", "tuning: 10%, 66 s"]


def test_a_terminal_shows_the_stage_and_keeps_a_line_of_long_ones(clock: Clock) -> None:
    terminal = Console(force_terminal=True, width=40, record=True, file=io.StringIO())
    shown = Shown(terminal, str)
    shown.report("verifying ONNX", 0.5)
    clock.now += 8
    assert str(shown.__rich__()).startswith("verifying ONNX  50%, 8 s")
    shown.report("a stage whose name is longer than the whole terminal is wide")
    assert len(str(shown.__rich__())) <= 36
    assert "verifying ONNX  8.0 s" in terminal.export_text()


def test_a_table_that_does_not_fit_is_shown_row_by_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from edgeqkv.cli import console

    def printed(width: int) -> str:
        stream: Any = Console(highlight=False, soft_wrap=True, force_terminal=True, width=width, no_color=True)
        monkeypatch.setattr(console, "_out", stream)
        console.print_table(("recipe", "target", "for", "why"), [("galaxy", "onnx", "a, b", "Because it is so. " * 3)])
        return re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)

    assert printed(100).count("\n") == 2
    wrapped = printed(50)
    assert "recipe" in wrapped
    assert wrapped.count("\n") > 2
    rows = printed(24).splitlines()
    assert "galaxy" in rows[0]
    assert rows[1].split() == ["target", "onnx"]
    assert max(map(len, rows)) <= 24
