"""How much memory a graph's intermediate values take at once: liveness, for ONNX and for Core ML.

A value lives from the operation that makes it to the last one that reads it. The peak is the largest sum of the
values that live at the same time, with an operation's inputs and outputs alive together, as a runtime that gives
every value memory of its own and frees it after its last use needs it. ONNX Runtime does that for graphs whose
sizes vary (its planner reuses a block for another value only where it can prove the sizes equal): its arena
switched off and freed blocks given back, a process's peak differs from this by the size of small buffers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.extras import needed_for

if TYPE_CHECKING:
    from edgeqkv.mil.package import Function

__all__ = ["Peak", "Step", "coreml_steps", "onnx_steps", "peak"]

_ONNX_ALIASES = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"})
_CONSTANT_NUMBERS = 1 << 16  # larger tensors never decide a shape
_MIL_BYTES = {"fp16": 2, "fp32": 4, "int32": 4, "bool": 1, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "int64": 8}
_MIL_FREE = frozenset({"const", "read_state", "reshape", "expand_dims", "squeeze"})


@dataclass(frozen=True)
class Step:
    """One operation: the values it reads, and the bytes of each value it makes.

    ``alias`` is the value whose memory the output is (a reshape), if any; ``multiply_adds`` those of a matrix product.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, int]
    alias: str | None = None
    multiply_adds: int = 0


@dataclass(frozen=True)
class Peak:
    """The largest sum of live values, in bytes, and the operation at which it is reached."""

    bytes: int
    at: str


def peak(steps: Sequence[Step], outside: frozenset[str] = frozenset()) -> Peak:
    """The peak of a sequence of operations; values named in ``outside`` live in memory that is counted elsewhere."""
    owner: dict[str, str] = {}
    size: dict[str, int] = {}
    last_use: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name, count in step.outputs.items():
            owner[name] = owner.get(step.alias, step.alias) if step.alias is not None else name
            if owner[name] == name:
                size[name] = 0 if name in outside else count
        for name in (*step.inputs, *step.outputs):
            last_use[owner.get(name, name)] = index
    ends: dict[int, list[str]] = {}
    for name, index in last_use.items():
        ends.setdefault(index, []).append(name)
    live, highest = 0, Peak(0, "")
    for index, step in enumerate(steps):
        live += sum(size[name] for name in step.outputs if owner[name] == name)
        if live > highest.bytes:
            highest = Peak(live, step.name)
        live -= sum(size.get(name, 0) for name in ends.get(index, ()))
    return highest


def onnx_steps(path: Path, sizes: Mapping[str, int], values: Mapping[str, int]) -> list[Step]:
    """A graph's operations with every shape resolved.

    Args:
        path: the graph; its weights are not read.
        sizes: the named dimensions of its inputs.
        values: inputs that decide shapes (``kv_len``), and what they are.

    Raises:
        UnsupportedError: an operator's output size is not known.
        BundleError: the file is no ONNX graph.
    """
    with needed_for("working out an ONNX graph's activations"):
        import onnx
    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as error:  # protobuf's DecodeError differs between its implementations
        raise BundleError(f"{path} is not an ONNX graph: {error}") from error
    return list(_OnnxShapes(graph, sizes, values).steps())


class _OnnxShapes:
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
                name=f"{node.op_type} {node.output[0]}",
                inputs=tuple(name for name in node.input if name),
                outputs={name: 0 if folded else self._bytes(name) for name in outputs},
                alias=node.input[0] if node.op_type in _ONNX_ALIASES else None,
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


def coreml_steps(function: Function) -> list[Step]:
    """The operations of a function of fixed shapes.

    A state's memory and the constants are counted elsewhere, so values read from them take none here.

    Raises:
        UnsupportedError: a shape varies.
    """
    steps = []
    for operation in function.operations:
        inputs = tuple(operand.name for operands in operation.inputs.values() for operand in operands if operand.name)
        free = operation.type in _MIL_FREE or operation.type.startswith("constexpr_")
        outputs = {name: 0 if free else _mil_bytes(name, kind) for name, kind in operation.outputs.items()}
        shared = operation.type in ("reshape", "expand_dims", "squeeze")
        steps.append(Step(f"{operation.type} {operation.name}", inputs, outputs, inputs[0] if shared else None))
    return steps


def _mil_bytes(name: str, kind: Any) -> int:
    if any(size is None for size in kind.shape):
        raise UnsupportedError(f"the size of '{name}' varies from call to call, so its memory cannot be worked out")
    return int(prod(kind.shape)) * _MIL_BYTES.get(kind.dtype, 4)
