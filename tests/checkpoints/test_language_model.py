from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, VARIANTS, Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import edgeqkv
from edgeqkv import CheckpointError, Variant
from edgeqkv.checkpoints.synthetic import random_checkpoint, write_random_checkpoint
from edgeqkv.reference.outputs import sequence_logits

CLASSES = {
    "qkv": "GPT",
    "q_eq_k": "GPT_KV",
    "k_eq_v": "GPT_QKV_KEqualsV",
    "q_eq_k_eq_v": "GPT_K",
    "gqa": "GPT_GQA",
    "mqa": "GPT_MQA",
    "k_eq_v_gqa": "GPT_Q_GQA",
    "k_eq_v_mqa": "GPT_QMQA",
}


def saved(checkpoint: dict[str, Any], folder: Path) -> Path:
    torch.save(checkpoint, folder / "model.pt")
    return folder / "model.pt"


def tiny(**changes: Any) -> dict[str, Any]:
    return random_checkpoint(Variant.parse("q-k=v+gqa2"), **{**TINY, **changes})


def test_all_eight_classes_are_told_apart(golden: Golden) -> None:
    model = edgeqkv.load(golden.path)
    assert str(model.variant) == golden.variant
    assert model.source.model_class == CLASSES[golden.name]
    assert model.config.heads == 8
    assert model.config.positions == 64
    assert model.config.tied_head
    assert model.source.training["step"] == 7000
    assert not model.notes


def test_parameters_leave_out_masks_and_the_optimizer_and_count_tied_ones_once(gqa_golden: Golden) -> None:
    d, layers, kv, inner = 64, 2, 32, 256
    block = 2 * d * d + d * kv + 2 * d * inner + (2 * d + kv + inner + d) + 4 * d
    assert edgeqkv.load(gqa_golden.path).parameters == 257 * d + 64 * d + layers * block + 2 * d


# Every class at many sizes, with and without biases, wrapped or not, with what a training run adds.
@settings(deadline=None, max_examples=40)
@given(
    variant=st.sampled_from(sorted(VARIANTS.values())),
    use_bias=st.booleans(),
    tie=st.booleans(),
    ddp=st.booleans(),
    extras=st.booleans(),
    layers=st.integers(1, 3),
)
def test_what_was_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    variant: str,
    use_bias: bool,
    tie: bool,
    ddp: bool,
    extras: bool,
    layers: int,
) -> None:
    sizes = {**TINY, "n_head": 8, "n_layer": layers, "use_bias": use_bias, "tie_word_embeddings": tie}
    path = tmp_path_factory.mktemp("checkpoint") / "model.pt"
    model = edgeqkv.load(write_random_checkpoint(path, variant, ddp=ddp, optimizer=extras, masks=extras, **sizes))
    assert str(model.variant) == variant
    assert model.config.layers == layers
    assert model.config.tied_head == tie
    assert (model.network.head is model.network.token_table) == tie
    assert (model.network.blocks[0].mlp.up.bias is not None) == use_bias
    attention = model.network.blocks[-1].attention
    assert (attention.k is attention.v) == (model.variant.sharing.tensors == 1)
    assert (attention.q is attention.k) == model.variant.sharing.ties_queries


def test_safetensors_with_its_config_beside_it_is_the_same_model(tmp_path: Path, gqa_golden: Golden) -> None:
    checkpoint = torch.load(gqa_golden.path, weights_only=True)
    save_file(checkpoint["model_state_dict"], tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"config is missing.*config\.json or model\.json"):
        edgeqkv.load(tmp_path / "model.safetensors")
    import json

    (tmp_path / "config.json").write_text(json.dumps(checkpoint["model_config"]))
    model = edgeqkv.load(tmp_path / "model.safetensors")
    assert (
        sequence_logits(model, gqa_golden.ids) == sequence_logits(edgeqkv.load(gqa_golden.path), gqa_golden.ids)
    ).all()
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON"):
        edgeqkv.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("plain", "wrapped"),
    [
        ("", "module."),
        ("", "_orig_mod.module."),
        ("", "module._orig_mod."),
        ("", "module._fsdp_wrapped_module."),
        ("h.0.", "h.0._orig_mod."),
        ("h.1.", "h.1._checkpoint_wrapped_module."),
        ("mlp.", "_fsdp_wrapped_module.mlp._checkpoint_wrapped_module."),
    ],
)
def test_what_a_model_was_wrapped_in_is_no_part_of_its_names(plain: str, wrapped: str, tmp_path: Path) -> None:
    state = {name.replace(plain, wrapped, 1): tensor for name, tensor in tiny()["model_state_dict"].items()}
    assert state.keys() != tiny()["model_state_dict"].keys()
    model = edgeqkv.load(saved({**tiny(), "model_state_dict": state}, tmp_path))
    assert model.parameters == edgeqkv.load(saved(tiny(), tmp_path)).parameters


def test_half_precision_checkpoints_are_read_as_they_are(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16):
        model = edgeqkv.load(
            saved(
                tiny()
                | {"model_state_dict": {name: tensor.to(dtype) for name, tensor in tiny()["model_state_dict"].items()}},
                tmp_path,
            )
        )
        assert model.network.token_table.tensor.dtype == dtype
        assert model.network.token_table.values().dtype == torch.float32


