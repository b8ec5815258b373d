"""Help that fits on a screen, and the options that every command has."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import typer

from edgeqkv.backends import TARGETS, backend
from edgeqkv.budget import devices
from edgeqkv.cli import app as cli
from edgeqkv.cli import console

ALL = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@pytest.fixture
def help_of(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str, width: int = 100) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys, "argv", ["edgeqkv", *arguments])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        assert not raised.value.code
        return capsys.readouterr().out

    return call


def test_the_help_of_export_is_one_screen(help_of: Any) -> None:
    shown = help_of("export", "--help")
    assert len(shown.splitlines()) <= 45
    assert max(map(len, shown.splitlines())) <= 100
    for panel in ("Target", "Precision", "Quality", "Output"):
        assert f"─ {panel}" in shown
    for common in ("--target", "--weights", "--calibrate", "--resume", "--out", "--device", "--quiet", "--help-all"):
        assert common in shown
    assert "--image-input" not in shown
    assert all(name in shown for name in TARGETS)


def test_help_all_shows_every_option(help_of: Any) -> None:
    shown = help_of("export", "--help-all")
    assert "─ Encoders" in shown
    assert "─ Rarely needed" in shown
    for param in ALL["export"].params:
        if param.param_type_name == "option":
            assert param.opts[0] in shown
    assert "--image-input" not in help_of("export", "--help")
    words = " ".join(shown.replace("│", " ").split())
    assert "Ethos-U85's int8 is experimental" in words


@pytest.mark.parametrize("name", ALL)
def test_every_command_says_what_it_is_for_at_80_columns(name: str, help_of: Any) -> None:
    shown = help_of(name, "--help", width=80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "--quiet" in shown


def test_quiet_leaves_results_and_errors(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(console, "_quiet", False)
    monkeypatch.setattr(sys, "argv", ["edgeqkv", "devices", "--quiet"])
    with pytest.raises(SystemExit):
        cli.main()
    out, err = capsys.readouterr()
    assert "iphone-15" in out
    assert err == ""
    with console.progress() as on_progress:
        on_progress("verifying", 0.5)
    console.print_note("a remark")
    assert capsys.readouterr() == ("", "")


def test_a_command_that_is_stopped_says_what_it_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(error: BaseException, *arguments: str) -> tuple[int, str]:
        def work(**_: object) -> None:
            with console.says_if_stopped(lambda: "build/phone is as it was"):
                raise error

        monkeypatch.setattr(cli, "app", work)
        monkeypatch.setattr(sys, "argv", ["edgeqkv", *arguments])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        return int(raised.value.code or 0), capsys.readouterr().err

    said = "error: stopped; build/phone is as it was\n"
    assert stopped(KeyboardInterrupt()) == (130, said)
    assert stopped(typer.Abort()) == (130, said)
    assert stopped(SystemExit(143)) == (143, said)


def test_ctrl_c_in_a_command_is_told_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Typer makes an exit code of it on the way."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(console, "_left", None)
    monkeypatch.setattr(devices, "load_catalogue", interrupted)
    monkeypatch.setattr(sys, "argv", ["edgeqkv", "devices"])
    with pytest.raises(SystemExit) as raised:
        cli.main()
    assert raised.value.code == 130
    assert capsys.readouterr().err.strip() == "error: stopped; nothing was written"


def test_an_engine_of_another_machine_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgeqkv.errors import UnsupportedError
    from edgeqkv.run.session import choose_engine

    target = backend("coreml")
    monkeypatch.setattr(type(target), "engines", ("evaluator",))
    monkeypatch.setattr(type(target), "engines_elsewhere", {"coreml": "runs on a Mac only"})
    with pytest.raises(UnsupportedError, match="Core ML's engine 'coreml' runs on a Mac only; here there is evaluator"):
        choose_engine(target, "coreml")
    with pytest.raises(UnsupportedError, match="no engine 'ane'; it has evaluator"):
        choose_engine(target, "ane")
