"""What fp16 makes of a Core ML export is part of every one; other targets' masks and sums take any score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import edgeqkv
from edgeqkv import UnsupportedError, VerificationFailed
from edgeqkv.backends.coreml import TARGET
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.cli.app import app
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.pipeline import worker
from edgeqkv.pipeline.worker import ranges_in_worker
from edgeqkv.reference.outputs import sequence_logits

SIZES = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab_size": 61}
LIMITS: dict[str, Any] = {"weights": "fp16", "context": 16, "chunk": 4}


def loud_checkpoint(folder: Path, *, channel: float = 0.0, queries: float = 1.0) -> Path:
    """Activations of which one channel is so large, in parts that fp16 holds; queries so many times as large."""
    checkpoint = random_checkpoint(Variant.parse("q-k=v"), std=0.2, **SIZES)
    weights = checkpoint["model_state_dict"]
    for name in ("wte.weight", "wpe.weight"):
        weights[name][:, 3] += channel / 4
    for name in ("h.0.attn.c_proj.bias", "h.0.mlp.c_proj.bias"):
        weights[name][3] += channel / 4
    weights["h.0.attn.c_q.weight"] *= queries
    torch.save(checkpoint, folder / "loud.pt")
    return folder / "loud.pt"


def loud_model(folder: Path, **how: float) -> Model:
    return edgeqkv.load(loud_checkpoint(folder, **how))


def test_a_channel_beyond_fp16_fails_the_export_with_its_place(tmp_path: Path) -> None:
    loud = loud_checkpoint(tmp_path, channel=2e5)
    with pytest.raises(
        VerificationFailed, match=r"prefill/add_\d+ \(after \w+\) reaches 1e\+05: a device would"
    ) as caught:
        edgeqkv.export(edgeqkv.load(loud), "coreml", out=tmp_path / "bundle", **LIMITS)
    assert "--allow-fp16-overflow" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["loud.pt"]

    flags = [text for name, value in LIMITS.items() for text in (f"--{name}", str(value))]
    arguments = ["export", str(loud), "--target", "coreml", "--out", str(tmp_path / "bundle"), *flags]
    result = CliRunner().invoke(app, [*arguments, "--allow-fp16-overflow"], env={"COLUMNS": "500"})
    assert result.exit_code == 0
    assert "OVERFLOWS, as --allow-fp16-overflow allows: prefill/add_" in result.output
    card = edgeqkv.bundle.bundle.Bundle(tmp_path / "bundle").target("coreml")
    assert card.ranges is not None
    assert card.ranges.overflowed[0].endswith("(after wpe_weight) reaches 1e+05")
    assert card.ranges.share > 1.5
    assert card.verification is not None
    assert card.verification.passed  # in float32's range


def test_scores_that_a_mask_in_fp16_still_hides(tmp_path: Path) -> None:
    """Up to 15,000 (half of the 31,000 of the next test): an ordinary model but for that."""
    model = loud_model(tmp_path, queries=4000.0)
    bundle = edgeqkv.export(model, "coreml", out=tmp_path / "bundle", **LIMITS)
    card = bundle.target("coreml")
    assert card.verification is not None
    assert card.verification.passed
    ranges = card.ranges
    assert ranges is not None
    assert (ranges.engine, ranges.overflowed, ranges.note) == ("evaluator-fp16", (), "")
    assert ranges.at in ("prefill/linear_0 (h_0_attn_c_q_weight)", "decode/linear_0 (h_0_attn_c_q_weight)")
    assert ranges.largest == pytest.approx(16441, rel=0.01)
    assert ranges.share == pytest.approx(ranges.largest / 65504)


def test_scores_beyond_that_are_what_the_refusal_names(tmp_path: Path) -> None:
    model = loud_model(tmp_path, queries=8000.0)
    with pytest.raises(VerificationFailed, match=r"\.scores .* reaches 3\.\d+e\+04, and its attention scores must"):
        edgeqkv.export(model, "coreml", out=tmp_path / "bundle", **LIMITS)


@pytest.mark.parametrize(("target", "form"), [("onnx", "portable"), ("onnx", "ort"), ("executorch", "stock")])
def test_other_targets_mask_any_score(tmp_path: Path, target: str, form: str) -> None:
    """In float32: scores of a million."""
    weights = "fp32"
    model = loud_model(tmp_path, queries=2e5)
    bundle = edgeqkv.export(model, target, out=tmp_path / form, form=form, weights=weights, context=16, chunk=4)
    ids = np.random.default_rng(0).integers(0, 61, 16)
    got = edgeqkv.open(bundle.path).feed(ids)  # type: ignore[union-attr]
    assert np.abs(got - sequence_logits(model, ids)[-1]).max() < 1e-3


def test_what_cannot_be_estimated_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any) -> Any:
        raise UnsupportedError("function 'main' uses operations not known: lstm")

    monkeypatch.setattr(worker, "_in_worker", refused)
    found = ranges_in_worker(tmp_path, TARGET.describe, "evaluator-fp16")  # type: ignore[arg-type]
    assert found.note == "function 'main' uses operations not known: lstm"
