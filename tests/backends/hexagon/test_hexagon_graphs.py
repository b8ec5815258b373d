"""The graphs that Hexagon's compiler is given, run on the CPU: what is in them, and what they compute."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import DATA, read_encoder_golden, read_golden
from npu_bundles import opened, written
from onnx import TensorProto

import edgeqkv
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.pipeline.verify import verify

CHUNK = 16


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return written("hexagon", DATA / "k_eq_v_gqa.pt", tmp_path_factory.mktemp("merged") / "out", chunk=CHUNK)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("apart") / "out"
    return written("hexagon", DATA / "gqa.pt", out, chunk=CHUNK, weights="int4", verify=False)


def graph(bundle: Bundle, name: str) -> onnx.GraphProto:
    return onnx.load(bundle.path / f"hexagon_{name}.onnx").graph


def test_an_export_is_proven_and_says_how_to_compile_it(merged: Bundle) -> None:
    card = merged.target()
    assert card.verification is not None
    assert card.verification.passed
    assert card.verification.argmax_equal >= card.verification.steps - 1
    assert card.artifact.compiled is None
    assert "--soc v75" in card.artifact.details["compile_with"]
    assert verify(merged, against=edgeqkv.load(DATA / "k_eq_v_gqa.pt")).passed


def test_what_goes_in_and_comes_out_is_read_from_the_files(merged: Bundle, apart: Bundle) -> None:
    """A model that keeps keys and values apart takes twice the state of its sibling, into the graph and out of it."""
    sizes = {}
    for bundle in (merged, apart):
        for name in ("prefill", "decode"):
            ends = [*graph(bundle, name).input, *graph(bundle, name).output]
            state = [each for each in ends if each.name.startswith(("past_", "new_"))]
            assert {each.type.tensor_type.elem_type for each in state} == {TensorProto.UINT8}
            shapes = [[size.dim_value for size in each.type.tensor_type.shape.dim] for each in state]
            sizes[bundle.path, name] = sum(int(np.prod(shape)) for shape in shapes)
    for name in ("prefill", "decode"):
        assert sizes[apart.path, name] == 2 * sizes[merged.path, name]
    assert {tensor.zero for tensor in merged.target().artifact.state_tensors} == {128}


def test_text_that_the_ranges_were_not_observed_on(merged: Bundle) -> None:
    """Every position of the context, prefill and decode, against the original class's own logits."""
    golden = read_golden("k_eq_v_gqa")
    session = opened(merged)
    for start, stop in ((0, 20), *((at, at + 1) for at in range(20, 30)), (30, len(golden.ids))):
        logits = session.feed(golden.ids[start:stop])
        assert np.abs(logits - golden.logits[stop - 1]).max() < 0.05 * np.ptp(golden.logits), stop


def test_hidden_rows_count_nothing(merged: Bundle) -> None:
    """Whatever lies behind the filled part of the state, the logits are the same to the last bit."""
    session, other = opened(merged), opened(merged)
    tokens = np.arange(40) % session.vocab_size
    for rows in other._state.values():
        rows[:] = 255
    for piece in (tokens[:19], tokens[19:20], tokens[20:]):
        assert np.array_equal(session.feed(piece), other.feed(piece))


def test_a_call_that_is_filled_up_is_the_call_alone(merged: Bundle) -> None:
    """A prefill of fewer tokens than its chunk, and the same tokens one by one."""
    together, single = opened(merged), opened(merged)
    tokens = [3, 1, 4, 1, 5, 9, 2, 6]
    logits = together.feed(tokens)
    for token in tokens:
        last = single.feed([token])
    assert np.abs(logits - last).max() < 0.02 * np.ptp(logits)
    for name, rows in together._state.items():
        assert np.abs(rows[:, :, :8].astype(int) - single._state[name][:, :, :8]).max() <= 1


