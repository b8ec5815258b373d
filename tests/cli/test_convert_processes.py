"""``edgeqkv convert --distill`` in several processes: one of them speaks and writes, and all end together."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from launched import Process, launched
from pages import ROOT, launch

import edgeqkv
from edgeqkv import InputError, demo
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.cli import app as cli
from edgeqkv.convert.distill import Schedule
from edgeqkv.convert.processes import Alone, LostProcess
from edgeqkv.pipeline import distillation
from edgeqkv.pipeline.conversion import ConvertSpec, run_convert
from edgeqkv.pipeline.distillation import Amount, Others, follow, gathered, leading

SIZES = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 1024}
STEPS, LAUNCHED_STEPS = 4, 2
LAUNCHER = "accelerate.commands.launch"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_random_checkpoint(tmp_path / "model.pt", "qkv", std=0.2, **SIZES)
    (tmp_path / "text.txt").write_text(demo.heldout_path().read_text(encoding="utf-8")[:4000], encoding="utf-8")
    (tmp_path / "tokenizer.json").write_bytes(demo.tokenizer_path().read_bytes())
    return tmp_path


def arguments(*more: str, distilled: bool = True) -> list[str]:
    options = "--to q-k=v+mqa --calibrate text.txt --tokenizer tokenizer.json --windows 4 --json"
    amount = ["--distill", str(STEPS)] if distilled else []
    return ["convert", "model.pt", *options.split(), *amount, *more]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def losses(log: Path) -> list[float]:
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(LAUNCHED_STEPS))
    return [line["loss"] for line in lines]


def test_accelerate_launches_two_that_do_what_one_does(folder: Path) -> None:
    """By the documentation's command."""
    pytest.importorskip("accelerate")
    (folder / "model.pt").rename(folder / "ordinary.pt")
    command = shlex.split(launch())
    assert command[:2] == ["accelerate", "launch"]
    # What a configuration of this machine would say, and a port that nobody else has.
    options = f"--num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port {free_port()}"
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *options.split(),
            *command[2:],
            "--windows",
            "4",
            "--json",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)  # by one of them
    assert done.stderr.count("converting 1 layer\n") == 1
    assert done.stderr.count("distilling in 2 processes\n") == 1

    spec = ConvertSpec("q-k=v", folder / "text.txt", folder / "alone.pt", folder / "tokenizer.json", windows=4)
    one = run_convert(edgeqkv.load(folder / "ordinary.pt"), replace(spec, distill=Amount(steps=LAUNCHED_STEPS)))
    assert one.distillation is not None
    logs = {name: folder / f"{name}.pt.distilling.jsonl" for name in ("together", "alone")}
    assert losses(logs["together"]) == pytest.approx(losses(logs["alone"]), 1e-5)
    assert facts["distillation"]["before"] == pytest.approx(one.distillation.before)
    assert facts["distillation"]["after"] == pytest.approx(one.distillation.after, rel=1e-5)
    assert facts["distillation"]["taken"] == one.distillation.taken
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".tensorboard")}
    assert names == {"ordinary.pt", "text.txt", "tokenizer.json"} | {
        f"{name}.pt{end}" for name in logs for end in ("", ".distilling.jsonl")
    }


def test_an_error_of_one_ends_all_and_is_said_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The second process has no files, as on a machine that they were not copied to."""
    pytest.importorskip("accelerate")
    (folder / "elsewhere").mkdir()
    said = arguments("--quiet", "--out", "out.pt")
    two = [Process("edgeqkv", said, str(place)) for place in (folder, folder / "elsewhere")]
    ((leader, other),) = launched(tmp_path_factory.mktemp("launched"), ["edgeqkv.convert.distill", "accelerate"], two)
    assert [leader.code, other.code] == [2, 2]
    assert other.stderr == "error: there is no file model.pt\n"
    assert leader.stderr.startswith("error: another of the 2 processes that distil has ended; what it said before is")
    assert len(leader.stderr.splitlines()) == 1
    assert not (folder / "out.pt").exists()


@dataclass
class Told:
    """Stands in for the first of two processes, or for another one that is given something."""

    given: Any = None
    told: list[Any] = field(default_factory=list)
    count: int = 2

    def from_first(self, value: Any) -> Any:
        self.told.append(value)
        return self.given

    def guarded(self) -> Any:
        return nullcontext()


def test_those_that_wait_are_dismissed_where_the_first_one_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes = Told()
    monkeypatch.setattr(distillation, "joined", lambda: processes)
    with suppress(InputError), gathered():
        raise InputError("the text is too short")
    assert processes.told == [None]
    assert list(tmp_path.iterdir()) == []

    def load() -> Any:
        pytest.fail("nothing is read before the first process has looked at it")

    assert not follow(load, tmp_path / "text.txt", None)


def test_two_do_not_distil_for_the_same_place(tmp_path: Path) -> None:
    others = Others(Alone())
    with (
        leading(others, tmp_path / "out.pt", Schedule(1), 0),
        pytest.raises(InputError, match=r"cannot distil for .*out\.pt: another edgeqkv .* let it finish"),
        leading(others, tmp_path / "out.pt", Schedule(1), 0),
    ):
        pass


@pytest.mark.parametrize("ended", [False, LostProcess("said elsewhere"), SystemExit(143), KeyboardInterrupt()])
def test_what_follows_is_silent(ended: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def follow(*_: Any) -> bool:
        if isinstance(ended, BaseException):
            raise ended
        return ended

    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(distillation, "follow", follow)
    monkeypatch.setattr(sys, "argv", ["edgeqkv", *arguments("--out", "nowhere.pt")])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert exit_.value.code == 2
    assert capfd.readouterr() == ("", "")


def test_nothing_is_done_twice_where_nothing_is_distilled(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setattr(sys, "argv", ["edgeqkv", *arguments("--out", "out.pt", distilled=False)])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code
    assert capfd.readouterr() == ("", "")
    assert not (folder / "out.pt").exists()


@pytest.mark.parametrize("text", ["1X", "-5", "1.5", "M", "1e3", "", "1 M", "²"])
def test_an_amount_that_is_none_is_said(text: str) -> None:
    with pytest.raises(InputError, match=r"is no amount; give steps \(200\), or tokens with K, M or B \(1M\)"):
        Amount.parse(text)


@pytest.mark.parametrize(
    ("text", "steps"), [("200", 200), ("1M", 245), ("8192", 8192), ("4096", 4096), ("4.096K", 1), ("4.097k", 2)]
)
def test_tokens_become_whole_steps_of_eight_windows(text: str, steps: int) -> None:
    assert Amount.parse(text).schedule(1024).steps == steps


def test_amounts_beyond_sense_are_said() -> None:
    for amount, said in (("0", "0 steps"), ("0K", "0 tokens"), ("99999B", "99999000000000 tokens")):
        with pytest.raises(InputError, match=f"{said} of distillation are impossible"):
            Amount.parse(amount).schedule(64)
    with pytest.raises(InputError, match="0 windows a step of distillation are impossible"):
        Amount.parse("1", 0).schedule(64)
