"""Every key of a config is read, known to be harmless, or refused: for each architecture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY

import edgeqkv
from edgeqkv import CheckpointError, Variant
from edgeqkv.checkpoints.config import HARMLESS
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.checkpoints.synthetic_encoders import random_set_model, random_vit
from edgeqkv.model.model import Model

SMALL_VIT = {"image_size": 12, "channels": 3, "patch": 4, "n_classes": 7, "n_embd": 32, "n_layer": 1, "n_head": 4}

ARCHITECTURES: dict[str, tuple[str, Callable[[], dict[str, Any]]]] = {
    "language model": ("model_config", lambda: random_checkpoint(Variant.parse("q-k=v+gqa2"), **TINY)),
    "vision": ("config", lambda: random_vit(Variant.parse("q=k=v+2d"), **SMALL_VIT)),
    "set": ("config", lambda: random_set_model(Variant.parse("qkv"), n_embd=32, n_layer=1, n_head=2)),
}


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def load(architecture: str, folder: Path, changes: dict[Any, Any]) -> Model:
    """A small checkpoint whose config is changed."""
    name, make = ARCHITECTURES[architecture]
    checkpoint = make()
    checkpoint[name].update(changes)
    torch.save(checkpoint, folder / "model.pt")
    return edgeqkv.load(folder / "model.pt")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("activation_function", "relu", r"'activation_function' in the .* is 'relu', .* it computes 'gelu'"),
        ("activation_function", "gelu_new", "is 'gelu_new'"),
        ("position_embedding_type", "rope", "'position_embedding_type' in .* is 'rope'"),
        ("sliding_window", 4096, "'sliding_window' in .* is 4096"),
        ("final_logit_softcapping", 30.0, r"'final_logit_softcapping' in .* is 30\.0"),
        ("norm", "rmsnorm", "'norm' in .* is 'rmsnorm'"),
        ("pre_norm", False, "'pre_norm' in .* is False, .* it computes True"),
        ("qk_norm", True, "'qk_norm' in .* is True"),
        ("rope_theta", 10000.0, r"'rope_theta' in .* is 10000\.0, which edgeqkv does not know"),
        ("something_new", [1, 2], "'something_new' in .* is a list, which edgeqkv does not know"),
        ("head_dim", 3, "'head_dim' in .* is 3"),
        (7, "x", "'7' in .* is 'x', which edgeqkv does not know"),
        (10**600, 1, "'a number of about 601 digits' in .* is 1"),
        ("pre_norm", torch.ones(1), "'pre_norm' in .* is a Tensor"),
    ],
)
def test_a_key_that_may_change_the_function_is_refused(
    architecture: str, key: object, value: object, message: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(architecture, tmp_path, {key: value})


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "GELU", "norm": "LayerNorm", "pre_norm": True, "position_embedding_type": "learned"},
        {"sliding_window": None, "rope_theta": None, "something_new": None},
        {"sliding_window": 0, "final_logit_softcapping": 0.0, "qk_norm": False, "use_rope": False},
        dict.fromkeys(" ".join(HARMLESS.values()).split(), 1) | {"variant": None},
    ],
)
def test_what_says_what_is_computed_anyway_is_welcome(
    architecture: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    assert load(architecture, tmp_path, changes).parameters == load(architecture, tmp_path, {}).parameters


def test_dimensions_under_other_names_must_be_the_models(tmp_path: Path) -> None:
    width, heads, positions = TINY["n_embd"], TINY["n_head"], TINY["n_positions"]
    load("language model", tmp_path, {"hidden_size": width, "n_ctx": positions, "mlp_ratio": 4, "n_heads": heads})
    for wrong in ({"hidden_size": width + 1}, {"n_ctx": positions - 1}, {"mlp_ratio": 2}, {"num_key_value_heads": 1}):
        with pytest.raises(CheckpointError, match=f"'{next(iter(wrong))}' in the model_config"):
            load("language model", tmp_path, wrong)
    with pytest.raises(CheckpointError, match=r"'n_classes' in the config of .* is 8, .* it computes 7"):
        load("vision", tmp_path, {"n_classes": 8})
    with pytest.raises(CheckpointError, match=r"'pos_dim' in the config of .* is 3, "):
        load("vision", tmp_path, {"pos_dim": 3})


def test_null_is_not_said(tmp_path: Path) -> None:
    nothing = dict.fromkeys(("tie_word_embeddings", "use_bias", "n_inner", "layer_norm_epsilon", "n_kv_groups"))
    model = load("language model", tmp_path, nothing)
    assert model.config.tied_head
    assert model.network.blocks[0].mlp.up.bias is not None
    assert model.config.norm_eps == 1e-5
    assert load("vision", tmp_path, {"n_inner_mult": None}).config.intermediate_size == 4 * SMALL_VIT["n_embd"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 10**600}, "'n_embd' in .* is a number of about 601 digits, not a size"),
        ({"n_layer": 2**31}, "'n_layer' in .* is 2147483648, not a size"),
        ({"n_head": True}, "'n_head' in .* is True, not a size"),
        ({"n_head": torch.tensor(4)}, "'n_head' in .* is a Tensor, not a size"),
    ],
)
def test_what_is_no_size(architecture: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(architecture, tmp_path, changes)


@pytest.mark.parametrize("key", ["tie_word_embeddings", "use_bias"])
def test_a_word_is_no_truth(key: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"'{key}' in .* is 'false'; it must be true or false"):
        load("language model", tmp_path, {key: "false"})
