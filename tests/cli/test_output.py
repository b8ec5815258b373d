"""What is printed, wherever it goes and whatever is in it; and wrong usage."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from edgeqkv.cli import app as cli
from edgeqkv.cli import console
from edgeqkv.errors import InputError

NASTY = "a[red]b[/]c\x1b[31md\x07\u202ee\udce9f\tg\nh"
PLAIN = r"a[red]b[/]c\x1b[31md\x07\u202ee\udce9f\tg\nh"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["edgeqkv", *arguments])
        with pytest.raises(SystemExit) as raised:
            cli.main()
        out, err = capsys.readouterr()
        return int(raised.value.code or 0), out, err

    return call


# --- wrong usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["export", "m.pt", "--fast"], "No such option: --fast"),
        (["export"], "Missing argument 'MODEL'"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["generate", "b", "--prompt", "x", "--seed", "many"], "Invalid value for '--seed'"),
        (["generate", "b", "--prompt", "x", "--seed", "1" + "0" * 5000], "Invalid value for '--seed'"),
        (["generate", "b", "--prompt"], "Option '--prompt' requires an argument"),
        (["budget", "m.pt", "--context", "1.5"], "Invalid value for '--context'"),
        (["inspect", "a", "b"], "Got unexpected extra argument"),
        (["generate", "b", "--prompt", "x", "--seed", "-1"], "seed -1 is impossible; choose 0 to 18446744073709551615"),
        (["generate", "b", "--prompt", "x", "--temperature", "nan"], "temperature nan is impossible; choose 0 or more"),
        (["generate", "b", "--prompt", "x", "--top-k", "-1"], "top-k -1 is impossible"),
        (["generate", "b", "--prompt", "x", "--top-p", "0"], "top-p 0 is impossible; choose above 0 to 1"),
        (["generate", "b", "--prompt", "x", "--max-tokens", "0"], "0 tokens cannot be generated; choose 1 or more"),
        (["bench", "b", "--repeats", "1000000000"], "repeats 1000000000 is impossible; choose 1 to 10000"),
        (["inspect", "m.pt", "--heads", "0"], "0 attention heads are impossible"),
        (["verify", "b", "--max-degradation", "nan"], "--max-degradation nan is impossible"),
        (["inspect", NASTY], "there is no file a[red]b[/]c\\x1b[31md\\x07\\u202ee\\udce9f g h"),
        (["inspect", "x" * 120 + "[/red]"], "x[/red]"),
    ],
)
def test_it_is_one_line_or_one_document(
    arguments: list[str], message: str, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert message in err
    assert err.rstrip("\n").isprintable()
    code, out, again = run(*arguments, "--json")
    assert code == 2
    assert again == err or "requires an argument" in message  # which --json then is
    said = json.loads(out)["error"]
    assert said.keys() == {"type", "message"}
    assert list(tmp_path.iterdir()) == []


def test_without_a_command_there_is_help_once(run: Any) -> None:
    code, out, err = run()
    assert code == 2
    assert (out + err).count("Usage:") == 1


def test_errors_of_the_system_are_told(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(error: BaseException) -> Any:
        monkeypatch.setattr(cli, "app", lambda **_: (_ for _ in ()).throw(error))
        return run("recipes", "--json")

    code, out, err = fail(OSError(28, "No space left on device", "b/model.onnx"))
    assert (code, err) == (2, "error: cannot use b/model.onnx: No space left on device\n")
    assert json.loads(out)["error"]["type"] == "OSError"
    code, _, err = fail(MemoryError())
    assert (code, err.count("\n")) == (2, 1)
    assert "not enough memory" in err


# --- what is in it


def test_what_is_anybodys_is_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_facts(NASTY, [(NASTY, NASTY)])
    console.print_table(["x"], [[NASTY]])
    console.print_note(NASTY)
    console.print_error(InputError(NASTY))
    out, err = capsys.readouterr()
    assert out == f"{PLAIN}\n{PLAIN}: {PLAIN}\nx\n{PLAIN}\n"
    # What an error has in several lines is one.
    assert err == f"{PLAIN}\nerror: {PLAIN.replace(chr(92) + 't', ' ').replace(chr(92) + 'n', ' ')}\n"


def test_on_a_terminal_too(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("_out", "_err"):
        stream = Console(stderr=name == "_err", highlight=False, soft_wrap=True, force_terminal=True, width=400)
        monkeypatch.setattr(console, name, stream)
    console.print_facts(NASTY, [(NASTY, NASTY)])
    console.print_table([NASTY], [[NASTY]])
    console.print_note(NASTY)
    console.print_error(InputError(NASTY))
    console.print_stream(["a\x1b]0;title\x07", "b\tc\nd\u202e"])
    with console.progress() as on_progress:
        on_progress(NASTY, 0.5)
    out, err = capsys.readouterr()
    assert out.count(PLAIN) == 5
    assert "\x1b[31md" not in out + err
    assert "\x07" not in out + err
    assert "[red]b[/]" in out
    assert "[red]b[/]" in err
    assert r"a\x1b]0;title\x07b" + "\tc\nd" + r"\u202e" in out


def test_a_pipe_gets_a_generated_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_stream(["a\x1b[31m", "\tb\r\n"])
    assert capsys.readouterr().out == "a\x1b[31m\tb\r\n\n"


def test_json_is_valid_whatever_a_file_had_in_it(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    console.print_json(
        {
            "nan": math.nan,
            "inf": [math.inf, -math.inf, (1.5, np.float64("nan"))],
            "big": 10**5000,
            "set": {1},
            "path": Path("a"),
            7: "key",
            (1, 2): None,
            "array": np.float32(2),
            "half": "\udce9",
            "yes": True,
        }
    )
    read = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert (read["nan"], read["inf"]) == (None, [None, None, [1.5, None]])
    assert read["big"] == hex(10**5000)
    assert (read["set"], read["path"], read["7"], read["(1, 2)"]) == ([1], "a", "key", None)
    assert read["yes"] is True


# --- where it goes


def process(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = shell.replace("edgeqkv", f"'{sys.executable}' -W error -m edgeqkv")
    return subprocess.run(["bash", "-c", command], env={**os.environ, **environment}, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("shell", "code", "said"),
    [
        ("edgeqkv recipes > /dev/full", 2, b"error: cannot write to standard output: No space left on device\n"),
        (
            "edgeqkv devices x --json > /dev/full",
            2,
            b"error: cannot write to standard output: No space left on device\n",
        ),
        ("edgeqkv devices x 2> /dev/full", 2, b""),
        ("edgeqkv recipes > /dev/null 2>&-", 0, b""),
        ("edgeqkv recipes >&-", 0, b""),
        ("edgeqkv recipes --json | head -c 1; exit ${PIPESTATUS[0]}", 0, b""),
    ],
)
def test_streams_that_take_nothing(shell: str, code: int, said: bytes) -> None:
    done = process(shell)
    assert done.returncode == code
    assert done.stderr.endswith(said)
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_encodings_that_lack_characters(encoding: str) -> None:
    done = process("edgeqkv devices $'caf\\xe9\u6f22'; edgeqkv --help", PYTHONIOENCODING=encoding)
    assert rb"error: unknown device 'caf\udce9" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert b"Usage: " in done.stdout
