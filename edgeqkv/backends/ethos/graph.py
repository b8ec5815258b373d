"""Building one TOSA graph operation by operation: integers of stated width, each with what it stands for.

TOSA is the instruction set that Vela compiles, and that Arm's reference model computes bit by bit: what is written here
is what the NPU computes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import frexp
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import tosa_serializer as tosa

from edgeqkv.bundle.manifest import Role, TensorSpec

__all__ = ["Code", "Encoding", "TosaGraph", "Value", "affine", "symmetric"]

Code = Literal["int8", "int16", "int32", "int48"]

_VERSION: Final = (1, 0, 0)  # that Vela reads
_TYPES: Final = {
    "int8": tosa.DType.INT8,
    "int16": tosa.DType.INT16,
    "int32": tosa.DType.INT32,
    "int48": tosa.DType.INT48,
}
_CODES: Final[dict[str, Code]] = {"int8": "int8", "int32": "int32", "fp32": "int16"}
"""In which codes a graph takes what a caller gives."""

_LEAST: Final = 1e-6  # of a range that is a point

_ENTRIES: Final = 513  # of a table for codes of 16 bits, between which is interpolated
_TABLE_FRACTION: Final = 7  # bits by which what a table gives is finer than its entries


@dataclass(frozen=True)
class Value:
    """A tensor of codes in a graph, which stand for ``(code - zero) · scale``.

    Attributes:
        ends: the least and the largest number that it holds, as far as that is known.
    """

    name: str
    shape: tuple[int, ...]
    code: Code
    scale: float
    zero: int = 0
    ends: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Encoding:
    """How a range of numbers is stored: as `Value` is."""

    code: Code
    scale: float
    zero: int
    ends: tuple[float, float]


def symmetric(low: float, high: float) -> Encoding:
    """How a range is stored in 16 bits, whose zero is 0."""
    return Encoding("int16", max(-low, high, _LEAST) / 32767, 0, (low, high))


def affine(low: float, high: float) -> Encoding:
    """How a range is stored in 8 bits, of which 0 is always a number."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = max(high - low, _LEAST) / 255
    return Encoding("int8", scale, int(np.clip(round(-128 - low / scale), -128, 127)), (low, high))


