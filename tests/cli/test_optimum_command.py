"""``optimum-cli export edgeqkv``: found by optimum, with the options, messages and exit codes of ``edgeqkv export``."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from hugging_face import named
from tokenizer_files import write_tokenizer
from typer.testing import CliRunner

from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.huggingface.families import FAMILIES
from edgeqkv.checkpoints.huggingface.tasks import original_class
from edgeqkv.cli.app import app
from edgeqkv.errors import CheckpointError

optimum_cli = pytest.importorskip("optimum.commands.optimum_cli", reason="install edgeqkv[huggingface]")


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("optimum") / "smol"
    named("llama tied, one kv head", directory)
    write_tokenizer(directory / "tokenizer.json")
    return directory


@pytest.fixture
def directory(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(template, tmp_path / "smol")


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """Call it as the shell would; its exit code."""
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "edgeqkv", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        optimum_cli.main()
    assert isinstance(end.value.code, int)
    return end.value.code


def test_it_writes_what_edgeqkv_writes(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["-t", "onnx", "--context", "16", "--chunk=8", "--no-verify"]
    assert run(monkeypatch, "--model", directory, *options, "by-optimum") == 0
    said = capsys.readouterr().out
    assert "by-optimum" in said
    assert CliRunner().invoke(app, ["export", str(directory), *options, "--out", "direct"]).exit_code == 0
    one, other = (Bundle(Path(name)).manifest for name in ("by-optimum", "direct"))
    assert (one.targets, one.model) == (other.targets, other.model)


def test_its_help_lists_the_options_of_export(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "--help") == 0
    shown = capsys.readouterr().out
    assert all(flag in shown for flag in ("--model", "--task", "--no-verify", "--max-degradation", "-d NAME", "OUT"))


def test_other_commands_of_optimum_stay_as_they_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["optimum-cli", "export", "--help"])
    with pytest.raises(SystemExit):
        optimum_cli.main()
    assert "edgeqkv" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "smol", "--weights", "int3", "out"), "weights 'int3'"),
        (("--model", "smol", "--context", "many", "out"), "Invalid value for '--context'"),
        (("--model", "absent", "out"), "there is no file absent"),
        (("--model", "smol", "--task", "image-classification", "out"), "is not what edgeqkv exports a Hugging Face"),
        (("--model", "smol", "--task", "frobnication", "out"), "'frobnication' is none that optimum knows"),
    ],
)
def test_what_is_wrong_is_told_as_edgeqkv_tells_it(
    arguments: tuple[str, ...],
    message: str,
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(monkeypatch, *arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (directory.parent / "out").exists()


def test_models_of_other_libraries_are_named(
    directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / "config.json").write_text(json.dumps({"_diffusers_version": "0.1"}))
    assert run(monkeypatch, "--model", directory, "out") == 2
    assert "is a model of the library diffusers" in capsys.readouterr().err


def test_every_familys_original_is_for_text_generation() -> None:
    for kind, family in FAMILIES.items():
        assert original_class(family.model_class, kind).__name__ == family.model_class
    for name in ("LlamaForSequenceClassification", "NoSuchModel"):
        with pytest.raises(CheckpointError, match=name):
            original_class(name)
