"""Building one QDQ graph node by node: every value is a tensor of codes, with the encoding that its author gave it.

An operation dequantizes what it takes, computes, and quantizes its result. A compiler for integers folds both into the
operation; ONNX Runtime on the CPU computes them as they stand, which is what the compiled graph is compared with.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from edgeqkv.backends.hexagon.encodings import Encoding
from edgeqkv.bundle.manifest import Role, TensorSpec

__all__ = ["QdqGraph", "Value", "WeightFile"]

_OPSETS: Final = {"": 21, "com.microsoft": 1}  # 21 has int4 and scales for blocks
_IR_VERSION: Final = 10

_ALIGNED: Final = 64
_INLINE: Final = 1024  # bytes of a constant that stays in the graph

_DTYPES: Final = {
    "fp32": TensorProto.FLOAT,
    "int32": TensorProto.INT32,
    "uint8": TensorProto.UINT8,
}


@dataclass(frozen=True)
class Value:
    """A tensor of codes in a graph."""

    name: str
    shape: tuple[int, ...]
    encoding: Encoding


class WeightFile:
    """The one file that holds what the graphs of an export are made of; equal bytes are in it once."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._file = path.open("wb")
        self._places: dict[bytes, tuple[int, int]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def place(self, content: memoryview) -> tuple[int, int]:
        """Where these bytes are: offset and length. They are written if they were not yet."""
        key = hashlib.sha256(content).digest()
        if key not in self._places:
            offset = -(-self._file.tell() // _ALIGNED) * _ALIGNED
            self._file.seek(offset)
            self._places[key] = offset, self._file.write(content)
        return self._places[key]


class QdqGraph:
    """One graph in the making. Names of nodes are those of what they compute, so that errors can say where."""

    def __init__(self, name: str, weights: WeightFile) -> None:
        self._name = name
        self._weights = weights
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._ends: dict[str, tuple[TensorSpec, onnx.ValueInfoProto]] = {}
        self._inputs: list[str] = []
        self._outputs: list[str] = []

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._ends[name][0] for name in self._inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._ends[name][0] for name in self._outputs)

    def node(self, kind: str, *inputs: str, output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """The output of a new node."""
        name = output or f"{kind}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def real(self, x: Value, output: str | None = None) -> str:
        """The real numbers that a value stands for."""
        return self.node("DequantizeLinear", x.name, *self._encoding(x.encoding), output=output)

    def quantized(self, x: str, shape: Sequence[int], encoding: Encoding, output: str | None = None) -> Value:
        """Real numbers as codes."""
        name = self.node("QuantizeLinear", x, *self._encoding(encoding), output=output)
        return Value(name, tuple(shape), encoding)

    def op(
        self,
        kind: str,
        x: Value,
        shape: Sequence[int],
        *more: str,
        encoding: Encoding | None = None,
        output: str | None = None,
        **attributes: Any,
    ) -> Value:
        """An operation on one value, which keeps its encoding unless it computes: ``more`` are further inputs."""
        result = self.node(kind, self.real(x), *more, **attributes)
        return self.quantized(result, shape, encoding or x.encoding, output)

    def again(self, x: Value, encoding: Encoding) -> Value:
        """A value in another encoding."""
        return x if x.encoding == encoding else self.quantized(self.real(x), x.shape, encoding)

    def reshape(self, x: Value, *shape: int) -> Value:
        return x if x.shape == shape else self.op("Reshape", x, shape, self.constant(np.array(shape, np.int64)))

    def transpose(self, x: Value, *order: int) -> Value:
        return self.op("Transpose", x, [x.shape[axis] for axis in order], perm=list(order))

    def stored(self, name: str, numbers: npt.NDArray[Any], encoding: Encoding) -> Value:
        """Constant numbers as codes."""
        return Value(self.constant(encoding.codes(numbers), name), numbers.shape, encoding)

    def constant(self, array: npt.NDArray[Any], name: str | None = None) -> str:
        """An array that the graph holds; without a name, equal ones are one."""
        array = np.asarray(array, order="C")
        if name is None:
            content = hashlib.sha256(array.tobytes()).hexdigest()[:16]
            name = f"constant_{array.dtype}_{'x'.join(map(str, array.shape))}_{content}"
        return self._held(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array)

    def constant_int4(self, codes: npt.NDArray[np.int8], name: str) -> str:
        """Signed codes of 4 bits, packed in pairs, the first one low."""
        flat = codes.reshape(-1).astype(np.uint8) & 15
        if flat.size % 2:
            flat = np.append(flat, np.uint8(0))
        return self._held(name, TensorProto.INT4, codes.shape, flat[0::2] | (flat[1::2] << 4))

    def _held(self, name: str, kind: int, shape: Sequence[int], data: npt.NDArray[Any]) -> str:
        if name in self._initializers:
            return name
        tensor = TensorProto(name=name, data_type=kind, dims=shape)
        if data.nbytes <= _INLINE:
            tensor.raw_data = data.tobytes()
        else:
            offset, length = self._weights.place(memoryview(data.tobytes()))
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in (("location", self._weights.name), ("offset", offset), ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
        self._initializers[name] = tensor
        return name

    def _encoding(self, encoding: Encoding) -> tuple[str, str]:
        scale = self.constant(np.array(encoding.scale, np.float32))
        return scale, self.constant(np.array(encoding.zero, encoding.code))

    def input(self, name: str, dtype: str, shape: Sequence[int], role: Role) -> str:
        """Declare an input."""
        self._inputs.append(self._end(name, dtype, shape, role))
        return name

    def output(self, name: str, dtype: str, shape: Sequence[int], role: Role) -> None:
        """Declare what a node is to be called whose result leaves the graph."""
        self._outputs.append(self._end(name, dtype, shape, role))

    def _end(self, name: str, dtype: str, shape: Sequence[int], role: Role) -> str:
        spec = TensorSpec(name=name, dtype=dtype, shape=tuple(shape), role=role)
        self._ends[name] = spec, helper.make_tensor_value_info(name, _DTYPES[dtype], list(shape))
        return name

    def save(self, path: Path, version: str) -> None:
        """Write the graph."""
        graph = helper.make_graph(
            self._nodes,
            self._name,
            [self._ends[name][1] for name in self._inputs],
            [self._ends[name][1] for name in self._outputs],
            list(self._initializers.values()),
        )
        opsets = [helper.make_opsetid(domain, number) for domain, number in _OPSETS.items()]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=_IR_VERSION)
        model.producer_name, model.producer_version = "edgeqkv", version
        path.write_bytes(model.SerializeToString())
