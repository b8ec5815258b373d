"""Tensors of a state dict: their types, names that share memory, averages beside them, and facts that are tensors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import save_model

import edgeqkv
from edgeqkv import CheckpointError, InputError, Variant
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.checkpoints.synthetic_encoders import random_vit
from edgeqkv.model.model import Model

FP8 = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e8m0fnu")


def tiny(**changes: Any) -> dict[str, Any]:
    return random_checkpoint(Variant.parse("q-k=v+gqa2"), **{**TINY, **changes})


def loaded(checkpoint: dict[str, Any], folder: Path, **options: Any) -> Model:
    torch.save(checkpoint, folder / "model.pt")
    return edgeqkv.load(folder / "model.pt", **options)


@pytest.mark.parametrize("dtype", FP8)
def test_types_that_torch_cannot_reduce_are_refused_by_name(dtype: str, tmp_path: Path) -> None:
    checkpoint = tiny()
    state = checkpoint["model_state_dict"]
    state["h.0.mlp.c_fc.weight"] = state["h.0.mlp.c_fc.weight"].to(getattr(torch, dtype))
    with pytest.raises(CheckpointError, match=rf"'h\.0\.mlp\.c_fc\.weight' in .* is of type torch\.{dtype}, .* save"):
        loaded(checkpoint, tmp_path)


def test_a_negative_view_is_its_numbers(tmp_path: Path) -> None:
    checkpoint = tiny()
    matrix = checkpoint["model_state_dict"]["h.0.mlp.c_fc.weight"]
    negative = torch.complex(matrix, -matrix).conj().imag
    assert negative.is_neg()
    checkpoint["model_state_dict"]["h.0.mlp.c_fc.weight"] = negative
    read = loaded(checkpoint, tmp_path).network.blocks[0].mlp.up.weight.tensor
    assert np.array_equal(read.numpy(), matrix.numpy())


def test_an_encoder_of_no_classes(tmp_path: Path) -> None:
    config = {"image_size": 8, "channels": 1, "patch": 4, "n_classes": 0, "n_embd": 16, "n_layer": 1, "n_head": 2}
    with pytest.raises(CheckpointError, match=r"'head\.weight' in .* is empty: its shape is \[0, 16\]"):
        loaded(random_vit(Variant.parse("qkv"), **config), tmp_path)


@pytest.mark.parametrize("said", [True, False, None])
def test_two_names_of_one_storage_are_one_weight(said: bool | None, tmp_path: Path) -> None:
    checkpoint = tiny()
    checkpoint["model_config"]["tie_word_embeddings"] = said
    checkpoint["model_state_dict"]["lm_head.weight"] = checkpoint["model_state_dict"]["wte.weight"]
    model = loaded(checkpoint, tmp_path)
    assert model.network.head is model.network.token_table
    assert model.config.tied_head
    assert model.parameters == loaded(tiny(), tmp_path).parameters


@pytest.mark.parametrize("said", [True, False, None])
def test_the_alias_of_a_safetensors_file_is_read(said: bool | None, tmp_path: Path) -> None:
    checkpoint = tiny()
    state, config = checkpoint["model_state_dict"], checkpoint["model_config"]

    class Whole(torch.nn.Module):
        """What has these tensors, the head tied to the table."""

        def state_dict(self, *_: Any, **__: Any) -> dict[str, Any]:
            return {**state, "lm_head.weight": state["wte.weight"]}

    save_model(Whole(), str(tmp_path / "model.safetensors"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": said}))
    model = edgeqkv.load(tmp_path / "model.safetensors")
    assert model.network.head is model.network.token_table


def test_a_copy_of_another_type_is_another_tensor(tmp_path: Path) -> None:
    checkpoint = tiny()
    checkpoint["model_state_dict"]["lm_head.weight"] = checkpoint["model_state_dict"]["wte.weight"].half()
    with pytest.raises(CheckpointError, match=r"'lm_head\.weight' differs from 'wte\.weight'"):
        loaded(checkpoint, tmp_path)


AVERAGES = ["ema_state_dict", "ema_model_state_dict", "ema"]


@pytest.mark.parametrize("name", AVERAGES)
@pytest.mark.parametrize("holder", [None, "shadow"])
def test_averaged_weights_are_taken_where_asked_for(name: str, holder: str | None, tmp_path: Path) -> None:
    checkpoint, average = tiny(), tiny(seed=1)["model_state_dict"]
    checkpoint[name] = average if holder is None else {"decay": 0.999, holder: average}
    last = loaded(checkpoint, tmp_path)
    assert torch.equal(last.network.token_table.tensor, checkpoint["model_state_dict"]["wte.weight"])
    assert f"last step (model_state_dict) were taken, not the averaged ones ({name}): --ema" in last.notes[0]
    averaged = loaded(checkpoint, tmp_path, ema=True)
    assert torch.equal(averaged.network.token_table.tensor, average["wte.weight"])
    assert averaged.notes == (f"the averaged weights ({name}) were taken",)


def test_averaged_weights_alone(tmp_path: Path) -> None:
    checkpoint = tiny()
    module = {f"module.{name}": tensor for name, tensor in checkpoint.pop("model_state_dict").items()}
    checkpoint["ema_state_dict"] = {"n_averaged": torch.tensor(7), **module}
    model = loaded(checkpoint, tmp_path)
    assert model.notes == ("only averaged weights (ema_state_dict) are in the file",)


def test_averaged_weights_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no averaged weights.*leave out --ema"):
        loaded(tiny(), tmp_path, ema=True)


@pytest.mark.parametrize(
    ("value", "fact"),
    [
        (torch.tensor(7), 7),
        (torch.tensor([2.5]), 2.5),
        (np.float64(2.5), 2.5),
        (torch.ones(2), None),
        (torch.ones(1, dtype=torch.complex64), None),
        (torch.ones(1).to_sparse(), None),
        (torch.ones(1, device="meta"), None),
        (float("nan"), None),
        (10**300, None),
        ("many", None),
        ([1], None),
    ],
)
def test_facts_are_numbers(value: object, fact: object, tmp_path: Path) -> None:
    model = loaded({**tiny(), "step": value, "val_metrics": {"loss": value, 3: 1.5}}, tmp_path)
    assert model.source.training.get("step") == fact
    assert model.source.training["val_metrics"].get("loss") == fact
    json.dumps(model.source.training, allow_nan=False)
    vit = random_vit(
        Variant.parse("qkv"), image_size=8, channels=1, patch=4, n_classes=3, n_embd=16, n_layer=1, n_head=2
    )
    assert loaded({**vit, "test_accuracy": value}, tmp_path).source.training.get("test_accuracy") == fact


@pytest.mark.parametrize("name", ["epoch", "task", "variant", "model", "step", "config", "model_config"])
@pytest.mark.parametrize("value", [10**600, torch.ones(3), [], {}, None, "x" * 100_000])
def test_a_strange_entry_is_no_traceback(name: str, value: object, tmp_path: Path) -> None:
    vit = random_vit(
        Variant.parse("qkv"), image_size=8, channels=1, patch=4, n_classes=3, n_embd=16, n_layer=1, n_head=2
    )
    for checkpoint in (tiny(), vit):
        if name in ("config", "model") and checkpoint is not vit:
            continue
        try:
            json.dumps(loaded({**checkpoint, name: value}, tmp_path).source.training)
        except CheckpointError as error:
            assert len(str(error)) < 1000  # noqa: PT017 - either is fine, only nothing else


@pytest.mark.parametrize(
    "wrapper",
    ["module.", "model.", "model._orig_mod.", "_forward_module.", "module.model.", "_fsdp_wrapped_module._fpw_module."],
)
def test_what_a_whole_model_was_wrapped_in(wrapper: str, tmp_path: Path) -> None:
    checkpoint = tiny()
    fresh = {f"{wrapper}{name}": tensor for name, tensor in checkpoint["model_state_dict"].items()}
    assert loaded({**checkpoint, "model_state_dict": fresh}, tmp_path).config.layers == TINY["n_layer"]
    stale = {**fresh, "wte.weight": torch.zeros(TINY["vocab_size"], TINY["n_embd"])}
    for order in (stale, dict(reversed(stale.items()))):
        with pytest.raises(CheckpointError, match=r"are both 'wte\.weight'"):
            loaded({**checkpoint, "model_state_dict": order}, tmp_path)
