"""What a method of a ``.pte`` takes, gives and keeps, and the table of its tokens, read off the flatbuffer."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from typing import Final

from edgeqkv.backends.executorch.flatbuffer import Table
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.held import HeldGraph, HeldTensor, exactly
from edgeqkv.bundle.manifest import Graph, TensorSpec
from edgeqkv.errors import BundleError

__all__ = ["called", "ends", "held"]

# Numbers of ``program.fbs``, as in `edgeqkv.backends.executorch.program`.
_VALUES, _INPUTS, _OUTPUTS, _CHAINS, _OPERATORS, _DELEGATES = 2, 3, 4, 5, 6, 7
_INSTRUCTIONS: Final = 2
_UNION_TYPE, _UNION = 0, 1
_IS_TENSOR, _IS_KERNEL_CALL, _IS_DELEGATE_CALL = 5, 1, 2
_SCALAR_TYPE, _SIZES, _DYNAMISM = 0, 2, 8
_DTYPES: Final = {0: "uint8", 1: "int8", 3: "int32", 4: "int64", 5: "fp16", 6: "fp32", 11: "bool"}

_GATHERS: Final = ("aten::embedding", "quantized_decomposed::embedding")
"""Operators whose first argument is a table, of whose rows they take some."""


def held(file: ProgramFile, graph: Graph) -> HeldGraph:
    """A method as the file has it. Its ends have no names there; they are given those of the graph, in its order.

    Raises:
        BundleError: the flatbuffer is damaged.
    """
    try:
        method = _Method(file.method(graph.name))
        return HeldGraph(
            inputs=method.named(graph.inputs, _INPUTS),
            outputs=method.named(graph.outputs, _OUTPUTS),
            states={each.name: exactly(each.dtype, each.shape) for each in file.plans()[graph.name].buffers},
            rows=method.rows(next((i for i, spec in enumerate(graph.inputs) if spec.role == "tokens"), None)),
        )
    except (struct.error, UnicodeDecodeError, LookupError) as error:
        raise BundleError(
            f"{file.path} is damaged: its method '{graph.name}' cannot be read; export it again"
        ) from error


def ends(file: ProgramFile, name: str) -> tuple[dict[str, HeldTensor], dict[str, HeldTensor]]:
    """What a method takes and gives, tensor by tensor; they have numbers and no names.

    Raises:
        struct.error, UnicodeDecodeError, LookupError: the flatbuffer is damaged.
    """
    method = _Method(file.method(name))
    return method.tensors(_INPUTS), method.tensors(_OUTPUTS)


def called(file: ProgramFile, name: str) -> tuple[Counter[str], Counter[str]]:
    """How often a method calls each operator, and each backend that parts of it were handed to.

    Raises:
        struct.error, UnicodeDecodeError, LookupError: the flatbuffer is damaged.
    """
    return _Method(file.method(name)).called()


class _Method:
    """An execution plan: values, and calls of operators with some of them."""

    def __init__(self, plan: Table) -> None:
        self._plan = plan
        values = [
            value.table(_UNION) if value.number(_UNION_TYPE, "B") == _IS_TENSOR else None
            for value in plan.tables(_VALUES)
        ]
        self._tensors = {index: tensor for index, tensor in enumerate(values) if tensor is not None}

    def named(self, specs: tuple[TensorSpec, ...], ends: int) -> dict[str, HeldTensor]:
        """The method's inputs or outputs, by the names of the specs and, if there are more of them, their numbers."""
        names = [spec.name for spec in specs]
        places = self._plan.numbers(ends, "i")
        return {
            f"number {index}" if name is None else name: self._tensor(place)
            for index, (name, place) in enumerate(zip_longest(names, places))
            if place is not None
        }

    def tensors(self, ends: int) -> dict[str, HeldTensor]:
        """The method's inputs or outputs that are tensors, by their numbers."""
        places = self._plan.numbers(ends, "i")
        return {f"number {index}": self._tensor(place) for index, place in enumerate(places) if place in self._tensors}

    def called(self) -> tuple[Counter[str], Counter[str]]:
        """How often each operator is called, and each delegate."""
        operators = [each.text(0).removeprefix("aten::") for each in self._plan.tables(_OPERATORS)]
        delegates = [each.text(0) for each in self._plan.tables(_DELEGATES)]
        kernels = Counter(operators[operator] for operator, _ in self._calls())
        handed = Counter(
            delegates[call.number(0, "i")] for kind, call in self._instructions() if kind == _IS_DELEGATE_CALL
        )
        return kernels, handed

    def rows(self, tokens: int | None) -> int | None:
        """Rows of the smallest table whose rows the input of that number chooses, by all that follows from it."""
        if tokens is None:
            return None
        ids, rows = {self._plan.numbers(_INPUTS, "i")[tokens]}, []
        operators = [operator.text(0) for operator in self._plan.tables(_OPERATORS)]
        for operator, arguments in self._calls():
            tensors = [each for each in arguments if each in self._tensors]
            if ids.isdisjoint(tensors):
                continue
            if operators[operator].startswith(_GATHERS):
                rows.append(self._tensors[tensors[0]].numbers(_SIZES, "i")[0])
            else:
                ids.update(tensors)
        return min(rows, default=None)

    def _calls(self) -> Iterator[tuple[int, list[int]]]:
        """Every call of an operator: its number, and the values that are its arguments, its results among them."""
        for kind, call in self._instructions():
            if kind == _IS_KERNEL_CALL:
                yield call.number(0, "i"), call.numbers(1, "i")

    def _instructions(self) -> Iterator[tuple[int, Table]]:
        for chain in self._plan.tables(_CHAINS):
            for instruction in chain.tables(_INSTRUCTIONS):
                call = instruction.table(_UNION)
                if call is not None:
                    yield instruction.number(_UNION_TYPE, "B"), call

    def _tensor(self, place: int) -> HeldTensor:
        tensor = self._tensors[place]
        dtype = _DTYPES.get(tensor.number(_SCALAR_TYPE, "b"), "another type")
        sizes = tensor.numbers(_SIZES, "i")
        # Of one that is not static, the sizes are the largest.
        return (
            HeldTensor(dtype, tuple((1, size) for size in sizes))
            if tensor.number(_DYNAMISM, "b")
            else exactly(dtype, sizes)
        )
