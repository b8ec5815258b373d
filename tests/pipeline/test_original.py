"""Exports of Hugging Face models, proven against the original class."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hugging_face import POSITIONS, SMALL, VOCABULARY, logits, named, original, saved
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

import edgeqkv
from edgeqkv import InputError, VerificationFailed
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.pipeline.original import compare_with_original
from edgeqkv.pipeline.spec import ExportSpec, tokenizer_beside
from edgeqkv.pipeline.verify import verify
from edgeqkv.progress import silent

TOKENS = np.random.default_rng(5).integers(3, VOCABULARY, 40)


@pytest.mark.parametrize(
    "name", ["llama 3 frequencies", "qwen3 biased", "gemma", "granite", "olmo2", "gpt2", "opt", "gemma4 all merged"]
)
def test_an_export_computes_what_the_original_does(name: str, tmp_path: Path) -> None:
    wanted_of, directory = named(name, tmp_path / "model")
    model = edgeqkv.load(directory)
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "out", weights="fp32", chunk=16)
    told = bundle.manifest.model.original
    assert told is not None
    assert told.passed
    assert (told.positions, told.steps, told.compared) == (POSITIONS, POSITIONS + 16, VOCABULARY)
    assert told.engine.endswith(f"({model.source.model_class})")
    session: Any = edgeqkv.open(tmp_path / "out")
    assert session.state_bytes == model.state_bytes(POSITIONS, 4)
    wanted = logits(wanted_of, TOKENS)
    for _ in range(2):
        for start, stop in ((0, 19), (19, 20), (20, 39), (39, 40)):
            assert np.abs(session.feed(TOKENS[start:stop]) - wanted[stop - 1]).max() <= 1e-4
        session.reset()
    assert verify(Bundle(tmp_path / "out"), against=model).passed


def test_a_model_that_is_read_wrongly_is_not_exported(tmp_path: Path) -> None:
    _, directory = named("llama", tmp_path / "model")
    model = edgeqkv.load(directory)
    first, *others = model.network.blocks
    wrong = dataclasses.replace(first, attention=dataclasses.replace(first.attention, scale=0.3))
    broken = dataclasses.replace(model, network=dataclasses.replace(model.network, blocks=(wrong, *others)))
    with pytest.raises(VerificationFailed, match=r"LlamaForCausalLM\) makes of model: logits differ by .* at position"):
        edgeqkv.export(broken, "onnx", out=tmp_path / "out", weights="fp32")
    assert not (tmp_path / "out").exists()


def test_windows_are_passed_in_the_comparison(tmp_path: Path) -> None:
    config = SMALL | {"sliding_window": 90, "max_position_embeddings": 200}
    model = edgeqkv.load(saved(original("mistral", **config), tmp_path / "model"))
    told = compare_with_original(model, silent)
    assert told is not None
    assert told.positions == 106
    windows = [dataclasses.replace(block.attention, window=89) for block in model.network.blocks]
    blocks = tuple(
        dataclasses.replace(block, attention=attention)
        for block, attention in zip(model.network.blocks, windows, strict=True)
    )
    with pytest.raises(VerificationFailed):
        compare_with_original(
            dataclasses.replace(model, network=dataclasses.replace(model.network, blocks=blocks)), silent
        )


def test_a_context_beyond_what_the_model_was_trained_for(tmp_path: Path) -> None:
    wanted_of, directory = named("llama", tmp_path / "model")
    model = edgeqkv.load(directory)
    with pytest.raises(InputError, match=r"64 positions \(--allow-longer goes beyond\); choose 1 to 64"):
        ExportSpec(context=70).resolve(model)
    out = tmp_path / "out"
    edgeqkv.export(model, "onnx", out=out, weights="fp32", context=70, allow_longer=True, chunk=32)
    tokens = np.random.default_rng(6).integers(3, VOCABULARY, 70)
    session: Any = edgeqkv.open(out)
    assert np.abs(session.feed(tokens) - logits(wanted_of, tokens)[-1]).max() <= 1e-4
    assert verify(Bundle(out)).passed
    _, learned = named("gpt2", tmp_path / "gpt2")
    with pytest.raises(InputError, match="learned, so they cannot be extrapolated"):
        ExportSpec(context=70, allow_longer=True).resolve(edgeqkv.load(learned))


def test_computed_positions_are_not_all_taken_by_default(tmp_path: Path) -> None:
    long = saved(original("llama", **SMALL | {"max_position_embeddings": 131072}), tmp_path / "long")
    model = edgeqkv.load(long)
    assert model.config.positions == 131072
    (spec,) = ExportSpec().resolve(model).targets.values()
    assert spec.context == 2048
    (spec,) = ExportSpec(context=100_000).resolve(model).targets.values()
    assert spec.context == 100_000


def test_what_lies_in_the_directory_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, directory = named("llama", tmp_path / "Tiny-1.5B")
    model = edgeqkv.load(directory)
    assert tokenizer_beside(model) is None
    Tokenizer(WordLevel({"a": 0, "b": 1}, unk_token="a")).save(str(directory / "tokenizer.json"))
    assert tokenizer_beside(model) == directory / "tokenizer.json"
    assert ExportSpec().resolve(model).out == Path("build/Tiny-1.5B")
    monkeypatch.chdir(directory)
    assert ExportSpec().resolve(edgeqkv.load(".")).out == Path("build/Tiny-1.5B")


def test_a_budget_of_a_directory(tmp_path: Path) -> None:
    _, directory = named("llama", tmp_path / "model")
    report = edgeqkv.budget(directory)
    assert report.subject == "model"
    assert report.variant == "qkv+gqa2"
    assert report.candidates[0].plan.context == POSITIONS


def test_executorch_computes_the_gelu_that_was_trained(tmp_path: Path) -> None:
    """XNNPACK has the exact one alone, with which this model's logits would be 9e-4 away."""
    wanted_of, directory = named("gemma", tmp_path / "model", num_hidden_layers=1)
    edgeqkv.export(edgeqkv.load(directory), "executorch", out=tmp_path / "out", weights="fp32", verify=False)
    session: Any = edgeqkv.open(tmp_path / "out")
    wanted = logits(wanted_of, TOKENS)
    assert np.abs(session.feed(TOKENS) - wanted[-1]).max() <= 1e-4
