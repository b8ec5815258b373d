from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
import torch
from conftest import TINY, VARIANTS
from hypothesis import given, settings
from hypothesis import strategies as st
from random_networks import Random

import edgeqkv
from edgeqkv import InputError, UnsupportedError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.checkpoints.writing import write
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.reference.outputs import sequence_logits

IDS = np.arange(40) * 7 % 97


@settings(deadline=None, max_examples=30)
@given(
    variant=st.sampled_from(sorted(VARIANTS.values())),
    use_bias=st.booleans(),
    tie=st.booleans(),
    suffix=st.sampled_from([".pt", ".safetensors"]),
)
def test_what_was_read_is_written_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, variant: str, use_bias: bool, tie: bool, suffix: str
) -> None:
    folder = tmp_path_factory.mktemp("writing")
    sizes = {**TINY, "n_head": 8, "use_bias": use_bias, "tie_word_embeddings": tie}
    path = write_random_checkpoint(folder / "model.pt", variant, std=0.2, masks=True, ddp=True, **sizes)
    model = edgeqkv.load(path)
    write(model, folder / f"copy{suffix}")
    copy = edgeqkv.load(folder / f"copy{suffix}")
    assert (copy.variant, copy.config) == (model.variant, model.config)
    assert copy.source.model_class == model.source.model_class
    assert not copy.notes
    np.testing.assert_array_equal(sequence_logits(copy, IDS), sequence_logits(model, IDS))


def test_a_file_holds_each_number_once(tmp_path: Path) -> None:
    """What is read is views of a fused tensor, and a file gets all that a tensor is a view of."""
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "qkv+gqa2", **TINY))
    rows = model.network.token_table.rows(0, 50)
    config = {**TINY, "vocab_size": 50}
    smaller = replace(
        model,
        config=replace(model.config, vocab_size=50),
        network=replace(model.network, token_table=rows, head=rows),
    )
    write(smaller, tmp_path / "smaller.pt")
    expected = write_random_checkpoint(tmp_path / "expected.pt", "qkv+gqa2", **config)
    assert (tmp_path / "smaller.pt").stat().st_size <= expected.stat().st_size + 512


def test_how_it_was_made_is_on_record(tmp_path: Path) -> None:
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "qkv", **TINY))
    for name in ("a.pt", "b.safetensors"):
        write(model, tmp_path / name, made={"converted_from": "qkv"})
    assert torch.load(tmp_path / "a.pt", weights_only=True)["train_config"] == {"converted_from": "qkv"}
    assert json.loads((tmp_path / "config.json").read_text())["train_config"] == {"converted_from": "qkv"}


def test_nothing_is_replaced_unasked_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "qkv", **TINY))
    out = tmp_path / "made" / "out.pt"
    write(model, out)
    with pytest.raises(InputError, match=r"out\.pt exists already; give another --out, or --force"):
        write(model, out)
    with pytest.raises(InputError, match=r"made is a folder; give the file"):
        write(model, out.parent)
    (out.parent / "config.json").write_text("somebody's")
    with pytest.raises(InputError, match=r"config\.json exists already"):
        write(model, out.parent / "other.safetensors")
    before = out.read_bytes()

    def fails(contents: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(edgeqkv.CheckpointError, match=r"cannot write .*out\.pt: No space left on device"):
        write(model, out, overwrite=True)
    assert out.read_bytes() == before
    assert sorted(path.name for path in out.parent.iterdir()) == ["config.json", "out.pt"]


def test_what_the_format_cannot_hold_is_refused(tmp_path: Path) -> None:
    random = Random()
    model = random.model([random.block(random.attention())], learned=True)
    with pytest.raises(UnsupportedError, match="random has normalizations other than layer norms"):
        write(model, tmp_path / "out.pt")
    model = random.model([random.block(random.attention())])
    with pytest.raises(UnsupportedError, match="random has no learned positions"):
        write(model, tmp_path / "out.pt")
    quantized = apply(edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "qkv", **TINY)), QuantConfig("int8"))
    with pytest.raises(UnsupportedError, match=r"model\.pt is quantized"):
        write(quantized, tmp_path / "out.pt")
    assert not (tmp_path / "out.pt").exists()
