"""Attention in the standard's own operators: the forms that any ONNX runtime can run.

New rows are put into the state with ``ScatterND``, which works in place where both ends are bound to the same memory;
attention reads the first ``window`` positions of the result: both as keys and as values, where the model shares them.
Query heads that read the same KV head are folded into the rows of one matrix product, so that no key or value is ever
repeated.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeqkv.backends.onnx.calls import Call
from edgeqkv.backends.onnx.graph import DTYPES, GraphBuilder
from edgeqkv.backends.onnx.ops import OnnxOps
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.ops import Heads
from edgeqkv.model.state import StateScales

__all__ = ["StandardOps"]

Value = ir.Value


class StandardOps(OnnxOps):
    """Interprets a decoder into a graph whose attention is ``MatMul`` and ``Softmax``.

    Args:
        graph, call: as for `OnnxOps`.
        window: positions that attention reads; None: as many as the call says.
        scales: how an int8 state rounds; None for the others.
    """

    def __init__(self, graph: GraphBuilder, call: Call, *, window: int | None, scales: StateScales | None) -> None:
        super().__init__(graph, call)
        self._scales = scales
        if window is None:
            self._window: Value = call.filled()
            self._columns = self._op(
                "Range",
                graph.constant(0),
                self._op("Squeeze", self._window, graph.constant([0])),
                graph.constant(1),
            )
        else:
            self._window = graph.constant([window])
            self._columns = graph.constant(np.arange(window))
        self._reads_all = window == call.context
        self._masks: dict[int, Value] = {}
        self._indices: dict[int, Value] = {}

    def attention(self, layer: int, q: Value, k: Value, v: Value, heads: Heads) -> Value:
        of_keys, of_values = ("kv", "kv") if v is k else ("k", "v")
        keys = self._appended(layer, of_keys, k, heads)
        values = keys if v is k else self._appended(layer, of_values, v, heads)
        group = heads.query // heads.kv
        grouped = self._op("Transpose", self._reshape(q, -1, heads.kv, group, heads.dim), perm=[1, 0, 2, 3])
        folded = self._reshape(grouped, 1, heads.kv, -1, heads.dim)
        scaled = self._scaled(folded, heads.dim**-0.5 * self._unit(f"{of_keys}_{layer}"))
        scores = self._op("MatMul", scaled, self._op("Transpose", keys, perm=[0, 1, 3, 2]))
        weights = self._op("Softmax", self._op("Add", scores, self._causal_mask(group)), axis=-1)
        mixed = self._scaled(self._op("MatMul", weights, values), self._unit(f"{of_values}_{layer}"))
        apart = self._op("Transpose", self._reshape(mixed, heads.kv, -1, group, heads.dim), perm=[1, 0, 2, 3])
        return self._reshape(apart, -1, heads.query * heads.dim)

    def _appended(self, layer: int, role: str, rows: Value, heads: Heads) -> Value:
        """Put this call's rows into a state tensor; what attention reads of it, in float32."""
        past, tensor = self._call.past(layer, role, heads)
        new = self._reshape(self._stored(tensor, rows), 1, -1, heads.kv, heads.dim)
        present = self._op("ScatterND", past, self._scatter_indices(heads.kv), new)
        self._call.present(tensor, present)
        if not self._reads_all:
            start, axis = self._graph.constant([0]), self._graph.constant([2])
            present = self._op("Slice", present, start, self._window, axis)
        # An int8 state's codes are left as they are: their scale goes to what they are multiplied with.
        return self._op("Cast", present, to=DTYPES["fp32"]) if tensor.dtype != "fp32" else present

    def _stored(self, tensor: StateTensor, rows: Value) -> Value:
        """Rows as the state holds them.

        Rounded before they are reshaped: ONNX Runtime would round a ``QuantizeLinear``'s reshaped input a second time.
        """
        if self._scales is None:
            return self._cast(rows, "fp32", tensor.dtype)
        scale = self._graph.constant(self._scales.of[tensor.name], "fp32")
        return self._op("QuantizeLinear", rows, scale, self._graph.constant(0, tensor.dtype))

    def _unit(self, name: str) -> float:
        """What one step of a state tensor's numbers is worth."""
        return 1.0 if self._scales is None else self._scales.of[name]

    def _scatter_indices(self, kv_heads: int) -> Value:
        """``[1, T, kv_heads, 3]``: where each new row goes (batch, head, position); one for all layers."""
        if kv_heads not in self._indices:
            zeros = self._graph.constant(np.zeros((1, 1, kv_heads, 1)))
            heads = self._graph.constant(np.arange(kv_heads).reshape(1, 1, kv_heads, 1))
            position = self._op("Add", zeros, self._reshape(self._call.positions, 1, -1, 1, 1))
            batch = self._op("Sub", position, position)
            self._indices[kv_heads] = self._op("Concat", batch, self._op("Add", batch, heads), position, axis=-1)
        return self._indices[kv_heads]

    def _causal_mask(self, group: int) -> Value:
        """``[T · group, window]``: 0 where the position is visible, -inf where it is not; one for all layers."""
        if group not in self._masks:
            each = self._op(
                "Add", self._reshape(self._call.positions, -1, 1), self._graph.constant(np.zeros((1, group)))
            )
            visible = self._op("LessOrEqual", self._columns, self._reshape(each, -1, 1))
            shown, hidden = self._graph.constant(0.0, "fp32"), self._graph.constant(-np.inf, "fp32")
            self._masks[group] = self._op("Where", visible, shown, hidden)
        return self._masks[group]

    def _scaled(self, x: Value, factor: float) -> Value:
        """``x`` times a constant, next to the product that ONNX Runtime makes it a part of."""
        return x if factor == 1.0 else self._op("Mul", x, self._graph.constant(factor, "fp32"))