class TosaGraph:
    """One graph in the making."""

    def __init__(self) -> None:
        major, minor, patch = _VERSION
        self._file = tosa.TosaSerializer("", targetMajor=major, targetMinor=minor, targetPatch=patch, targetDraft=False)
        self._block = self._file.currRegion.currBasicBlock
        self._count = 0
        self._scope: list[str] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self.inputs: list[TensorSpec] = []
        self.outputs: list[TensorSpec] = []

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """What is written inside is called after this part of the model, by which Vela names it."""
        self._scope.append(name)
        try:
            yield
        finally:
            self._scope.pop()

    def serialized(self) -> bytes:
        """The graph as a file's content."""
        return bytes(self._file.serialize())

    def input(
        self,
        name: str,
        dtype: str,
        shape: Sequence[int],
        role: Role,
        scale: float = 1.0,
        ends: tuple[float, float] = (0.0, 0.0),
    ) -> Value:
        """Declare an input; the order of declaration is that of the inputs. Of real numbers the graph takes codes."""
        code = _CODES[dtype]
        self._block.addTensor(name, list(shape), _TYPES[code])
        self._block.addInput(name)
        self.inputs.append(TensorSpec(name=name, dtype=dtype, shape=tuple(shape), role=role))
        return Value(name, tuple(shape), code, scale, 0, ends)

    def output(self, x: Value, name: str, dtype: str, role: Role) -> None:
        """Declare a value an output of this name; ``dtype`` is what the program makes of its codes."""
        self._block.addOutput(x.name)
        self.outputs.append(TensorSpec(name=name, dtype=dtype, shape=x.shape, role=role))

    def constant(self, array: npt.NDArray[Any], code: Code) -> str:
        """Codes that the graph holds; equal ones are one."""
        array = np.ascontiguousarray(array)
        key = code, array.shape, hashlib.sha256(array.data).digest()
        if key not in self._constants:
            name = f"constant_{len(self._constants)}"
            self._file.addConst(list(array.shape), _TYPES[code], array.reshape(-1), name=name)
            self._constants[key] = name
        return self._constants[key]

    def stored(self, numbers: npt.NDArray[Any], shape: Sequence[int], encoding: Encoding) -> Value:
        """Constant numbers as codes."""
        info = np.iinfo(encoding.code)
        codes = np.rint(numbers.astype(np.float64) / encoding.scale) + encoding.zero
        name = self.constant(codes.clip(info.min, info.max).astype(encoding.code).reshape(shape), encoding.code)
        return Value(name, tuple(shape), encoding.code, encoding.scale, encoding.zero, encoding.ends)

    def like(self, x: Value, numbers: npt.NDArray[Any]) -> Value:
        """Constant numbers in the encoding of a value."""
        return self.stored(numbers, numbers.shape, Encoding(x.code, x.scale, x.zero, x.ends))

    def whole(self, numbers: npt.NDArray[Any], scale: float) -> Value:
        """Constant numbers in 32 bits."""
        codes = np.rint(numbers.astype(np.float64) / scale).astype(np.int32)
        return Value(self.constant(codes, "int32"), codes.shape, "int32", scale)

    def op(self, kind: str, inputs: Sequence[str], shape: Sequence[int], code: Code, *attributes: Any) -> str:
        """The result of a new operation. ``attributes`` are the serializer's, in its order."""
        name = ".".join([*self._scope, f"{kind.lower()}_{self._count}"])
        self._count += 1
        told = tosa.TosaSerializerAttribute()
        getattr(told, f"{_attribute(kind)}Attribute")(*attributes)
        self._block.addTensor(name, list(shape), _TYPES[code])
        self._block.addOperator(getattr(tosa.Op, kind), list(inputs), [name], told)
        return name

    # Numbers of another width or scale.

    def rescaled(self, x: Value, encoding: Encoding) -> Value:
        """A value in another encoding; what is beyond its ends is cut off."""
        if (x.code, x.scale, x.zero) == (encoding.code, encoding.scale, encoding.zero):
            return x
        name = self._rescale(x, encoding.code, np.array([x.scale / encoding.scale]), encoding.zero)
        return Value(name, x.shape, encoding.code, encoding.scale, encoding.zero, encoding.ends)

    def wide(self, x: Value, scale: float) -> Value:
        """A value in 32 bits, with this scale."""
        name = self._rescale(x, "int32", np.array([x.scale / scale]), 0)
        return Value(name, x.shape, "int32", scale, 0, x.ends)

    def codes_as(self, x: Value, code: Code) -> Value:
        """The same codes in another width."""
        return replace(x, name=self._rescale(x, code, np.array([1.0]), x.zero), code=code)

    def _rescale(self, x: Value, code: Code, factors: npt.NDArray[np.float64], zero: int) -> str:
        """``(code - x.zero) · factor + zero``; of several factors each is for one of the last dimension."""
        bits = 15 if x.code == "int48" else 31
        parts = [_multiplier(float(factor), bits) for factor in factors]
        inputs = (
            x.name,
            self.constant(np.array([m for m, _ in parts]), "int16" if bits == 15 else "int32"),
            self.constant(np.array([s for _, s in parts], np.int8), "int8"),
            self.constant(np.array([x.zero]), x.code),
            self.constant(np.array([zero]), code),
        )
        mode = tosa.RoundingMode.SINGLE_ROUND
        return self.op("RESCALE", inputs, x.shape, code, bits == 31, mode, len(parts) > 1, False, False)

    # Shapes.

    def reshape(self, x: Value, *shape: int) -> Value:
        if x.shape == shape:
            return x
        name = self.op("RESHAPE", [x.name, self._shape(shape)], shape, x.code)
        return replace(x, name=name, shape=shape)

    def transpose(self, x: Value, *order: int) -> Value:
        shape = tuple(x.shape[axis] for axis in order)
        moved = [axis for axis in order if x.shape[axis] > 1]
        if moved == sorted(moved):
            return self.reshape(x, *shape)
        return replace(x, name=self.op("TRANSPOSE", [x.name], shape, x.code, list(order)), shape=shape)

    def concatenated(self, parts: Sequence[Value], axis: int) -> Value:
        """Values of one encoding behind each other."""
        first = parts[0]
        shape = list(first.shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        name = self.op("CONCAT", [part.name for part in parts], shape, first.code, axis)
        return replace(first, name=name, shape=tuple(shape))

    def start(self, x: Value, count: int) -> Value:
        """The first entries of the last dimension."""
        shape = (*x.shape[:-1], count)
        ends = self._shape([0] * len(shape)), self._shape(shape)
        return replace(x, name=self.op("SLICE", [x.name, *ends], shape, x.code), shape=shape)

    def rows(self, table: Value, index: Value) -> Value:
        """``[1, K, C]`` at ``[1, n]`` → ``[n, C]``"""
        shape = (1, index.shape[-1], table.shape[-1])
        name = self.op("GATHER", [table.name, index.name], shape, table.code)
        return self.reshape(replace(table, name=name, shape=shape), *shape[1:])

    def _shape(self, shape: Sequence[int]) -> str:
        key = "shape", tuple(shape), b""
        if key not in self._constants:
            name = f"shape_{len(self._constants)}"
            self._file.addConst([len(shape)], tosa.DType.SHAPE, list(shape), name=name)
            self._constants[key] = name
        return self._constants[key]

    # Arithmetic. Results of whole numbers are whole numbers: what their scale is, is the caller's to know.

    def whole_op(self, kind: str, x: Value, y: Value, scale: float | None = None, *attributes: Any) -> Value:
        """An operation of TOSA on two values of the same width, broadcast, in 32 bits."""
        shape = np.broadcast_shapes(x.shape, y.shape)
        inputs = [x.name, y.name]
        if kind == "MUL":
            inputs.append(self.constant(np.zeros(1, np.int8), "int8"))
            scale = x.scale * y.scale
        return Value(self.op(kind, inputs, shape, "int32", *attributes), shape, "int32", scale or x.scale)

    def number(self, value: int, rank: int) -> Value:
        """A whole number, to compute with."""
        return Value(self.constant(np.full((1,) * rank, value, np.int32), "int32"), (1,) * rank, "int32", 1.0)

    def reduced(self, kind: str, x: Value, *attributes: Any) -> Value:
        """Over the last dimension, which then is 1."""
        shape = (*x.shape[:-1], 1)
        name = self.op(kind, [x.name], shape, x.code, len(shape) - 1, *attributes)
        return replace(x, name=name, shape=shape)

    def leading_zeros(self, x: Value) -> Value:
        """Of every code."""
        return Value(self.op("CLZ", [x.name], x.shape, "int32"), x.shape, "int32", 1.0)

    def table(self, x: Value, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]) -> Value:
        """A function of codes of 16 bits, read off a table: ``function`` takes codes and gives codes, of 16 bits.

        The result is in 32 bits, of which the last 7 are between two codes.
        """
        points = np.linspace(-32768, 32768, _ENTRIES)
        entries = np.rint(function(points)).clip(-32768, 32767).astype(np.int16)
        name = self.op("TABLE", [x.name, self.constant(entries, "int16")], x.shape, "int32")
        return Value(name, x.shape, "int32", 2.0**-_TABLE_FRACTION)

    def bent(
        self, x: Value, function: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]], encoding: Encoding
    ) -> Value:
        """A function of real numbers, read off a table."""
        found = self.table(x, lambda codes: function(codes * x.scale) / encoding.scale)
        return self.rescaled(replace(found, scale=found.scale * encoding.scale), encoding)

    def product(
        self,
        x: Value,
        codes: npt.NDArray[np.int8],
        scales: npt.NDArray[np.float64],
        bias: npt.NDArray[np.float64] | None,
        encoding: Encoding,
    ) -> Value:
        """``x [n, in] · weightᵀ + bias``, of a matrix in 8 bits with a scale a row; a bias is added before rounding."""
        rows, (outputs, inputs) = x.shape[0], codes.shape
        summed: Code = "int48" if x.code == "int16" else "int32"
        steps = x.scale * scales
        added = np.zeros(outputs) if bias is None else np.rint(bias / steps)
        far = 2**46 if summed == "int48" else 2**30
        image = self.reshape(x, 1, rows, 1, inputs)
        parts = (
            image.name,
            self.constant(codes.reshape(outputs, 1, 1, inputs), "int8"),
            self.constant(added.clip(-far, far).astype(np.int64), summed),
            self.constant(np.array([x.zero]), x.code),
            self.constant(np.zeros(1, np.int8), "int8"),
        )
        shape = (1, rows, 1, outputs)
        name = self.op("CONV2D", parts, shape, summed, [0, 0, 0, 0], [1, 1], [1, 1], False, _TYPES[summed])
        result = self._rescale(Value(name, shape, summed, 1.0), encoding.code, steps / encoding.scale, encoding.zero)
        whole = Value(result, shape, encoding.code, encoding.scale, encoding.zero, encoding.ends)
        return self.reshape(whole, rows, outputs)

    def matmul(self, x: Value, y: Value) -> Value:
        """``[N, H, C] · [N, C, W]``, as exact sums."""
        shape = (x.shape[0], x.shape[1], y.shape[2])
        summed: Code = "int48" if x.code == "int16" else "int32"
        zeros = (self.constant(np.array([each.zero]), each.code) for each in (x, y))
        name = self.op("MATMUL", [x.name, y.name, *zeros], shape, summed)
        return Value(name, shape, summed, x.scale * y.scale)


def _attribute(kind: str) -> str:
    """``REDUCE_MAX`` → ``ReduceMax``, as the serializer calls it."""
    special = {"MATMUL": "MatMul", "INTDIV": "IntDiv"}
    return special.get(kind, "".join(part.capitalize() for part in kind.split("_")))


def _multiplier(factor: float, bits: int) -> tuple[int, int]:
    """A factor as a whole number of so many bits, and how far it is to be shifted to the right."""
    mantissa, exponent = frexp(factor)
    multiplier, shift = round(mantissa * 2**bits), bits - exponent
    if multiplier == 2**bits:
        multiplier, shift = multiplier // 2, shift - 1
    if shift > 62:
        multiplier, shift = multiplier >> min(bits, shift - 62), 62
    assert shift >= 2, f"a factor of {factor:g} is too large"
    return multiplier, shift
