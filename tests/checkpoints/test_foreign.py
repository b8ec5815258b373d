"""Files that edgeqkv does not read: the message says what they are, and its line makes a model of them."""

from __future__ import annotations

import json
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY
from safetensors.torch import save_file

import edgeqkv
from edgeqkv import CheckpointError, Variant
from edgeqkv.checkpoints.synthetic import random_checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n"


def refusal(path: str | Path) -> str:
    with pytest.raises(CheckpointError) as error:
        edgeqkv.load(path)
    return str(error.value)


def do_as_told(message: str) -> None:
    """What ``python -c`` at the end of a message would do."""
    _, _, command = message.rpartition("python -c ")
    (code,) = shlex.split(command)
    exec(code, {})


@pytest.fixture
def checkpoint() -> dict[str, Any]:
    return random_checkpoint(Variant.parse("qkv"), **TINY)


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "config.json"])
def test_a_git_lfs_pointer(name: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    (tmp_path / name).write_text(POINTER)
    given = "model.safetensors" if name == "config.json" else name
    message = refusal(tmp_path / given)
    assert f"{name} is a Git LFS pointer, not the file itself" in message
    assert "git lfs pull" in message


def test_parts_of_a_model_are_joined(
    checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = checkpoint["model_state_dict"]
    for index in range(2):
        part = dict(list(state.items())[index::2])
        save_file(part, tmp_path / f"model-{index + 1:05}-of-00002.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "config.json").write_text(json.dumps(checkpoint["model_config"]))
    monkeypatch.chdir(tmp_path)
    assert "lists the parts of a model" in refusal("model.safetensors.index.json")
    message = refusal("model-00001-of-00002.safetensors")
    assert "is one of 2 parts of a model" in message
    do_as_told(message)
    assert edgeqkv.load("joined.safetensors").config.layers == TINY["n_layer"]


def test_nanogpt(checkpoint: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {f"transformer.{name}": tensor for name, tensor in checkpoint["model_state_dict"].items()}
    sizes = {key: TINY[key] for key in ("n_layer", "n_head", "n_embd", "vocab_size")}
    arguments = {**sizes, "block_size": TINY["n_positions"], "bias": True, "dropout": 0.0}
    saved = {
        "model": {f"_orig_mod.{name}": tensor for name, tensor in state.items()}
        | {"_orig_mod.lm_head.weight": state["transformer.wte.weight"]},
        "model_args": arguments,
        "iter_num": 5,
        "best_val_loss": torch.tensor(3.0),
        "config": {},
    }
    torch.save(saved, tmp_path / "ckpt.pt")
    message = refusal(tmp_path / "ckpt.pt")
    assert "is a nanoGPT checkpoint" in message
    monkeypatch.chdir(tmp_path)
    do_as_told(message)
    model = edgeqkv.load("model.pt")
    assert str(model.variant) == "qkv"
    assert model.config.tied_head


def test_lightning(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    state = {f"model.{name}": tensor for name, tensor in checkpoint["model_state_dict"].items()}
    torch.save({"state_dict": state, "pytorch-lightning_version": "2.5.0", "epoch": 3}, tmp_path / "last.ckpt")
    message = refusal(tmp_path / "last.ckpt")
    assert "is a PyTorch Lightning checkpoint" in message
    assert 'torch.save({"model_state_dict": c["state_dict"], "model_config": {…}}, "model.pt")' in message
    torch.save({"model_state_dict": state, "model_config": checkpoint["model_config"]}, tmp_path / "model.pt")
    assert str(edgeqkv.load(tmp_path / "model.pt").variant) == "qkv"


def test_tensors_alone(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    torch.save(checkpoint["model_state_dict"], tmp_path / "weights.pt")
    assert "holds tensors alone, no config" in refusal(tmp_path / "weights.pt")


class Settings:
    """A config that is an object, as of a dataclass."""

    def __init__(self, values: dict[str, Any]) -> None:
        self.__dict__.update(values)


def test_what_is_pickled_besides_is_stripped(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    """As the message says; RNG states of numpy are the usual ones."""
    checkpoint["rng"] = {"numpy": np.random.default_rng(0).bit_generator.state, "legacy": np.random.get_state()}
    checkpoint["model_config"] = Settings(checkpoint["model_config"])
    path = tmp_path / "it's a model.pt"
    torch.save(checkpoint, path)
    message = refusal(path)
    assert "nothing in it was run" in message
    assert "Settings" in message
    assert "_reconstruct" in message
    do_as_told(message)
    assert str(edgeqkv.load(tmp_path / "it's a model-stripped.pt").variant) == "qkv"


def test_a_number_that_the_unpickler_refuses(checkpoint: dict[str, Any], tmp_path: Path) -> None:
    torch.save({**checkpoint, "step": 10**5000}, tmp_path / "model.pt")
    assert "is damaged, or holds more than tensors and plain values (Unsupported operand" in refusal(
        tmp_path / "model.pt"
    )


@pytest.mark.parametrize("name", ["org/model", "Qwen/Qwen3-0.6B"])
def test_the_name_of_a_model_on_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert f"there is no file or folder {name}, and as a model of the Hugging Face hub" in refusal(name)
    assert "Hugging Face" not in refusal("folder/model.pt")


def test_a_hub_model(tmp_path: Path) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.embed_tokens.weight": torch.ones(4, 4)}, tmp_path / "model.safetensors")
    pytest.importorskip("transformers", reason="install edgeqkv[huggingface]")
    assert "has shape [4, 4]; its config and the other tensors ask for [32000, 64]" in refusal(tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / "mine.safetensors")
    message = refusal(tmp_path / "mine.safetensors")
    assert "belongs to a Hugging Face model (llama)" in message
    assert f"give its folder, with the tensors in model.safetensors: {tmp_path}" in message
    (tmp_path / "config.json").write_text("[" * 100_000)
    assert "is not JSON or is damaged" in refusal(tmp_path)


def test_a_distributed_checkpoint(tmp_path: Path) -> None:
    (tmp_path / ".metadata").write_bytes(b"")
    assert f"dcp_to_torch {tmp_path} model.pt" in refusal(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert "model.pt: it is a pipe, not a file" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["x" * 5000, "nothing\0.pt", "model.pt/within.pt", "config.json"])
def test_paths_that_are_none(name: str, tiny_checkpoint: Path, tmp_path: Path) -> None:
    tiny_checkpoint.rename(tmp_path / "model.pt")
    (tmp_path / "config.json").write_text("{}")
    message = refusal(tmp_path / name)
    assert "cannot read" in message or "there is no file" in message or "is no checkpoint" in message
    assert len(message) < 600


def test_what_may_not_be_read(tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(tiny_checkpoint))

    for name in ("open", "stat"):
        with monkeypatch.context() as patch:
            patch.setattr(Path, name, forbidden)
            assert f"cannot read {tiny_checkpoint}: Permission denied" in refusal(tiny_checkpoint)