def test_weights_have_the_last_word_on_kv_heads(tmp_path: Path) -> None:
    checkpoint = tiny()
    checkpoint["model_config"]["n_kv_groups"] = 8  # the script's default, whatever was trained
    model = edgeqkv.load(saved(checkpoint, tmp_path))
    assert str(model.variant) == "q-k=v+gqa2"
    assert model.notes == ("the config says n_kv_groups 8, the weights have 2 KV heads: the weights are right",)


def test_numpy_metrics_are_welcome(tmp_path: Path) -> None:
    import numpy as np

    metrics = {"loss": np.float64(2.5), "perplexity": np.float32(12.0)}
    model = edgeqkv.load(saved(tiny() | {"val_metrics": metrics}, tmp_path))
    assert model.source.training["val_metrics"] == {"loss": 2.5, "perplexity": 12.0}


def without(checkpoint: dict[str, Any], name: str) -> dict[str, Any]:
    del checkpoint["model_state_dict"][name]
    return checkpoint


def with_tensor(checkpoint: dict[str, Any], name: str, tensor: object) -> dict[str, Any]:
    checkpoint["model_state_dict"][name] = tensor
    return checkpoint


def with_config(**changes: object) -> dict[str, Any]:
    checkpoint = tiny()
    checkpoint["model_config"].update(changes)
    return checkpoint


@pytest.mark.parametrize(
    ("checkpoint", "message"),
    [
        (without(tiny(), "h.1.mlp.c_fc.weight"), r"'h\.1\.mlp\.c_fc\.weight' is missing"),
        (without(tiny(), "h.0.attn.c_k.bias"), r"'h\.0\.attn\.c_k\.bias' is missing"),
        (without(tiny(), "h.1.attn.c_q.weight"), r"layer 1 .* is q=k=v with|shape"),
        (without(without(tiny(), "h.0.attn.c_q.weight"), "h.0.attn.c_k.weight"), "no known class.*none"),
        (with_tensor(tiny(), "wpe.weight", torch.zeros(47, 32)), r"'wpe\.weight'.*\[47, 32\].*\[48, 32\]"),
        (
            with_tensor(tiny(), "h.0.attn.c_k.weight", torch.zeros(12, 32)),
            "12 rows.*no whole number of KV heads",
        ),
        (
            with_tensor(tiny(), "h.0.attn.c_k.weight", torch.zeros(24, 32)),
            "24 rows.*no whole number of KV heads",
        ),
        (with_tensor(tiny(), "ln_f.weight", torch.zeros(32, dtype=torch.int64)), "not floating point"),
        (
            with_tensor(tiny(), "h.0.mlp.c_fc.weight", torch.zeros(128, 1).expand(128, 32)),
            r"'h\.0\.mlp\.c_fc\.weight' in .* overlaps itself",
        ),
        (with_tensor(tiny(), "h.0.mlp.c_fc.weight", torch.ones(128, 32).to_sparse()), "no dense tensor.*sparse_coo"),
        (
            with_tensor(tiny(), "h.0._orig_mod.ln_1.bias", torch.ones(32)),
            r"'h\.0\.ln_1\.bias' and 'h\.0\._orig_mod\.ln_1\.bias' in .* are both 'h\.0\.ln_1\.bias'",
        ),
        (with_tensor(tiny(), 7, torch.ones(32)), "does not have: 7"),  # type: ignore[arg-type]
        (with_tensor(tiny(), "wte.weight", "a string"), r"'wte\.weight' is missing"),
        (
            with_tensor(tiny(), "h.2.ln_1.weight", torch.zeros(32)),
            r"does not have: h\.2\.ln_1\.weight \(n_layer",
        ),
        (with_tensor(tiny(), "lm_head.weight", torch.ones(97, 32)), r"differs from 'wte\.weight'"),
        (with_config(n_head=5), "impossible head count.*n_head 5 does not divide n_embd 32"),
        (with_config(n_head=0), "'n_head'.*is 0, not a size"),
        (with_config(n_layer="two"), "'n_layer'.*is 'two', not a size"),
        (with_config(n_layer=3), r"h\.2\..*is missing"),
        (with_config(layer_norm_epsilon=0), "layer_norm_epsilon.*is 0"),
        ({**tiny(), "model_config": {}}, "'n_embd' is missing from the model_config"),
        ({**tiny(), "model_config": [1]}, "'model_config' .* is a list, not a dict"),
        ({**tiny(), "model_state_dict": [1]}, "'model_state_dict' .* is a list, not a dict"),
        ({"weights": {}}, "no model that edgeqkv knows: it holds weights"),
        ([1, 2], "holds a list, not the dict"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path: Path, checkpoint: Any, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        edgeqkv.load(saved(checkpoint, tmp_path))


@pytest.mark.parametrize("name", ["wte.weight", "h.0.attn.c_k.weight"])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_tensor_without_a_shape_is_refused(name: str, tmp_path: Path) -> None:
    nested = torch.nested.nested_tensor([torch.ones(2, 32), torch.ones(3, 32)])
    path = saved(with_tensor(tiny(), name, nested), tmp_path)
    with pytest.raises(CheckpointError, match=r"dense tensor in memory but nested|has 0 rows"):
        edgeqkv.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_numbers_are_found(tmp_path: Path, value: float) -> None:
    checkpoint = tiny()
    checkpoint["model_state_dict"]["h.1.mlp.c_fc.weight"][3, 5] = value
    model = edgeqkv.load(saved(checkpoint, tmp_path))
    with pytest.raises(CheckpointError, match=r"'h\.1\.mlp\.c_fc\.weight' .* holds 1 values"):
        model.check_finite()
