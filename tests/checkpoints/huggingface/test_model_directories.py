"""What a model directory may look like, and what is said of one that edgeqkv does not read."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hugging_face import GPT2, SMALL, VOCABULARY, logits, named, original, saved
from safetensors.torch import load_file, save_file

import edgeqkv
from edgeqkv import CheckpointError, MissingExtra
from edgeqkv.checkpoints import hub, huggingface
from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import sequence_logits

TOKENS = np.random.default_rng(3).integers(3, VOCABULARY, 20)


@pytest.fixture(scope="module")
def llama() -> Any:
    return original("llama", **SMALL)


@pytest.fixture(scope="module")
def template(llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(llama, tmp_path_factory.mktemp("hf") / "llama")


@pytest.fixture
def directory(template: Path, tmp_path: Path) -> Path:
    return shutil.copytree(template, tmp_path / "llama")


def changed(directory: Path, **config: Any) -> Path:
    """The directory with something else in its config; None takes a key out."""
    path = directory / "config.json"
    content = json.loads(path.read_text()) | config
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return directory


def rewritten(directory: Path, change: Any) -> Path:
    """The directory with other tensors."""
    path = directory / "model.safetensors"
    save_file(change(load_file(path)), path, {"format": "pt"})
    return directory


def close(model: Model, wanted: np.ndarray[Any, Any]) -> bool:
    return bool(np.abs(sequence_logits(model, TOKENS) - wanted).max() <= 1e-4)


def test_a_file_of_it_is_the_directory(llama: Any, directory: Path) -> None:
    model = edgeqkv.load(directory)
    assert (str(model.variant), model.source.model_class) == ("qkv+gqa2", "LlamaForCausalLM")
    for name in ("model.safetensors", "config.json"):
        assert edgeqkv.load(directory / name).source == model.source
    assert close(model, logits(llama, TOKENS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precisions_are_mapped_as_they_are(dtype: torch.dtype, tmp_path: Path) -> None:
    model = edgeqkv.load(saved(original("llama", **SMALL), tmp_path / "half", dtype=dtype))
    assert {weight.tensor.dtype for weight in model.weights} == {dtype}
    assert close(model, logits(huggingface.original(model.source), TOKENS))


def test_shards_are_one_model(llama: Any, tmp_path: Path) -> None:
    directory = saved(llama, tmp_path / "shards", max_shard_size="12KB")
    shards = sorted(directory.glob("model-*.safetensors"))
    assert len(shards) > 3
    assert close(edgeqkv.load(directory), logits(llama, TOKENS))
    shards[1].rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match=rf"incomplete: {shards[1].name} of {len(shards)} files"):
        edgeqkv.load(directory)
    shutil.copy(shards[0], shards[1])
    with pytest.raises(CheckpointError, match=f"{shards[1].name} holds no '.*', which model.safetensors.index.json"):
        edgeqkv.load(directory)


def test_an_index_names_files_beside_it_alone(llama: Any, tmp_path: Path) -> None:
    directory = saved(llama, tmp_path / "shards", max_shard_size="12KB")
    index = directory / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}))
    with pytest.raises(CheckpointError, match="no file beside it"):
        edgeqkv.load(directory)
    index.write_text("[]")
    with pytest.raises(CheckpointError, match="holds a list"):
        edgeqkv.load(directory)


def test_names_without_the_outer_part_and_saved_masks(tmp_path: Path) -> None:
    gpt2 = original("gpt2", **GPT2)
    directory = saved(gpt2, tmp_path / "gpt2")

    def as_published(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 64, 64) for layer in range(2)}
        return masks | {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}

    assert close(edgeqkv.load(rewritten(directory, as_published)), logits(gpt2, TOKENS))


def test_equal_keys_and_values_are_merged(tmp_path: Path) -> None:
    model = original("llama", **(SMALL | {"num_hidden_layers": 3, "tie_word_embeddings": True}))
    for layer in model.model.layers[:1]:
        layer.self_attn.v_proj.weight.data.copy_(layer.self_attn.k_proj.weight)
    read = edgeqkv.load(saved(model, tmp_path / "mixed"))
    assert read.described == "qkv+gqa2, 1 of 3 layers q-k=v+gqa2"
    assert [spec.name for spec in read.state(8)] == ["kv_0", "k_1", "v_1", "k_2", "v_2"]
    assert close(read, logits(model, TOKENS))
    for layer in model.model.layers:
        layer.self_attn.v_proj.weight.data.copy_(layer.self_attn.k_proj.weight)
    merged = edgeqkv.load(saved(model, tmp_path / "merged"))
    assert merged.described == str(merged.variant) == "q-k=v+gqa2"
    assert close(merged, logits(model, TOKENS))


def test_projections_that_are_one_are_one_state(tmp_path: Path) -> None:
    model = edgeqkv.load(named("gemma4 merged global layers", tmp_path / "gemma4")[1])
    assert model.described == "q-k=v+gqa2, 1 of 3 layers qkv+gqa2"
    assert [(spec.name, spec.kv_heads, spec.dim, spec.length) for spec in model.state(64)] == [
        ("k_0", 2, 8, 7),
        ("v_0", 2, 8, 7),
        ("kv_1", 1, 20, 64),  # of 16 channels, 4 are rotated
        ("kv_2", 1, 20, 64),
    ]


def test_layers_that_read_another_layers_state_have_none(tmp_path: Path) -> None:
    model = edgeqkv.load(named("gemma4 shared, merged", tmp_path / "gemma4")[1])
    assert [spec.name for spec in model.state(64)] == ["kv_0", "k_1", "v_1", "kv_2"]
    assert model.described == "q-k=v+mqa, 1 of 5 layers qkv+gqa2, 2 of 5 layers read another one's state"
    assert [block.attention.source for block in model.network.blocks] == [None, None, None, 1, 2]
    with pytest.raises(CheckpointError, match="'enable_moe_block' to True: edgeqkv does not export mixtures of exp"):
        edgeqkv.load(changed(tmp_path / "gemma4", enable_moe_block=True, num_experts=2, top_k_experts=1))


def test_latent_attention_is_one_row_for_all_heads(tmp_path: Path) -> None:
    model = edgeqkv.load(named("deepseek v3", tmp_path / "deepseek")[1])
    assert model.described == "q-k=v+mqa"
    assert [(spec.name, spec.kv_heads, spec.dim) for spec in model.state(64)] == [("kv_0", 1, 32), ("kv_1", 1, 32)]
    with pytest.raises(CheckpointError, match="1 of its 2 layers are mixtures of experts"):
        edgeqkv.load(changed(tmp_path / "deepseek", first_k_dense_replace=1))
    with pytest.raises(CheckpointError, match="heads of latent attention share one row"):
        edgeqkv.load(changed(tmp_path / "deepseek", first_k_dense_replace=2, num_key_value_heads=2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"do_layer_norm_before": False}, "OPT model: it normalizes after the sum"),
        ({"word_embed_proj_dim": 16}, "OPT model: its embeddings of 16 channels are projected to 32"),
        ({"layer_norm_elementwise_affine": False}, "OPT model: its layer norms have no scale"),
        ({"_remove_final_layer_norm": True}, "OPT model: it has no final normalization"),
    ],
)
def test_sizes_of_opt_that_are_built_otherwise(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    directory = named("opt", tmp_path / "opt")[1]
    with pytest.raises(CheckpointError, match=message):
        edgeqkv.load(changed(directory, **changes))


def test_a_tied_head_that_differs_is_told(directory: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ties the head to the embedding, but 'lm_head.weight' differs"):
        edgeqkv.load(changed(directory, tie_word_embeddings=True))


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown model": (
        {"model_type": "frobnicator"},
        "of the model_type 'frobnicator'; edgeqkv reads gpt2, gpt_neo, llama",
    ),
    "no model_type": ({"model_type": 3}, "does not say which model it is"),
    "experts": ({"model_type": "mixtral", "num_local_experts": 8}, "'mixtral', which is a mixture of experts"),
    "a tower": (
        {"model_type": "llava", "vision_config": {"x": 1}, "text_config": {"model_type": "llama"}},
        "a vision tower .*its language model, a 'llama', can be exported if it is saved alone",
    ),
    "a hybrid": ({"model_type": "lfm2", "layer_types": ["conv", "full_attention"]}, "layers that are not attention"),
    "another head": ({"architectures": ["LlamaForSequenceClassification"]}, "continues no text"),
    "quantized": ({"quantization_config": {"quant_method": "gptq"}}, r"was quantized \(gptq\)"),
    "an unknown key": ({"frobnication": 0.5}, "sets 'frobnication' to 0.5"),
    "an activation": ({"hidden_act": "quick_gelu"}, "'hidden_act' in .* is 'quick_gelu'"),
    "too many layers": ({"num_hidden_layers": 3}, r"'model.layers.2.\S+' is missing"),
    "too few layers": ({"num_hidden_layers": 1}, "num_hidden_layers in its config is 1"),
    "another width": ({"intermediate_size": 40}, r"mlp.gate_proj.weight' in .* has shape \[48, 32\]"),
    "biases that are not there": ({"attention_bias": True}, "q_proj.bias' is missing"),
    "a vocabulary": ({"vocab_size": 60}, r"embed_tokens.weight' in .* has shape \[61, 32\]"),
    "heads": ({"num_key_value_heads": 3, "head_dim": 8}, "4 query heads in .* do not divide among 3"),
    "a size": ({"num_hidden_layers": "two"}, "refused by transformers"),
    "frequencies": ({"rope_parameters": {"rope_type": "spiral"}}, "makes no frequencies: KeyError: 'spiral'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_understood_is_refused_by_name(name: str, directory: Path) -> None:
    config, message = WRONG[name]
    with pytest.raises(CheckpointError, match=message):
        edgeqkv.load(changed(directory, **config))


def test_what_changes_nothing_is_read(directory: Path) -> None:
    harmless = {"rope_interleaved": False, "is_llama_config": True, "attention_dropout": 0.1, "use_cache": False}
    assert edgeqkv.load(changed(directory, **harmless)).config.layers == 2


def test_folders_that_are_no_models(directory: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"is a folder, and no Hugging Face model's"):
        edgeqkv.load(tmp_path / "empty")
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"it has pytorch_model.bin, which is to be saved anew"):
        edgeqkv.load(directory)
    (directory / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is not JSON or is damaged"):
        edgeqkv.load(directory)


def test_damaged_and_foreign_numbers(directory: Path) -> None:
    rewritten(
        directory, lambda tensors: tensors | {"lm_head.weight": tensors["lm_head.weight"].to(torch.float8_e4m3fn)}
    )
    with pytest.raises(CheckpointError, match="float8_e4m3fn, which edgeqkv does not read"):
        edgeqkv.load(directory)
    (directory / "model.safetensors").write_bytes(b"\0" * 50)
    with pytest.raises(CheckpointError, match="is damaged"):
        edgeqkv.load(directory)


def test_without_transformers(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] == "transformers":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'edgeqkv\[huggingface\]'"):
        edgeqkv.load(directory)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's cache on this machine, and no network."""
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_name_is_looked_up_in_the_hubs_cache(
    llama: Any, template: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    kept = cache / "models--some-org--tiny-llama"
    shutil.copytree(template, kept / "snapshots" / ("0" * 40))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text("0" * 40)
    assert close(edgeqkv.load("some-org/tiny-llama"), logits(llama, TOKENS))


@pytest.mark.usefixtures("cache")
def test_a_name_that_is_not_there_and_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        CheckpointError, match=r"no file or folder some-org/tiny.*not in this machine's cache.*hf download"
    ):
        edgeqkv.load("some-org/tiny")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtra, match=r"'some-org/tiny', which is no file or folder here.*edgeqkv\[huggingface\]"):
        edgeqkv.load("some-org/tiny")


def test_a_path_is_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    paths = ("models/mine", "other/model.pt", "deep/er/model", "model", os.fspath(tmp_path / "x"))
    assert not any(hub.is_name(Path(path)) for path in paths)
    with pytest.raises(CheckpointError, match="there is no file models/mine"):
        edgeqkv.load("models/mine")
