"""GPT-2's and OPT's directories, which are read, converted, and written in the format of the paper's checkpoints."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hugging_face import VOCABULARY, logits, named, saved  # which skips where transformers is not installed

import edgeqkv
from edgeqkv import UnsupportedError
from edgeqkv.checkpoints.writing import check_writable, write
from edgeqkv.convert.conversion import candidates
from edgeqkv.reference.outputs import sequence_logits

TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, (6, 40))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("activation", ["gelu_new", "gelu", "relu"])
def test_what_is_written_computes_what_the_original_does(suffix: str, activation: str, tmp_path: Path) -> None:
    model, folder = named("gpt2", tmp_path / "gpt2", activation_function=activation)
    expected = logits(model, TOKENS[0])
    write(edgeqkv.load(folder), tmp_path / f"out{suffix}")
    read = edgeqkv.load(tmp_path / f"out{suffix}")
    assert read.source.format == "language-model"
    assert str(read.variant) == "qkv"
    assert np.abs(sequence_logits(read, TOKENS[0]) - expected).max() <= 1e-5 * np.abs(expected).max()


def test_a_directory_is_converted(tmp_path: Path) -> None:
    _, folder = named("gpt2", tmp_path / "gpt2")
    found = candidates(edgeqkv.load(folder), "q-k=v+gqa2", TOKENS, windows=6)
    for layers, described in (((0, 1), "q-k=v+gqa2"), ((1,), "qkv, 1 of 2 layers q-k=v+gqa2")):
        result = found.taken(layers).model
        write(result, tmp_path / "out.safetensors", overwrite=True)
        read = edgeqkv.load(tmp_path / "out.safetensors")
        assert read.described == described
        assert read.network.blocks[0].mlp.activation == "gelu_tanh"
        expected = sequence_logits(result, TOKENS[0])
        assert np.abs(sequence_logits(read, TOKENS[0]) - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_opt_is_converted_and_shares_what_can_be_shared_exactly(suffix: str, tmp_path: Path) -> None:
    """Values that are a linear map of the keys lose nothing: also with OPT's positions, which start at 2, and relu."""
    model, _ = named("opt", tmp_path / "random")
    for layer in model.model.decoder.layers:
        attention = layer.self_attn
        heads = attention.k_proj.weight.view(attention.num_heads, attention.head_dim, -1)
        maps = torch.randn(attention.num_heads, attention.head_dim, attention.head_dim)
        with torch.no_grad():
            attention.v_proj.weight.copy_((maps @ heads).flatten(0, 1))
    expected = logits(model, TOKENS[0])
    found = candidates(edgeqkv.load(saved(model, tmp_path / "opt")), "q-k=v", TOKENS, windows=6)
    write(found.taken((0, 1)).model, tmp_path / f"out{suffix}")
    read = edgeqkv.load(tmp_path / f"out{suffix}")
    assert str(read.variant) == "q-k=v"
    assert np.abs(sequence_logits(read, TOKENS[0]) - expected).max() <= 1e-4 * np.abs(expected).max()


def test_what_cannot_be_written_is_refused_before_anything_is_computed(tmp_path: Path) -> None:
    _, folder = named("gpt2 untied, odd scale", tmp_path / "gpt2")
    with pytest.raises(UnsupportedError, match="has heads of another size or scale than its width gives"):
        check_writable(edgeqkv.load(folder))
