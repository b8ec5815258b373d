"""What swift-transformers reads beside a package."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from tokenizer_files import write_tokenizer

import edgeqkv
from edgeqkv import InputError, demo
from edgeqkv.backends.coreml.runner_files import write_files
from edgeqkv.backends.target import TargetSpec
from edgeqkv.model.model import Model


@pytest.fixture
def model(tmp_path: Path) -> Model:
    loaded = edgeqkv.load(demo.checkpoint_path())
    (tmp_path / "model").mkdir()
    return dataclasses.replace(loaded, source=dataclasses.replace(loaded.source, path=tmp_path / "model"))


def written(model: Model, out: Path, tokenizer: Path | None) -> dict[str, Any]:
    out.mkdir()
    write_files(out, model, TargetSpec(form="swift-transformers", weights="fp16", tokenizer=tokenizer))
    return {path.name: json.loads(path.read_text()) for path in out.iterdir()}


def test_a_model_of_another_format_gets_the_least_that_it_takes(model: Model, tmp_path: Path) -> None:
    assert written(model, tmp_path / "bare", None) == {"config.json": {"model_type": "edgeqkv"}}
    tokenizer = write_tokenizer(tmp_path / "tokenizer.json")
    assert written(model, tmp_path / "out", tokenizer) == {
        "config.json": {"model_type": "edgeqkv"},
        "tokenizer_config.json": {"tokenizer_class": "PreTrainedTokenizerFast"},
    }


def test_a_models_own_files_are_taken(model: Model, tmp_path: Path) -> None:
    folder = model.source.path
    tokenizer = write_tokenizer(folder / "tokenizer.json")
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": 576}')
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"}')
    assert written(model, tmp_path / "out", tokenizer) == {
        "config.json": {"model_type": "llama", "hidden_size": 576},
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"},
    }
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(InputError, match="it holds a list"):
        written(model, tmp_path / "wrong", tokenizer)
