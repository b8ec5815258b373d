"""Building one ONNX graph node by node: a thin, typed layer over onnx-ir's tape."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx_ir as ir
from onnx_ir import tape

from edgeqkv.backends.onnx.weight_file import WeightFile
from edgeqkv.bundle.manifest import Role, TensorSpec
from edgeqkv.model.weights import QuantizedWeight, Weight

__all__ = ["DTYPES", "GraphBuilder"]

DTYPES: Final = {
    "fp32": ir.DataType.FLOAT,
    "fp16": ir.DataType.FLOAT16,
    "int8": ir.DataType.INT8,
    "int32": ir.DataType.INT32,
    "int64": ir.DataType.INT64,
}

# Opset 24 is the newest that ONNX Runtime 1.32 implements; nothing here needs more than 20 (Gelu).
_OPSETS: Final = {"": 24, "com.microsoft": 1}
_IR_VERSION = 11


class GraphBuilder:
    """One graph in the making. Values are `ir.Value`; weights and small constants are added once each.

    A node is called by its scope and its kind, ``/h.0/attn/scores/MatMul``, and so is the value that it makes: what
    Netron shows, and what runtimes say in errors and profiles. Further ones of the same name are numbered from 1.
    """

    def __init__(self, name: str, weights: WeightFile) -> None:
        self._name = name
        self._weights = weights
        self._tape = tape.Tape()
        self._inputs: list[ir.Value] = []
        self._outputs: list[ir.Value] = []
        self._specs: dict[str, TensorSpec] = {}
        self._initializers: dict[object, ir.Value] = {}
        self._domains: dict[str, int] = {"": _OPSETS[""]}
        self._scope = "/"
        self._named: Counter[str] = Counter()

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Nodes that are made inside are named after this part of the scope, or after this one alone (``/mask``)."""
        outer = self._scope
        self._scope = f"{name}/" if name.startswith("/") else f"{outer}{name}/"
        try:
            yield
        finally:
            self._scope = outer

    def op(self, kind: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """The output of a new node, of the standard domain unless another is named."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, outputs: int, domain: str = "", **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """All outputs of a new node that has several."""
        self._domains[domain] = _OPSETS[domain]
        name = f"{self._scope}{kind}"
        self._named[name] += 1
        if (before := self._named[name] - 1) > 0:
            name = f"{name}_{before}"
        values = [ir.Value(name=f"{name}.{index}" if index else name) for index in range(outputs)]
        return tuple(
            self._tape.op_multi_out(kind, inputs, attributes or None, outputs=values, domain=domain, name=name)
        )

    def constant(self, value: object, dtype: str = "int64") -> ir.Value:
        """A small constant inside the graph."""
        array = np.asarray(value, dtype=DTYPES[dtype].numpy())
        key = (dtype, array.shape, array.tobytes())
        if key not in self._initializers:
            name = f"constant_{len(self._initializers)}"
            self._initializers[key] = self._tape.initializer(ir.tensor(array, name=name), name=name)
        return self._initializers[key]

    def weight(self, weight: Weight) -> ir.Value:
        """A weight, stored in the weight file, in its stored precision."""
        return self._external(weight.name, lambda: self._weights.tensor(weight))

    def codes(self, weight: QuantizedWeight, *shape: int) -> ir.Value:
        """A quantized weight's packed codes as uint8 of this shape, stored once whatever the shapes."""
        name = f"{weight.name}.codes_{'x'.join(map(str, shape))}"
        return self._external(name, lambda: self._weights.codes(weight, shape))

    def scales(self, weight: QuantizedWeight) -> ir.Value:
        """A quantized weight's scales, ``[rows, blocks]``."""
        return self._external(f"{weight.name}.scales", lambda: self._weights.scales(weight))

    def _external(self, name: str, refer: Callable[[], ir.ExternalTensor]) -> ir.Value:
        if name not in self._initializers:
            self._initializers[name] = self._tape.initializer(refer(), name=name)
        return self._initializers[name]

    def input(self, name: str, dtype: str, shape: Sequence[int | str], role: Role) -> ir.Value:
        """Declare an input; a dimension given by name may vary."""
        value = ir.Value(name=name, type=ir.TensorType(DTYPES[dtype]), shape=ir.Shape(shape))
        self._inputs.append(value)
        self._specs[name] = TensorSpec(name=name, dtype=dtype, shape=tuple(shape), role=role)
        return value

    def output(self, value: ir.Value, name: str, dtype: str, shape: Sequence[int | str], role: Role) -> None:
        """Declare a value to be an output."""
        value.name, value.type, value.shape = name, ir.TensorType(DTYPES[dtype]), ir.Shape(shape)
        self._outputs.append(value)
        self._specs[name] = TensorSpec(name=name, dtype=dtype, shape=tuple(shape), role=role)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._specs[str(value.name)] for value in self._inputs)

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return tuple(self._specs[str(value.name)] for value in self._outputs)

    def save(self, path: Path, producer_version: str, description: str, facts: Mapping[str, str]) -> None:
        """Write the graph, with what it says of itself; its weights stay in their own file, to which it refers."""
        graph = ir.Graph(
            self._inputs,
            self._outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports=self._domains,
            name=self._name,
        )
        model = ir.Model(
            graph,
            ir_version=_IR_VERSION,
            producer_name="edgeqkv",
            producer_version=producer_version,
            doc_string=description,
            metadata_props=dict(facts),
        )
        path.write_bytes(ir.serde.serialize_model(model).SerializeToString())
