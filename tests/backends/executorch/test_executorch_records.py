"""What a model's records ask for, and the refusal of what the format cannot express."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_networks import HALVES, PARTIAL, VOCABULARY, Random, windowed_models

from edgeqkv import UnsupportedError, quantize
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.model.layers import Heads, ScoreTerm
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

CONTEXT, CHUNK = 32, 8


def export(model: Model, directory: Path, form: str, weights: str = "fp32", state: str = "fp32") -> Artifact:
    spec = TargetSpec(form=form, weights=weights, state=state, context=CONTEXT, chunk=CHUNK)
    return TARGET.export(model, directory, spec, silent)


def assert_computes(directory: Path, artifact: Artifact, model: Model, tolerance: float) -> None:
    """Prefill and decode, across the chunk's boundary, to the last position, and again after a reset."""
    session = open_artifact(directory, artifact, "executorch")
    assert isinstance(session, Session)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    expected = sequence_logits(model, tokens)
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    for _ in range(2):
        start = 0
        for stop in (8, 16, 17, 18, 21, 29, 30, CONTEXT):
            assert np.abs(session.feed(tokens[start:stop]) - expected[stop - 1]).max() < allowed
            start = stop
        session.reset()


FULL = pytest.mark.full


@pytest.mark.parametrize("form", ["stock", pytest.param("portable", marks=FULL)])
def test_an_export_computes_what_the_records_say(form: str, tmp_path: Path) -> None:
    r = Random()
    norms = {"q_norm": r.rms(8), "k_norm": r.rms(8, offset=1.0)}
    attention = r.attention(Heads(4, 2, 8), rope=HALVES, scale=0.5, **norms)
    block = r.block(attention, attention_post_norm=r.rms(), mlp=r.mlp(gated=True, activation="silu"))
    other = r.block(r.attention(Heads(2, 2, 8), merged=True), mlp=r.mlp(activation="relu"))
    model = r.model([block, other], logit_softcap=5.0).with_context(CONTEXT)
    artifact = export(model, tmp_path, form)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 4)
    assert_computes(tmp_path, artifact, model, 5e-4)


def capped() -> Model:
    """Capped scores, and keys of a merged state that are normalized and rotated as they are read."""
    r = Random(5, width=32, inner=64)
    norms = {"q_norm": r.rms(8), "k_norm": r.rms(8, offset=1.0)}
    merged = r.attention(Heads(4, 1, 8), merged=True, rope=PARTIAL, **norms)
    return r.model([r.block(r.attention(Heads(4, 2, 8), rope=HALVES, softcap=1.5)), r.block(merged)])


def rings() -> Model:
    """A separate and a merged layer that see only so far back."""
    r = Random(7, width=32, inner=64)
    separate = r.attention(Heads(4, 2, 8), rope=HALVES, window=6, softcap=2.0)
    merged = r.attention(Heads(4, 1, 8), merged=True, rope=PARTIAL, window=5, k_norm=r.rms(8, offset=1.0))
    return r.model([r.block(separate), r.block(merged)])


MODELS = {"caps and merged keys": capped(), "rings": rings(), **windowed_models()}


# Few, for lowering them takes long.
CASES = [
    ("caps and merged keys", "stock"),
    pytest.param("windows", "stock", marks=FULL),
    ("window", "static"),
    ("merged window", "portable"),
]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_windows_caps_and_merged_keys(name: str, form: str, tmp_path: Path) -> None:
    model = MODELS[name].with_context(CONTEXT)
    artifact = export(model, tmp_path, form)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 4, CHUNK)
    assert_computes(tmp_path, artifact, model, 1e-4)


@pytest.mark.parametrize(
    ("name", "weights", "state", "tolerance"),
    [pytest.param("rings", "int4", "int8", 6e-2, marks=FULL), ("window", "fp16", "fp16", 5e-3)],
)
def test_small_numbers_with_a_window(name: str, weights: str, state: str, tolerance: float, tmp_path: Path) -> None:
    config = QuantConfig(weights, schemes=TARGET.schemes)
    model = quantize.apply(MODELS[name].with_context(CONTEXT), config, silent)
    model = with_state(model, state, None)
    assert_computes(tmp_path, export(model, tmp_path, "stock", weights, state), model, tolerance)


def test_what_cannot_be_expressed_is_named() -> None:
    r = Random()
    attention = r.attention(Heads(2, 2, 8), term=ScoreTerm(1.0, r.weight(CONTEXT, CONTEXT)))
    with pytest.raises(UnsupportedError, match="a position term in causal attention, which ExecuTorch exports cannot"):
        export(r.model([r.block(attention)]), Path("nowhere"), "stock")
