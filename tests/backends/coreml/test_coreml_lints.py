"""What is refused or warned of before a package is written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import edgeqkv
from edgeqkv.backends.coreml import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import random_checkpoint, write_random_checkpoint
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.variants import Variant
from edgeqkv.progress import Progress, silent

TINY = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 16, "vocab_size": 61}


def export(path: Path, out: Path, form: str, on_progress: Progress = silent) -> Artifact:
    out.mkdir()
    model = edgeqkv.load(path).with_weights("fp16")
    context = model.config.positions
    spec = TargetSpec(form=form, weights="fp16", state="fp16", context=context, chunk=8)
    return TARGET.export(model, out, spec, on_progress)


def test_a_weight_beyond_fp16_is_named(tmp_path: Path) -> None:
    checkpoint = random_checkpoint(Variant.parse("q-k=v"), **TINY)
    checkpoint["model_state_dict"]["h.0.mlp.c_fc.weight"][3, 5] = 7e4
    torch.save(checkpoint, tmp_path / "huge.pt")
    with pytest.raises(UnsupportedError, match=r"h\.0\.mlp\.c_fc\.weight.*7e\+04.*65504"):
        edgeqkv.export(edgeqkv.load(tmp_path / "huge.pt"), "coreml", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dimension_that_the_neural_engine_does_not_take(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "wide.pt", "q-k=v", **TINY, n_inner=16416)
    with pytest.raises(UnsupportedError, match=r"mlp\.c_fc\.weight' is 16416.*--form linear"):
        export(path, tmp_path / "conv", "conv")
    export(path, tmp_path / "linear", "linear")


def test_a_context_that_the_neural_engine_does_not_take(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "long.pt", "q-k=v", **{**TINY, "n_positions": 16385})
    with pytest.raises(UnsupportedError, match="the context is 16385"):
        export(path, tmp_path / "conv", "conv")


def test_an_odd_state_is_warned_of_and_the_warning_is_kept(tmp_path: Path) -> None:
    path = write_random_checkpoint(tmp_path / "odd.pt", "q-k=v", **{**TINY, "n_positions": 40})
    told: list[str] = []
    artifact = export(path, tmp_path / "out", "conv", lambda stage, _: told.append(stage))
    context, head_dim = artifact.details["warnings"]
    assert "context" in context
    assert "40, not a multiple of 32" in context
    assert "head dimension" in head_dim
    assert [f"warning: {context}", f"warning: {head_dim}"] == [line for line in told if line.startswith("warning")]


def test_an_even_state_is_not(tmp_path: Path) -> None:
    even = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 32, "vocab_size": 61}
    path = write_random_checkpoint(tmp_path / "even.pt", "q-k=v", **even)
    assert export(path, tmp_path / "out", "conv").details["warnings"] == []
