"""What a model's records ask for, in the forms that can express it; and the refusal of what no form can."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_networks import HALVES, INTERLEAVED, PARTIAL, VOCABULARY, Random

from edgeqkv import UnsupportedError
from edgeqkv.backends.onnx import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.model.layers import Heads
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import open_artifact

CONTEXT = 32


def gated(rope: object, *, merged: bool = False, heads: Heads = Heads(4, 2, 8)) -> Model:  # noqa: B008
    r = Random()
    return r.model([r.block(r.attention(heads, merged=merged, rope=rope), mlp=r.mlp(gated=True, activation="silu"))])


def normed(*, merged: bool) -> Model:
    r = Random()
    norms = {"q_norm": r.rms(8), "k_norm": r.rms(8, offset=1.0)}
    attention = r.attention(merged=merged, rope=HALVES, softcap=2.0, scale=0.5, **norms)
    block = r.block(attention, attention_post_norm=r.rms(), mlp=r.mlp(gated=True, activation="gelu_tanh"))
    return r.model([block, r.block(r.attention(Heads(2, 2, 8)))], embedding_scale=3.0, logit_softcap=5.0)


MODELS = {
    "halves": gated(HALVES),
    "partial": gated(PARTIAL),
    "interleaved": gated(INTERLEAVED),
    "merged": gated(HALVES, merged=True),
    "merged interleaved": gated(INTERLEAVED, merged=True),
    "norms and caps": normed(merged=False),
    "merged norms and caps": normed(merged=True),
}


def request(form: str, state: str = "fp32") -> TargetSpec:
    return TargetSpec(form=form, weights="fp32", state=state, context=CONTEXT, chunk=8)


@pytest.mark.parametrize("form", ["portable", "static"])
@pytest.mark.parametrize("name", MODELS)
def test_an_export_computes_what_the_records_say(name: str, form: str, tmp_path: Path) -> None:
    model = MODELS[name].with_context(CONTEXT)
    artifact = TARGET.export(model, tmp_path, request(form), silent)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 4)
    session = open_artifact(tmp_path, artifact, "exact")
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    expected = sequence_logits(model, tokens)
    for start, stop in ((0, 8), (8, 16), (16, 17), (17, 20), (20, CONTEXT)):
        assert np.abs(session.feed(tokens[start:stop]) - expected[stop - 1]).max() < 5e-4


@pytest.mark.parametrize("name", ["norms and caps", "merged norms and caps"])
def test_an_int8_state_of_what_is_rotated_as_it_is_read(name: str, tmp_path: Path) -> None:
    model = with_state(MODELS[name].with_context(CONTEXT), "int8", None)
    artifact = TARGET.export(model, tmp_path, request("portable", "int8"), silent)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    logits = open_artifact(tmp_path, artifact, "exact").feed(tokens)
    assert np.abs(logits - sequence_logits(model, tokens)[-1]).max() < 2e-2


def test_what_cannot_be_expressed_is_named() -> None:
    r = Random()
    with pytest.raises(UnsupportedError, match="has an attention window, which ONNX exports cannot express yet"):
        TARGET.export(r.model([r.block(r.attention(window=4))]), Path("nowhere"), request("portable"), silent)
    with pytest.raises(UnsupportedError, match="has rotary positions, which ONNX"):
        TARGET.export(gated(HALVES), Path("nowhere"), request("ort"), silent)
