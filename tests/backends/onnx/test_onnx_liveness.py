"""The operations of small ONNX graphs, and what their results take."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgeqkv.backends.onnx.liveness import onnx_steps
from edgeqkv.errors import BundleError, UnsupportedError


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


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Relu", ["nobody"], ["y"]),
        helper.make_node("Nonsense", ["x"], ["y"]),
        helper.make_node("Shape", [], ["y"]),
        helper.make_node("MatMulNBits", ["x"], ["y"], domain="com.microsoft"),
    ],
    ids=["input", "operator", "inputs", "attributes"],
)
def test_a_graph_that_contradicts_itself_is_an_error(tmp_path: Path, node: onnx.NodeProto) -> None:
    with pytest.raises(BundleError, match=r"g\.onnx is not an ONNX graph or is damaged: "):
        onnx_steps(graph(tmp_path / "g.onnx", [node], domain="com.microsoft"), {"T": 1}, {})
