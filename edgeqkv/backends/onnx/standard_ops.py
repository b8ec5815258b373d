"""Attention in the standard's own operators: the forms that any ONNX runtime can run.

New rows are put into the state with ``ScatterND``, which works in place where both ends are bound to the same memory;
attention reads the first ``window`` positions of the result: both as keys and as values, where the model shares them.
Query heads that read the same KV head are folded into the rows of one matrix product, so that no key or value is ever
repeated.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from edgeqkv.artifact import StateTensor
from edgeqkv.backends.onnx.calls import Call
from edgeqkv.backends.onnx.graph import DTYPES, GraphBuilder
from edgeqkv.backends.onnx.ops import OnnxOps
from edgeqkv.ops import Heads
from edgeqkv.state_scales import HIGHEST, StateScales

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
        self._mask: Value | None = None
        self._indices: dict[int, Value] = {}

    def attention(self, layer: int, q: Value, k: Value, v: Value, heads: Heads) -> Value:
        of_keys, of_values = ("kv", "kv") if v is k else ("k", "v")
        keys = self._appended(layer, of_keys, k, heads)
        values = keys if v is k else self._appended(layer, of_values, v, heads)
        group = heads.query // heads.kv
        scaled = self._op("Mul", q, self._graph.constant(heads.dim**-0.5 * self._unit(f"{of_keys}_{layer}"), "fp32"))
        grouped = self._op("Transpose", self._reshape(scaled, -1, heads.kv, group, heads.dim), perm=[1, 2, 0, 3])
        folded = self._reshape(grouped, 1, heads.kv, -1, heads.dim)
        scores = self._op("MatMul", folded, self._op("Transpose", keys, perm=[0, 1, 3, 2]))
        # A 0 keeps the dimension at that place, here the window's.
        masked = self._op("Add", self._reshape(scores, heads.kv, group, -1, 0), self._causal_mask())
        weights = self._reshape(self._op("Softmax", masked, axis=-1), 1, heads.kv, -1, 0)
        mixed = self._reshape(self._op("MatMul", weights, values), heads.kv, group, -1, heads.dim)
        joined = self._reshape(self._op("Transpose", mixed, perm=[2, 0, 1, 3]), -1, heads.query * heads.dim)
        if self._scales is None:
            return joined
        return self._op("Mul", joined, self._graph.constant(self._unit(f"{of_values}_{layer}"), "fp32"))

    def _appended(self, layer: int, role: str, rows: Value, heads: Heads) -> Value:
        """Put this call's rows into a state tensor; what attention reads of it, in float32."""
        past, tensor = self._call.past(layer, role, heads)
        new = self._op("Transpose", self._reshape(rows, 1, -1, heads.kv, heads.dim), perm=[0, 2, 1, 3])
        present = self._op("ScatterND", past, self._scatter_indices(heads.kv), self._stored(tensor, new))
        self._call.present(tensor, present)
        if not self._reads_all:
            start, axis = self._graph.constant([0]), self._graph.constant([2])
            present = self._op("Slice", present, start, self._window, axis)
        # An int8 state's codes are left as they are: their scale goes to what they are multiplied with.
        return self._op("Cast", present, to=DTYPES["fp32"]) if tensor.dtype != "fp32" else present

    def _stored(self, tensor: StateTensor, rows: Value) -> Value:
        """Rows as the state holds them.

        An int8 state's codes are worked out in plain arithmetic: ONNX Runtime takes a ``QuantizeLinear`` before a
        ``Slice`` and a ``DequantizeLinear`` for a quantized model, and rewrites them into a graph that it rejects.
        """
        if self._scales is None:
            return self._cast(rows, "fp32", tensor.dtype)
        codes = self._op("Round", self._op("Div", rows, self._graph.constant(self._scales.of[tensor.name], "fp32")))
        lowest, highest = (self._graph.constant(limit, "fp32") for limit in (-HIGHEST - 1.0, float(HIGHEST)))
        return self._op("Cast", self._op("Clip", codes, lowest, highest), to=DTYPES[tensor.dtype])

    def _unit(self, name: str) -> float:
        """What one step of a state tensor's numbers is worth."""
        return 1.0 if self._scales is None else self._scales.of[name]

    def _scatter_indices(self, kv_heads: int) -> Value:
        """``[1, kv_heads, T, 3]``: where each new row goes (batch, head, position); one for all layers."""
        if kv_heads not in self._indices:
            zeros = self._graph.constant(np.zeros((1, kv_heads, 1, 1)))
            heads = self._graph.constant(np.arange(kv_heads).reshape(1, kv_heads, 1, 1))
            position = self._op("Add", zeros, self._reshape(self._call.positions, 1, 1, -1, 1))
            batch = self._op("Sub", position, position)
            self._indices[kv_heads] = self._op("Concat", batch, self._op("Add", batch, heads), position, axis=-1)
        return self._indices[kv_heads]

    def _causal_mask(self) -> Value:
        """``[T, window]``: 0 where the position is visible, -inf where it is not; one for all layers."""
        if self._mask is None:
            rows = self._op("Unsqueeze", self._call.positions, self._graph.constant([1]))
            visible = self._op("LessOrEqual", self._columns, rows)
            shown, hidden = self._graph.constant(0.0, "fp32"), self._graph.constant(-np.inf, "fp32")
            self._mask = self._op("Where", visible, shown, hidden)
        return self._mask
