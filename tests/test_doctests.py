"""The examples in docstrings give what they say."""

from __future__ import annotations

import doctest
import shutil
from importlib import import_module
from pathlib import Path

import pytest

import edgeqkv
from edgeqkv import demo

PACKAGE = Path(edgeqkv.__file__).parent


def module_of(file: Path) -> str:
    return ".".join(("edgeqkv", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = sorted(module_of(file) for file in PACKAGE.rglob("*.py") if "\n    >>> " in file.read_text(encoding="utf-8"))
MODULES += ["edgeqkv.model.variants"]

PUBLIC = ("load", "export", "open", "bench", "compare", "budget", "convert")


def results(name: str) -> doctest.TestResults:
    return doctest.testmod(import_module(name), extraglobs={"edgeqkv": edgeqkv})


@pytest.mark.parametrize("name", sorted(set(MODULES)))
def test_examples_give_what_they_say(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(demo.checkpoint_path(), "model.pt")
    shutil.copyfile(demo.teacher_path(), "ordinary.pt")
    shutil.copyfile(demo.tokenizer_path(), "tokenizer.json")
    found = results(name)
    assert found.attempted
    assert not found.failed


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_function_has_an_example(name: str) -> None:
    assert ">>> " in (getattr(edgeqkv, name).__doc__ or "")
