"""Options of the commands that read a checkpoint, and paths that are none."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from conftest import TINY
from typer.testing import CliRunner, Result

from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.cli.app import app
from edgeqkv.errors import EdgeQKVError
from edgeqkv.model.variants import Variant


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def with_averages(tmp_path: Path) -> Path:
    checkpoint, other = (random_checkpoint(Variant.parse("q-k=v"), seed=seed, std=0.2, **TINY) for seed in (0, 1))
    torch.save({**checkpoint, "ema_state_dict": other["model_state_dict"]}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def test_inspect_says_which_weights_were_taken(with_averages: Path) -> None:
    assert "not the averaged ones (ema_state_dict): --ema takes those" in run("inspect", with_averages).stdout
    assert "the averaged weights (ema_state_dict) were taken" in run("inspect", with_averages, "--ema").stdout


def test_averaged_weights_are_exported_and_verified(with_averages: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    exported = run("export", with_averages, "--ema", "--no-verify", "--out", bundle)
    assert "the averaged weights (ema_state_dict) were taken" in exported.stdout
    assert "verified: yes" in run("verify", bundle, "--against", with_averages, "--ema").stdout
    assert run("verify", bundle, "--against", with_averages).exit_code == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
@pytest.mark.parametrize(
    "command",
    [
        ("inspect", "{}"),
        ("export", "{}", "--out", "out"),
        ("budget", "{}"),
        ("export", "model.pt", "--calibrate", "{}"),
        ("export", "model.pt", "--text", "{}"),
        ("export", "model.pt", "--recipe", "{}.yaml"),
        ("budget", "model.pt", "--device", "mine", "--devices", "{}.yaml"),
    ],
)
def test_a_path_that_is_none_is_wrong_input(
    command: tuple[str, ...], with_averages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for pipe in ("pipe", "pipe.yaml"):
        os.mkfifo(pipe)
    for name in ("pipe", "x" * 5000, "model.pt/within"):
        done = run(*(argument.format(name) for argument in command))
        assert isinstance(done.exception, EdgeQKVError), (done.exception, done.output)
        assert "cannot read" in str(done.exception) or "there is no file" in str(done.exception)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.pt", "pipe", "pipe.yaml"]
