"""What a TOSA graph takes and gives, read off its flatbuffer."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any, Final

from tosa.DType import DType
from tosa.Op import Op
from tosa.TosaGraph import TosaGraph

from edgeqkv.backends.held import HeldGraph, HeldTensor, exactly
from edgeqkv.bundle.manifest import Graph, TensorSpec

__all__ = ["held_by"]

_TYPES: Final = {DType.INT8: "int8", DType.INT32: "int32", DType.INT16: "fp32"}
"""Real numbers leave a graph in codes of 16 bits, which its caller multiplies."""


def held_by(content: bytes, graph: Graph) -> HeldGraph:
    """A graph as its file has it. What it is called with has no order by names; it is given those of the manifest.

    Raises:
        struct.error, AttributeError, IndexError: the flatbuffer is damaged.
    """
    block = TosaGraph.GetRootAs(content).Regions(0).Blocks(0)
    tensors = {tensor.Name(): tensor for tensor in map(block.Tensors, range(block.TensorsLength()))}
    inputs = [block.Inputs(index) for index in range(block.InputsLength())]
    outputs = [block.Outputs(index) for index in range(block.OutputsLength())]
    tokens = next((i for i, spec in enumerate(graph.inputs) if spec.role == "tokens"), None)
    return HeldGraph(
        inputs=_named(graph.inputs, [tensors[name] for name in inputs]),
        outputs=_named(graph.outputs, [tensors[name] for name in outputs]),
        rows=None if tokens is None else _rows(block, tensors, inputs[tokens]),
    )


def _named(specs: tuple[TensorSpec, ...], tensors: list[Any]) -> dict[str, HeldTensor]:
    """By the names of the specs and, if there are more of them, their numbers."""
    pairs = enumerate(zip_longest([spec.name for spec in specs], tensors))
    return {
        f"number {index}" if name is None else name: _tensor(tensor)
        for index, (name, tensor) in pairs
        if tensor is not None
    }


def _tensor(tensor: Any) -> HeldTensor:
    sizes = [tensor.Shape(index) for index in range(tensor.ShapeLength())]
    return exactly(_TYPES.get(tensor.Type(), "another type"), sizes)


def _rows(block: Any, tensors: dict[bytes, Any], ids: bytes) -> int | None:
    """Rows of the smallest table that is looked up in with this input."""
    operators = map(block.Operators, range(block.OperatorsLength()))
    lookups = (each for each in operators if each.Op() == Op.GATHER and each.Inputs(1) == ids)
    return min((tensors[each.Inputs(0)].Shape(1) for each in lookups), default=None)