def test_rows_are_rounded_before_they_are_laid_out(merged: Bundle) -> None:
    """After a Reshape or Transpose the compiled graph cuts off what the CPU rounds."""
    nodes = {node.output[0]: node for node in graph(merged, "decode").node}
    for output in graph(merged, "decode").output[1:]:
        scales, name = [], output.name
        while nodes[name].op_type in ("QuantizeLinear", "DequantizeLinear", "Reshape", "Transpose"):
            if nodes[name].op_type == "QuantizeLinear":
                scales.append(tuple(nodes[name].input[1:]))
            name = nodes[name].input[0]
        moved, (before, *_) = scales[:-1], scales[-1:]
        assert len(set(moved)) == 1
        assert before != moved[0], "what the projection gives is 16-bit, and rounded to the state's codes after it"


def test_int4_is_in_blocks_whose_scales_are_codes(apart: Bundle) -> None:
    """Of a Gemm the compiler makes wrong numbers, and says nothing."""
    found = graph(apart, "decode")
    types = {each.name: each.data_type for each in found.initializer}
    nodes = {node.output[0]: node for node in found.node}
    users = {name: node.op_type for node in found.node for name in node.input}
    matrices = [node for node in found.node if types.get(node.input[0]) == TensorProto.INT4]
    assert len(matrices) == 6 * len(apart.target().artifact.state_tensors) // 2
    assert {users[node.output[0]] for node in matrices} == {"MatMul"}
    assert {types[nodes[node.input[1]].input[0]] for node in matrices} == {TensorProto.UINT8}
    gemms = [node for node in found.node if node.op_type == "Gemm"]
    assert len(gemms) == 1, "the head, which stays in int8"


def test_both_graphs_share_one_weight_file(merged: Bundle) -> None:
    details = merged.target().artifact.details
    places = [
        {entry.value for entry in each.external_data if entry.key == "location"}
        for name in ("prefill", "decode")
        for each in onnx.load(merged.path / f"hexagon_{name}.onnx", load_external_data=False).graph.initializer
        if each.external_data
    ]
    assert set().union(*places) == {details["weight_file"]}
    size = (merged.path / details["weight_file"]).stat().st_size
    assert size < 4 * edgeqkv.load(DATA / "k_eq_v_gqa.pt").parameters


@pytest.mark.parametrize("name", ["vit_digits_q_eq_k_eq_v_2d", "encoder_reverse_q_eq_k_ne_v"])
def test_encoders(tmp_path: Path, name: str) -> None:
    golden = read_encoder_golden(name)
    bundle = written("hexagon", golden.path, tmp_path / "out", batch=2)
    result = bundle.target().verification
    assert result is not None
    assert result.max_abs_error < 0.01 * result.scale
    got = edgeqkv.open(bundle.path).run(golden.inputs)
    assert (got.argmax(-1) == golden.logits.argmax(-1)).mean() > 0.98


def test_the_simulation_needs_something_compiled(merged: Bundle) -> None:
    with pytest.raises(UnsupportedError, match="not compiled for a chip"):
        edgeqkv.open(merged.path, engine="simulator")


def test_a_manifest_that_is_not_the_file_s(merged: Bundle) -> None:
    """Rows of another shape than the graph gives are refused before anything runs."""
    from edgeqkv.backends import backend

    artifact = merged.target().artifact
    wrong = [tensor.model_copy(update={"dtype": "int8"}) for tensor in artifact.state_tensors]
    with pytest.raises(BundleError, match="state input"):
        backend("hexagon").open(merged.path, artifact.model_copy(update={"state_tensors": tuple(wrong)}), "onnxruntime")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"soc": "v60"}, "cannot compile for 'v60'; it can for v73, v75, v79, v81"),
        ({"weights": "fp16"}, "cannot do weights 'fp16'; it can do int8, int4"),
        ({"state": "fp32"}, "cannot do state 'fp32'; it can do int8"),
    ],
    ids=["soc", "weights", "state"],
)
def test_what_it_cannot_do_is_said(tmp_path: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        written("hexagon", read_golden("qkv").path, tmp_path / "out", **options)


def test_a_chip_is_for_targets_that_compile(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="ONNX compiles for no chip; --soc is for --target hexagon"):
        edgeqkv.export(edgeqkv.load(read_golden("qkv").path), "onnx", out=tmp_path / "out", soc="v75")
