"""What a model's records ask for, in the forms that can express it; and the refusal of what no form can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_networks import HALVES, INTERLEAVED, PARTIAL, POSITIONS, VOCABULARY, Random, windowed_models

from edgeqkv import UnsupportedError, quantize
from edgeqkv.backends.footprint import RUNNING
from edgeqkv.backends.onnx import TARGET, export
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.model import shapes
from edgeqkv.model.layers import Heads
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

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


WINDOWED = windowed_models()

MODELS = {
    "halves": gated(HALVES),
    "partial": gated(PARTIAL),
    "interleaved": gated(INTERLEAVED),
    "merged": gated(HALVES, merged=True),
    "merged interleaved": gated(INTERLEAVED, merged=True),
    "norms and caps": normed(merged=False),
    "merged norms and caps": normed(merged=True),
    **WINDOWED,
}
SEPARATE = ["halves", "partial", "interleaved", "norms and caps", "window", "windows"]


CHUNK = 8


def request(form: str, state: str = "fp32") -> TargetSpec:
    return TargetSpec(form=form, weights="fp32", state=state, context=CONTEXT, chunk=CHUNK)


def assert_computes(directory: Path, artifact: Artifact, model: Model, tolerance: float = 5e-4) -> None:
    """Prefill and decode, across the chunk's boundary, to the last position, and again after a reset."""
    session = open_artifact(directory, artifact, "exact")
    assert isinstance(session, Session)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    expected = sequence_logits(model, tokens)
    for _ in range(2):
        start = 0
        for stop in (8, 16, 17, 18, 21, 29, 30, CONTEXT):
            assert np.abs(session.feed(tokens[start:stop]) - expected[stop - 1]).max() < tolerance
            start = stop
        session.reset()


@pytest.mark.parametrize("form", ["portable", "static"])
@pytest.mark.parametrize("name", MODELS)
def test_an_export_computes_what_the_records_say(name: str, form: str, tmp_path: Path) -> None:
    model = MODELS[name].with_context(CONTEXT)
    artifact = TARGET.export(model, tmp_path, request(form), silent)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 4, CHUNK)
    assert_computes(tmp_path, artifact, model)


@pytest.mark.parametrize("name", WINDOWED)
def test_a_ring_in_graphs_that_read_a_part_of_the_state(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_SMALLEST_WINDOW", 8)
    model = MODELS[name].with_context(CONTEXT)
    artifact = TARGET.export(model, tmp_path, request("static"), silent)
    assert [graph.window for graph in artifact.graphs] == [8, 8, 16, 16, 32, 32]
    assert_computes(tmp_path, artifact, model)


@pytest.mark.parametrize("name", SEPARATE)
def test_the_fused_operator_computes_what_the_records_say(name: str, tmp_path: Path) -> None:
    model = MODELS[name].with_context(CONTEXT)
    artifact = TARGET.export(model, tmp_path, request("ort"), silent)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 4, CONTEXT)  # no tensor is a ring
    assert_computes(tmp_path, artifact, model)


@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_onnxruntime_genai_is_given_a_window(state: str, tmp_path: Path) -> None:
    model = with_state(MODELS["window"].with_context(CONTEXT), state, None)
    spec = TargetSpec(form="genai", weights="fp32", state=state, context=CONTEXT, chunk=CHUNK, eos_token_ids=(0,))
    artifact = TARGET.export(model, tmp_path, spec, silent)
    assert {tensor.shape[2] for tensor in artifact.state_tensors} == {CONTEXT}
    assert_computes(tmp_path, artifact, model, 5e-4 if state == "fp32" else 2e-2)


@pytest.mark.parametrize("form", ["portable", "static", "ort"])
def test_int4_weights_and_an_int8_state_with_a_window(form: str, tmp_path: Path) -> None:
    config = QuantConfig("int4", schemes=TARGET.schemes)
    model = quantize.apply(MODELS["windows"].with_context(CONTEXT), config, silent)
    model = with_state(model, "int8", None)
    spec = TargetSpec(form=form, weights="int4", state="int8", context=CONTEXT, chunk=CHUNK)
    assert_computes(tmp_path, TARGET.export(model, tmp_path, spec, silent), model, 2e-2)


@pytest.mark.parametrize("name", ["norms and caps", "merged norms and caps", "merged window"])
def test_an_int8_state_of_what_is_rotated_as_it_is_read(name: str, tmp_path: Path) -> None:
    model = with_state(MODELS[name].with_context(CONTEXT), "int8", None)
    artifact = TARGET.export(model, tmp_path, request("portable", "int8"), silent)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    logits = open_artifact(tmp_path, artifact, "exact").feed(tokens)
    assert np.abs(logits - sequence_logits(model, tokens)[-1]).max() < 2e-2


@pytest.mark.parametrize("form", ["portable", "static", "genai"])
def test_rings_and_masks_are_planned_as_they_are_read(form: str, tmp_path: Path) -> None:
    r, heads = Random(width=64, inner=64), Heads(4, 2, 16)
    near, far = r.block(r.attention(heads, rope=PARTIAL, window=9)), r.block(r.attention(heads, merged=True))
    model = r.model([near, far, near]).with_context(POSITIONS)
    spec = TargetSpec(form=form, weights="fp32", state="fp32", context=POSITIONS, chunk=CHUNK, eos_token_ids=(0,))
    artifact, network = TARGET.export(model, tmp_path, spec, silent), shapes.of_network(model.network)
    terms = TARGET.memory.exported(tmp_path, artifact, network), TARGET.memory.planned(network, spec)
    read, planned = ({(term.name, term.phases): term.bytes for term in each} for each in terms)
    kept = 9 + CHUNK - 1 if form != "genai" else POSITIONS
    assert read["state", RUNNING] == planned["state", RUNNING]
    assert read["state", RUNNING] == (4 * kept + (2 if form == "genai" else 1) * POSITIONS) * 2 * 16 * 4
    assert read["activations", ("prefill",)] == pytest.approx(planned["activations", ("prefill",)], rel=0.05)


def test_onnxruntime_genai_holds_tensors_of_one_shape() -> None:
    r = Random()
    model = r.model([r.block(r.attention()), r.block(r.attention(Heads(2, 2, 12)))])
    with pytest.raises(UnsupportedError, match="has layers with different heads, which ONNX"):
        TARGET.export(model, Path("nowhere"), request("genai"), silent)


def test_what_cannot_be_expressed_is_named() -> None:
    r = Random()
    first = r.attention()
    sharing = r.model([r.block(first), r.block(replace(first, source=0))])
    with pytest.raises(UnsupportedError, match="layers that read another layer's state, which ONNX exports cannot"):
        TARGET.export(sharing, Path("nowhere"), request("ort"), silent)
    with pytest.raises(UnsupportedError, match="rotated keys of a merged state, which ONNX"):
        TARGET.export(MODELS["merged"], Path("nowhere"), request("ort"), silent)
