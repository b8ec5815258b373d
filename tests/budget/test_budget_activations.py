"""Liveness: by hand on small graphs, and on the exported ones against the closed form."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

import edgeqkv
from edgeqkv.budget.activations import Step, coreml_steps, onnx_steps, peak
from edgeqkv.errors import BundleError, UnsupportedError


def test_inputs_and_outputs_of_an_operation_live_together() -> None:
    steps = [Step("a", (), {"x": 10}), Step("b", ("x",), {"y": 20}), Step("c", ("y",), {"z": 5})]
    assert peak(steps).bytes == 30
    assert peak(steps).at == "b"


def test_a_value_lives_until_its_last_use() -> None:
    steps = [Step("a", (), {"x": 10}), Step("b", ("x",), {"y": 20}), Step("c", ("x", "y"), {"z": 5})]
    assert peak(steps).bytes == 35


def test_a_reshape_takes_nothing_and_keeps_its_source_alive() -> None:
    steps = [
        Step("a", (), {"x": 10}),
        Step("reshape", ("x",), {"v": 10}, alias="x"),
        Step("reshape again", ("v",), {"w": 10}, alias="v"),
        Step("b", (), {"y": 7}),
        Step("c", ("w", "y"), {"z": 1}),
    ]
    assert peak(steps).bytes == 18


def test_bound_outputs_are_counted_elsewhere() -> None:
    steps = [Step("a", (), {"x": 10}), Step("b", ("x",), {"y": 90})]
    assert peak(steps, frozenset({"y"})).bytes == 10


def test_nothing_lives_in_an_empty_graph() -> None:
    assert peak([]).bytes == 0


def graph(path: Path, nodes: list[onnx.NodeProto], *, domain: str = "") -> Path:
    shape = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, "T"])
    count = helper.make_tensor_value_info("n", TensorProto.INT64, [1])
    out = helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, None)
    opsets = [helper.make_opsetid("", 24), *([helper.make_opsetid(domain, 1)] if domain else [])]
    constants = [helper.make_tensor(n, TensorProto.INT64, [1], [v]) for n, v in (("zero", 0), ("one", 1))]
    body = helper.make_graph(nodes, "g", [shape, count], [out], constants)
    model = helper.make_model(body, opset_imports=opsets)
    path.write_bytes(model.SerializeToString())
    return path


def test_sizes_and_values_resolve_an_onnx_graphs_shapes(tmp_path: Path) -> None:
    nodes = [helper.make_node("Slice", ["x", "zero", "n", "one"], ["y"])]
    steps = onnx_steps(graph(tmp_path / "g.onnx", nodes), {"T": 12}, {"n": 5})
    assert steps[-1].outputs == {"y": 5 * 4}


def test_an_operator_of_unknown_size_is_an_error(tmp_path: Path) -> None:
    nodes = [helper.make_node("Mystery", ["x"], ["y"], domain="com.microsoft")]
    path = graph(tmp_path / "g.onnx", nodes, domain="com.microsoft")
    with pytest.raises(UnsupportedError, match="Mystery"):
        onnx_steps(path, {"T": 1}, {})


def test_a_file_that_is_no_graph_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"\xff\xff\xff nonsense")
    with pytest.raises(BundleError, match=r"g\.onnx"):
        onnx_steps(tmp_path / "g.onnx", {}, {})


def test_core_mls_graph_is_resolved_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    pytest.importorskip("coremltools")
    from edgeqkv.mil.package import Package

    bundle = edgeqkv.export(edgeqkv.load(tiny_checkpoint), "coreml", out=tmp_path / "b", chunk=16, verify=False)
    package = Package(bundle.path / bundle.target().artifact.graphs[0].file)
    prefill, decode = (peak(coreml_steps(package.function(name))).bytes for name in ("prefill", "decode"))
    assert prefill > decode > 0
