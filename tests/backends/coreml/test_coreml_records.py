"""What a model's records ask for: packages saved and evaluated; and the refusal of what no form can express."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_networks import HALVES, INTERLEAVED, PARTIAL, VOCABULARY, Random, windowed_models

from edgeqkv import UnsupportedError, quantize
from edgeqkv.backends.coreml import TARGET
from edgeqkv.backends.coreml.standalone import read_artifact
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.mil.package import Package
from edgeqkv.model.layers import Heads
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

CONTEXT, CHUNK = 32, 8

FORMS = ["linear-onehot", "conv", "conv-slice"]
RUNNERS = ["swift-transformers", "swift-transformers-1"]


def rotated() -> Model:
    """Three kinds of rotation, gates, and layers that are alike but for them."""
    r, heads = Random(1, width=32, inner=64), Heads(4, 2, 8)
    gated = r.mlp(gated=True, activation="silu")
    return r.model([r.block(r.attention(heads, rope=rope), mlp=gated) for rope in (HALVES, PARTIAL, INTERLEAVED)])


def normed() -> Model:
    """Norms of heads and after parts, caps and scales, on layers that differ in heads and in what they share."""
    r = Random(2, width=32, inner=64)
    norms = {"q_norm": r.rms(8), "k_norm": r.rms(8, offset=1.0)}
    merged = r.attention(Heads(4, 1, 8), merged=True, rope=INTERLEAVED, scale=0.5, **norms)
    capped = r.attention(Heads(2, 2, 16), softcap=2.0, scale=0.3)
    blocks = [
        r.block(merged, attention_post_norm=r.rms(offset=1.0), mlp_post_norm=r.layer_norm()),
        r.block(capped, mlp=r.mlp(gated=True, activation="gelu_tanh")),
        r.block(r.attention(Heads(4, 1, 8), rope=HALVES, **norms)),
    ]
    return r.model(blocks, embedding_scale=3.0, logit_softcap=5.0)


MODELS = {"rotated": rotated(), "norms and caps": normed(), **windowed_models()}


def export(model: Model, directory: Path, form: str, weights: str = "fp16") -> tuple[Model, Artifact]:
    """The model as it is stored, and its export."""
    stored = quantize.apply(model.with_context(CONTEXT), QuantConfig(weights, schemes=TARGET.schemes), silent)
    spec = TargetSpec(form=form, weights=weights, state="fp16", context=CONTEXT, chunk=CHUNK)
    return stored, TARGET.export(stored, directory, spec, silent)


def assert_computes(
    directory: Path, artifact: Artifact, model: Model, engine: str = "evaluator", tolerance: float = 1e-4
) -> None:
    """Prefill and decode, across the chunk's boundary, to the last position, and again after a reset."""
    session = open_artifact(directory, artifact, engine)
    assert isinstance(session, Session)
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    expected = sequence_logits(model, tokens)
    allowed = tolerance * max(1.0, float(np.abs(expected).max()))
    for _ in range(2):
        start = 0
        for stop in (8, 16, 17, 18, 26, 30, CONTEXT):
            assert np.abs(session.feed(tokens[start:stop]) - expected[stop - 1]).max() < allowed
            start = stop
        session.reset()


CASES = [(name, "linear") for name in MODELS] + [("windows", form) for form in FORMS] + [("norms and caps", "conv")]


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_package_computes_what_the_records_say(name: str, form: str, tmp_path: Path) -> None:
    model, artifact = export(MODELS[name], tmp_path, form)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 2, CHUNK)
    assert_computes(tmp_path, artifact, model)
    if form == "linear":
        assert_computes(tmp_path, artifact, model, "evaluator-fp16", 2e-2)


@pytest.mark.parametrize("form", RUNNERS)
@pytest.mark.parametrize("name", ["window", "merged window"])
def test_swift_transformers_keeps_the_whole_context(name: str, form: str, tmp_path: Path) -> None:
    model, artifact = export(MODELS[name], tmp_path, form)
    assert {tensor.shape[2] for tensor in artifact.state_tensors} == {CONTEXT}
    assert_computes(tmp_path, artifact, model)
    assert_computes(tmp_path, artifact, model, "evaluator-fp16", 2e-2)


@pytest.mark.parametrize("weights", ["int4", "int8", "lut4"])
def test_small_weights_with_a_window(weights: str, tmp_path: Path) -> None:
    model, artifact = export(MODELS["windows"], tmp_path, "conv", weights)
    assert_computes(tmp_path, artifact, model)


def test_layers_that_are_alike_share_a_state(tmp_path: Path) -> None:
    _, artifact = export(MODELS["windows"], tmp_path, "linear")
    assert {tensor.name: (tensor.role, tensor.shape) for tensor in artifact.state_tensors} == {
        "k_cache": ("k", (1, 2, 6 + CHUNK - 1, 8)),
        "v_cache": ("v", (1, 2, 6 + CHUNK - 1, 8)),
        "kv_cache": ("kv", (1, 2, CONTEXT, 16)),
        "kv_cache_2": ("kv", (1, 1, 1 + CHUNK - 1, 8)),
        "k_cache_2": ("k", (1, 1, CONTEXT, 8)),
        "v_cache_2": ("v", (1, 1, CONTEXT, 8)),
    }
    package = tmp_path / "model.mlpackage"
    assert Package(package).function().states.keys() == {tensor.name for tensor in artifact.state_tensors}
    assert read_artifact(package).state_tensors == artifact.state_tensors


def test_tables_of_positions_are_stored_once(tmp_path: Path) -> None:
    _, artifact = export(MODELS["rotated"], tmp_path, "linear")
    package = Package(tmp_path / "model.mlpackage")
    tables = [
        [op for op in function.operations if op.type == "const" and "fp32" in str(op.outputs)]
        for function in package.functions.values()
    ]
    assert [len(each) for each in tables] == [6, 6]  # sines and cosines of three rotations
    assert len(artifact.graphs) == 2


def test_what_a_form_cannot_hold_is_named() -> None:
    with pytest.raises(UnsupportedError, match="layers differ in heads or in what they share, and the runner of swift"):
        export(MODELS["norms and caps"], Path("nowhere"), "swift-transformers")
