"""What one sees who opens a graph: where in the model a node is, and what the file says of itself."""

from __future__ import annotations

from pathlib import Path

import onnx
from conftest import read_encoder_golden, read_golden

import edgeqkv
from edgeqkv.backends import backend
from edgeqkv.backends.onnx.liveness import onnx_steps
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.extras import installed_version
from edgeqkv.model.model import Model
from edgeqkv.progress import silent


def write(model: Model, folder: Path, form: str = "portable") -> tuple[Artifact, onnx.ModelProto]:
    causal = {"state": "fp32", "context": model.config.positions, "chunk": 16} if model.causal else {}
    artifact = backend("onnx").export(model, folder, TargetSpec(form=form, weights="fp32", **causal), silent)
    return artifact, onnx.load(folder / "model.onnx", load_external_data=False)


def names(model: onnx.ModelProto) -> set[str]:
    return {node.name for node in model.graph.node}


def test_a_node_is_called_by_its_place_in_the_model(tiny_model: Model, tmp_path: Path) -> None:
    _, graph = write(tiny_model, tmp_path)
    assert len(names(graph)) == len(graph.graph.node)
    assert {
        "/embedding/Gather",
        "/h.0/attn_norm/LayerNormalization",
        "/h.0/attn/q/Gemm",
        "/h.0/attn/kv/Gemm",  # keys and values are one projection, which its name says
        "/h.0/attn/state_kv/ScatterND",
        "/h.0/attn/scores/MatMul",
        "/h.0/attn/scores/Softmax",
        "/h.1/mlp/down/Gemm",
        "/mask/Where",  # what all layers share belongs to none
        "/head/Gemm",
    } <= names(graph)
    assert not [name for name in names(graph) if name.startswith("/h.0/attn/k/")]


def test_a_value_is_called_like_the_node_that_makes_it(tiny_model: Model, tmp_path: Path) -> None:
    _, graph = write(tiny_model, tmp_path)
    ends = {value.name for value in graph.graph.output}
    assert ends == {"logits", "present_kv_0", "present_kv_1"}
    for node in graph.graph.node:
        assert node.output[0] in (node.name, *ends)


def test_the_fused_form_names_its_attention(tmp_path: Path) -> None:
    _, graph = write(edgeqkv.load(read_golden("gqa").path), tmp_path, "ort")
    assert {"/h.0/attn/GroupQueryAttention", "/h.0/attn/k/Gemm", "/h.0/attn/v/Gemm"} <= names(graph)


def test_encoders_have_places_too(tmp_path: Path) -> None:
    _, graph = write(edgeqkv.load(read_encoder_golden("vit_digits_q_ne_k_eq_v").path), tmp_path, "static")
    assert {"/stem/Gemm", "/h.0/attn/scores/MatMul", "/h.0/attn/mix/MatMul", "/head/Gemm"} <= names(graph)


def test_a_file_says_what_it_is(tiny_model: Model, tmp_path: Path) -> None:
    artifact, graph = write(tiny_model, tmp_path)
    facts = {prop.key: prop.value for prop in graph.metadata_props}
    assert facts["edgeqkv.version"] == installed_version("edgeqkv") == graph.producer_version
    assert facts["edgeqkv.variant"] == "q-k=v+gqa2"
    assert facts["edgeqkv.context"] == str(artifact.context)
    assert facts["edgeqkv.state"] == "kv_0 (kv) fp32 [1x2x48x8], kv_1 (kv) fp32 [1x2x48x8]"
    assert facts["edgeqkv.state.bytes"] == str(artifact.state_bytes)
    assert graph.doc_string.startswith("A q-k=v+gqa2 decoder of ")


def test_budgets_name_operators_as_a_viewer_does(tiny_model: Model, tmp_path: Path) -> None:
    _, graph = write(tiny_model, tmp_path)
    steps = onnx_steps(tmp_path / "model.onnx", {"tokens": 4}, {"kv_len": 4})
    assert {step.name for step in steps} == names(graph)
