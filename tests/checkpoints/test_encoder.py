"""Reading encoders: every variant, what a file says wrongly, and what it does not say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ENCODERS, EncoderGolden, read_encoder_golden
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeqkv
from edgeqkv import checkpoints
from edgeqkv.checkpoints.architectures import encoder
from edgeqkv.checkpoints.architectures.encoder import _folded
from edgeqkv.checkpoints.synthetic_encoders import random_set_model, write_random_vit
from edgeqkv.errors import CheckpointError, InputError
from edgeqkv.model.layers import Linear
from edgeqkv.model.model import Features, Image, Model, Tokens
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import Weight

SMALL_VIT = {"image_size": 12, "channels": 3, "patch": 4, "n_classes": 7, "n_embd": 32, "n_layer": 2, "n_head": 4}


def load(path: Path, **options: Any) -> Model:
    model = edgeqkv.load(path, **options)
    assert not model.causal
    return model


def rewritten(golden: EncoderGolden, folder: Path, **changes: Any) -> Path:
    """The checkpoint with entries of its dict, or of its config, changed; None removes one."""
    contents = torch.load(golden.path, weights_only=True)
    for name, value in changes.items():
        holder = contents["config"] if name in contents["config"] and name != "variant" else contents
        if value is None:
            del holder[name]
        else:
            holder[name] = value
    torch.save(contents, folder / "changed.pt")
    return folder / "changed.pt"


def test_every_variant_is_told_by_its_weights(encoder_golden: EncoderGolden) -> None:
    model = load(encoder_golden.path)
    assert str(model.variant) == encoder_golden.variant
    assert model.source.training["test_accuracy"] > 0.9
    for block in model.network.blocks:
        attention = block.attention
        assert (attention.k is attention.v) == (model.variant.sharing.tensors == 1)
        assert (attention.q is attention.k) == model.variant.sharing.ties_queries
        assert (attention.term is not None) == model.variant.position_2d


def test_a_shared_projection_is_one_fewer() -> None:
    projections = 2 * (48 * 48 + 48)  # of two layers
    reverse = {
        variant: load(read_encoder_golden(name).path).parameters
        for name, variant in ENCODERS.items()
        if name.startswith("encoder")
    }
    assert reverse["qkv"] - reverse["q-k=v"] == projections
    assert reverse["qkv"] - reverse["q=k-v"] == projections
    assert reverse["qkv"] - reverse["q=k=v"] == 2 * projections
    assert reverse["qvv3"] == reverse["q-k=v"]  # folded
    assert reverse["q=k=v+2d"] - reverse["q=k=v"] == 2 * 16 * 16  # the constant of each layer


def test_inputs_and_outputs() -> None:
    tokens = load(read_encoder_golden("encoder_reverse_qkv").path).config
    assert tokens.input == Tokens(vocab_size=10, length=16, longest=24)
    assert tokens.output_shape == (16, 10)
    image = load(read_encoder_golden("vit_digits_qkv").path).config
    assert image.input == Image(channels=1, size=8, patch=3)
    assert image.tokens == 1 + 3 * 3  # 8 pixels are padded to three patches of 3
    assert image.output_shape == (10,)


def test_a_set_model(tmp_path: Path) -> None:
    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 2}
    torch.save(random_set_model(Variant.parse("q-k=v+2d"), **sizes), tmp_path / "set.pt")
    config = load(tmp_path / "set.pt").config
    assert config.input == Features(length=10, size=512)
    assert config.output_shape == (10,)


def test_the_authors_normalization_is_known(tmp_path: Path) -> None:
    golden = read_encoder_golden("vit_digits_qkv")
    assert load(rewritten(golden, tmp_path, task="vision-mnist")).config.input == Image(
        1, 8, 3, mean=(0.1307,), std=(0.3081,)
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 24), st.integers(1, 24), st.booleans(), st.booleans(), st.integers(0, 2**31))
def test_two_query_matrices_fold_into_one(width: int, inner: int, first: bool, second: bool, seed: int) -> None:
    torch.manual_seed(seed)

    def linear(rows: int, columns: int, biased: bool) -> Linear:
        weight = Weight("w", torch.randn(rows, columns))
        return Linear(weight, Weight("b", torch.randn(rows)) if biased else None)

    a, b = linear(inner, width, first), linear(width, inner, second)
    one, x = _folded(a, b), torch.randn(3, width, dtype=torch.float64)

    def apply(layer: Linear, x: torch.Tensor) -> torch.Tensor:
        y = x @ layer.weight.tensor.double().T
        return y if layer.bias is None else y + layer.bias.tensor.double()

    # Of the fold, only the rounding of each number to float32 is left: 6e-8 of it, over at most 24 products.
    assert torch.allclose(apply(one, x), apply(b, apply(a, x)), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variant": "Q=K=V"}, "calls itself Q=K=V, and its weights are those of qkv"),
        ({"variant": "new"}, "calls itself new"),
        ({"model": "Mixer"}, "holds a model 'Mixer'; edgeqkv knows Encoder"),
        ({"n_head": 5}, "5 heads do not divide 48 channels"),
        ({"n_head": 0}, "'n_head' in the config of .* is 0, not a size"),
        ({"n_layer": 1}, "tensors that this architecture does not have: blocks.1"),
        ({"n_layer": 3}, "'blocks.2.mlp.0.weight' is missing"),
        ({"seq_len": 30}, "seq_len 30 .* is above its max_len 24"),
        ({"seq_len": None}, "'seq_len' is missing from the config"),
        ({"config": [1]}, "'config' in .* is a list, not a dict"),
    ],
)
def test_what_contradicts_itself(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    changed = rewritten(read_encoder_golden("encoder_reverse_qkv"), tmp_path, **changes)
    with pytest.raises(CheckpointError, match=message):
        edgeqkv.load(changed)


def test_a_position_term_for_fewer_tokens(tmp_path: Path) -> None:
    contents = torch.load(read_encoder_golden("encoder_reverse_q_eq_k_eq_v_2d").path, weights_only=True)
    state = contents["model_state_dict"]
    state["blocks.0.attn.pos2d"] = state["blocks.0.attn.pos2d"][:8, :8].clone()
    torch.save(contents, tmp_path / "short.pt")
    with pytest.raises(CheckpointError, match=r"'blocks\.0\.attn\.pos2d' .* is for 8 tokens, and the model has 16"):
        edgeqkv.load(tmp_path / "short.pt")


def test_layers_that_disagree(tmp_path: Path) -> None:
    contents = torch.load(read_encoder_golden("encoder_reverse_qkv").path, weights_only=True)
    other = torch.load(read_encoder_golden("encoder_reverse_q_ne_k_eq_v").path, weights_only=True)["model_state_dict"]
    state = {k: v for k, v in contents["model_state_dict"].items() if not k.startswith("blocks.1.attn")}
    contents["model_state_dict"] = state | {k: v for k, v in other.items() if k.startswith("blocks.1.attn")}
    torch.save(contents, tmp_path / "mixed.pt")
    with pytest.raises(CheckpointError, match=r"layer 1 of .* is q-k=v, layer 0 is qkv"):
        edgeqkv.load(tmp_path / "mixed.pt")


def test_a_file_without_config_asks_for_the_heads(tmp_path: Path) -> None:
    path = write_random_vit(tmp_path / "vit.pt", "q-k=v", config=False, **SMALL_VIT)
    with pytest.raises(
        CheckpointError, match=r"Its shapes say: 2 layers, 32 channels, patches of 4 pixels.* --heads N"
    ):
        edgeqkv.load(path)
    with pytest.raises(CheckpointError, match="3 heads do not divide 32 channels"):
        edgeqkv.load(path, heads=3)
    model = load(path, heads=4)
    whole = load(write_random_vit(tmp_path / "whole.pt", "q-k=v", **SMALL_VIT))
    assert model.config.input == Image(3, 12, 4, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (model.variant, model.parameters) == (whole.variant, whole.parameters)
    assert "4 heads were told" in model.notes[0]
    for ours, theirs in zip(model.weights, whole.weights, strict=True):
        assert np.array_equal(ours.tensor, theirs.tensor)


@pytest.mark.parametrize("name", ["patch_embed.proj.weight", "blocks.0.mlp.0.weight", "pos_emb"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_a_shape_is_named(name: str, tmp_path: Path) -> None:
    contents = torch.load(write_random_vit(tmp_path / "vit.pt", "q-k=v", config=False, **SMALL_VIT), weights_only=True)
    contents["model_state_dict"][name] = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    torch.save(contents, tmp_path / "nested.pt")
    with pytest.raises(CheckpointError, match=f"'{name}'"):
        edgeqkv.load(tmp_path / "nested.pt", heads=4)


def test_heads_that_the_file_contradicts() -> None:
    with pytest.raises(InputError, match="says that it has 4 heads, not 6"):
        edgeqkv.load(read_encoder_golden("vit_digits_qkv").path, heads=6)


def test_what_is_made_of_a_mapped_tensor_leaves_it_as_it_is(tmp_path: Path) -> None:
    """A table of one token is its own transpose."""
    contents = torch.load(read_encoder_golden("encoder_reverse_qkv").path, weights_only=True)
    state = contents["model_state_dict"]
    state["embed.weight"], state["embed.bias"] = torch.ones(48, 1), torch.full((48,), 2.0)
    torch.save(contents, tmp_path / "one.pt")
    archive = checkpoints.open_archive(tmp_path / "one.pt")
    table = encoder.read(archive).network.token_table
    assert (table.tensor == 3).all()
    assert (archive.state_dict()["embed.weight"] == 1).all()
