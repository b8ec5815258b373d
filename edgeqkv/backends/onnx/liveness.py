"""The operations of an ONNX graph, and how much memory each one's results take.

ONNX Runtime gives every value of a graph whose sizes vary memory of its own (its planner reuses a block for another
value only where it can prove the sizes equal): its arena switched off and freed blocks given back, a process's peak
differs from what liveness says (`edgeqkv.reference.liveness`) by the size of small buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.extras import needed_for
from edgeqkv.reading import reading
from edgeqkv.reference.liveness import Step

__all__ = ["onnx_steps"]

_ALIASES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_CONSTANT_NUMBERS = 1 << 16  # larger tensors never decide a shape


def onnx_steps(path: Path, sizes: Mapping[str, int], values: Mapping[str, int]) -> list[Step]:
    """A graph's operations with every shape resolved.

    Args:
        path: the graph; its weights are not read.
        sizes: the named dimensions of its inputs.
        values: inputs that decide shapes (``kv_len``), and what they are.

    Raises:
        UnsupportedError: an operator's output size is not known.
        BundleError: the file is no ONNX graph, or contradicts itself.
    """
    with needed_for("working out an ONNX graph's activations"):
        import onnx
    with reading(path, "an ONNX graph", BundleError):  # whose names and shapes may be anything, too
        graph = onnx.load(path, load_external_data=False).graph
        return list(_Shapes(graph, sizes, values).steps())


class _Shapes:
    """Walks an ONNX graph in order and keeps every value's type and, where it is small and constant, its content."""

    def __init__(self, graph: Any, sizes: Mapping[str, int], values: Mapping[str, int]) -> None:
        import onnx

        self._onnx = onnx
        self._graph = graph
        self._types: dict[str, Any] = {}
        self._content: dict[str, Any] = {}
        for value in graph.input:
            shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
            self._types[value.name] = self._type(value.type.tensor_type.elem_type, shape)
            if value.name in values:
                self._content[value.name] = onnx.numpy_helper.from_array(np.array([values[value.name]]), value.name)
        for tensor in graph.initializer:
            self._types[tensor.name] = self._type(tensor.data_type, tensor.dims)
            if tensor.data_location != onnx.TensorProto.EXTERNAL and prod(tensor.dims) <= _CONSTANT_NUMBERS:
                self._content[tensor.name] = tensor
        self._weights = {tensor.name for tensor in graph.initializer}

    def steps(self) -> Iterator[Step]:
        for node in self._graph.node:
            outputs = self._infer(node)
            self._types.update(outputs)
            self._fold(node)
            folded = all(name in self._weights for name in node.input if name)
            if folded:  # computed once, at load: a weight like the others
                self._weights.update(node.output)
            yield Step(
                name=node.name or f"{node.op_type} {node.output[0]}",
                inputs=tuple(name for name in node.input if name),
                outputs={name: 0 if folded else self._bytes(name) for name in outputs},
                alias=node.input[0] if node.op_type in _ALIASES else None,
                multiply_adds=self._multiply_adds(node),
            )

    def _multiply_adds(self, node: Any) -> int:
        """One for each number of the result and each that it sums over."""
        if node.op_type not in ("Gemm", "MatMul", "MatMulNBits"):
            return 0
        return prod(self._shape(node.output[0])) * self._shape(node.input[0])[-1]

    def _infer(self, node: Any) -> dict[str, Any]:
        if node.domain == "com.microsoft":
            return self._infer_microsoft(node)
        onnx = self._onnx
        opset = onnx.defs.onnx_opset_version()
        inferred: dict[str, Any] = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, opset, node.domain),
            node,
            {name: self._types[name] for name in node.input if name},
            {name: self._content[name] for name in node.input if name in self._content},
            opset_imports=[onnx.helper.make_opsetid("", opset)],
        )
        return inferred

    def _infer_microsoft(self, node: Any) -> dict[str, Any]:
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        first = self._shape(node.input[0])
        float32 = self._onnx.TensorProto.FLOAT
        match node.op_type:
            case "MatMulNBits":
                kind = self._types[node.input[0]].tensor_type.elem_type
                return {node.output[0]: self._type(kind, [*first[:-1], attributes["N"]])}
            case "GatherBlockQuantized":
                packed = self._types[node.input[0]].tensor_type.elem_type == self._onnx.TensorProto.UINT8
                width = first[1] * (8 // attributes.get("bits", 4) if packed else 1)
                return {node.output[0]: self._type(float32, [*self._shape(node.input[1]), width])}
            case "GroupQueryAttention":
                return dict(zip(node.output, (self._types[node.input[i]] for i in (0, 3, 4)), strict=True))
        raise UnsupportedError(f"the memory that the operator {node.op_type} takes is not known to this edgeqkv")

    def _fold(self, node: Any) -> None:
        """Compute a node of small whole numbers, whose content decides later shapes."""
        if node.op_type == "Shape":
            first, last = (next((a.i for a in node.attribute if a.name == name), None) for name in ("start", "end"))
            sizes = np.array(self._shape(node.input[0])[first:last])
            self._content[node.output[0]] = self._onnx.numpy_helper.from_array(sizes, node.output[0])
            return
        if node.domain or any(name and name not in self._content for name in node.input):
            return
        kinds = {self._types[name].tensor_type.elem_type for name in node.input if name}
        if kinds != {self._onnx.TensorProto.INT64}:
            return
        from onnx.reference import ReferenceEvaluator

        helper = self._onnx.helper
        inputs = [helper.make_value_info(name, self._types[name]) for name in dict.fromkeys(node.input) if name]
        outputs = [helper.make_value_info(node.output[0], self._types[node.output[0]])]
        model = helper.make_model(helper.make_graph([node], "constant", inputs, outputs))
        feeds = {each.name: self._onnx.numpy_helper.to_array(self._content[each.name]) for each in inputs}
        (result,) = ReferenceEvaluator(model).run(None, feeds)
        array = np.asarray(result)
        self._types[node.output[0]] = self._type(self._types[node.output[0]].tensor_type.elem_type, array.shape)
        if array.size <= _CONSTANT_NUMBERS:
            self._content[node.output[0]] = self._onnx.numpy_helper.from_array(array, node.output[0])

    def _type(self, element: int, shape: Sequence[int]) -> Any:
        return self._onnx.helper.make_tensor_type_proto(element, list(shape))

    def _shape(self, name: str) -> list[int]:
        return [int(dim.dim_value) for dim in self._types[name].tensor_type.shape.dim]

    def _bytes(self, name: str) -> int:
        tensor = self._types[name].tensor_type
        if not all(dim.HasField("dim_value") for dim in tensor.shape.dim):
            raise UnsupportedError(f"the size of '{name}' cannot be worked out from the graph")
        element_bytes: int = self._onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
        return element_bytes * prod(self._shape(name))
