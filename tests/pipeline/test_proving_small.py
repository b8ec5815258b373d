"""Models whose matrices hold very small numbers, through every target: exported as well as others, and proven so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeqkv
from edgeqkv.backends import backend
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.pipeline.proof import InputsProof, SequenceProof, allowed_difference, make_proof
from edgeqkv.pipeline.verify import verify_artifact
from edgeqkv.reference.outputs import sequence_logits

SIZES = {"n_layer": 1, "n_embd": 64, "n_head": 2, "n_positions": 16, "vocab_size": 96}


def small_model(folder: Path, factor: float) -> Model:
    """A tied table of small numbers, so that all logits are; and a matrix whose small products the next one makes up
    for, so that they count."""
    checkpoint = random_checkpoint(Variant.parse("q-k=v"), std=0.2, **SIZES)
    weights = checkpoint["model_state_dict"]
    weights["wte.weight"] *= factor
    weights["h.0.mlp.c_fc.weight"] *= factor
    weights["h.0.mlp.c_fc.bias"] *= factor
    weights["h.0.mlp.c_proj.weight"] *= min(1 / factor, 1e4)
    torch.save(checkpoint, folder / "small.pt")
    return edgeqkv.load(folder / "small.pt")


CASES = [
    ("onnx", "int4", {"state": "int8"}),
    ("executorch", "int4", {"form": "portable"}),
    ("coreml", "int8", {"form": "linear"}),
    ("coreml", "lut4", {"form": "conv"}),
]


@pytest.mark.parametrize(("target", "weights", "options"), CASES)
def test_small_weights_keep_what_ordinary_ones_keep(
    tmp_path: Path, target: str, weights: str, options: dict[str, Any]
) -> None:
    """In the target's own runtime or what stands in for it, of numbers with a standard deviation of 2.5e-6."""
    model = small_model(tmp_path, 1.25e-5)
    bundle = edgeqkv.export(model, target, out=tmp_path / "bundle", weights=weights, context=16, chunk=4, **options)
    (card,) = bundle.manifest.targets.values()
    assert card.verification is not None
    assert card.verification.passed
    assert card.verification.tolerance < 0.2 * card.verification.scale < 2e-4
    ids = np.random.default_rng(1).integers(0, SIZES["vocab_size"], 12)
    got = edgeqkv.open(bundle.path, engine=backend(target).proof_engine).feed(ids)  # type: ignore[union-attr]
    wanted = sequence_logits(model, ids)[-1]
    # The checkpoint as it was, with numbers 80,000 times as large, is off by 0.33 to 0.36 with 4 bits and 0.026 with 8.
    assert np.linalg.norm(got - wanted) < (0.04 if weights == "int8" else 0.3) * np.linalg.norm(wanted)


def test_an_export_that_lost_small_weights_is_found_out(tmp_path: Path) -> None:
    model = small_model(tmp_path, 1.25e-5)
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "bundle", weights="fp32", context=16, chunk=4)
    artifact = bundle.target("onnx").artifact
    proof = make_proof(model, artifact)
    assert verify_artifact(bundle.path, artifact, proof).passed
    assert isinstance(proof, SequenceProof)
    lost = SequenceProof(proof.tokens, proof.lengths, proof.columns, np.zeros_like(proof.logits), proof.argmax)
    assert not verify_artifact(bundle.path, artifact, lost).passed


def test_what_is_added_to_every_logit_is_no_room_for_errors() -> None:
    logits = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    assert allowed_difference("fp32", logits) == pytest.approx(allowed_difference("fp32", logits + 30), rel=1e-3)
    assert allowed_difference("fp32", 1e-6 * logits) == pytest.approx(1e-6 * allowed_difference("fp32", logits))
    assert 0 < allowed_difference("fp32", np.ones((8, 5), np.float32)) < 1e-5
    assert allowed_difference("fp32", logits[:1]) > 0
    assert InputsProof(logits, logits).sampled().outputs is logits
