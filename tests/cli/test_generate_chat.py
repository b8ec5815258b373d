"""``generate --chat``: the template travels in the bundle, and the answer ends where the model ends it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DATA
from tokenizer_files import added_token, write_tokenizer
from typer.testing import CliRunner, Result

import edgeqkv
from edgeqkv import BundleError
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import ChatCard
from edgeqkv.cli.app import app
from edgeqkv.run.generate import Generation
from edgeqkv.run.session import Session

TEMPLATE = "{{ bos_token }}{% for message in messages %}ab{{ message.content }} {% endfor %}"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A tokenizer, and beside it what chat takes."""
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token": "<s>", "eos_token": "</s>"}')
    return write_tokenizer(tmp_path / "tokenizer.json", added_tokens=[added_token(4, "<s>"), added_token(5, "</s>")])


@pytest.fixture
def bundle(tmp_path: Path, source: Path) -> Bundle:
    model = edgeqkv.load(DATA / "k_eq_v_gqa.pt")
    return edgeqkv.export(model, "onnx", out=tmp_path / "bundle", context=32, tokenizer=source, verify=False)


def test_the_bundle_lists_what_chat_takes(bundle: Bundle) -> None:
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= set(bundle.manifest.files)
    (bundle.path / "chat_template.jinja").write_text("another")
    with pytest.raises(BundleError, match=r"'chat_template\.jinja' in .* is not the file that was exported"):
        Bundle(bundle.path)


def test_the_manifest_has_the_template_taken_apart(bundle: Bundle) -> None:
    assert bundle.manifest.tokenizer is not None
    assert bundle.manifest.tokenizer.chat == ChatCard(
        first="<s>ab",
        answered=" ab",
        next=" ab",
        answer=" ",
        trimmed=False,
        system=ChatCard.System(before="<s>ab", after=" ab"),
    )


def test_a_template_that_nobody_listed_is_not_read(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    del manifest["files"]["chat_template.jinja"]
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"'chat_template\.jinja' in .* is used, and the manifest does not list it"):
        Bundle(bundle.path)


def test_the_answer_follows_the_template_and_stops_at_an_end(bundle: Bundle) -> None:
    session = edgeqkv.open(bundle.path)
    assert isinstance(session, Session)
    follows = list(Generation(session, [4, 2, 2, 0, 3], max_tokens=8))
    told = json.loads(run("generate", bundle.path, "--chat", "-p", "aba", "-n", 8, "--json").stdout)
    assert (told["prompt"], told["tokens"]) == ("aba", follows)
    ended = run("generate", bundle.path, "--chat", "-p", "aba", "--eos", follows[2], "--json")
    first = follows.index(follows[2])
    assert (json.loads(ended.stdout)["tokens"], json.loads(ended.stdout)["stopped"]) == (follows[:first], "end_of_text")


def test_the_prompt_is_not_repeated_before_an_answer(bundle: Bundle) -> None:
    plain, chat = (run("generate", bundle.path, *words, "-p", "aba", "-n", 1).stdout for words in ([], ["--chat"]))
    assert plain.startswith("aba")
    assert not chat.startswith("aba")


def test_no_chat_without_a_template(tmp_path: Path, source: Path) -> None:
    (tmp_path / "chat_template.jinja").unlink()
    model = edgeqkv.load(DATA / "k_eq_v_gqa.pt")
    edgeqkv.export(model, "onnx", out=tmp_path / "bundle", context=32, tokenizer=source, verify=False)
    result = run("generate", tmp_path / "bundle", "--chat", "-p", "a")
    assert result.exit_code != 0
    assert "there is no chat template beside" in str(result.exception or result.output)
