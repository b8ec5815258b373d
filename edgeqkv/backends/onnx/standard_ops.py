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
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.ops import OnnxOps
from edgeqkv.ops import Heads

__all__ = ["StandardOps"]

Value = ir.Value


class StandardOps(OnnxOps):
    """Interprets a decoder into a graph whose attention is ``MatMul`` and ``Softmax``.

    Args:
        graph, call: as for `OnnxOps`.
        window: positions that attention reads; None: as many as the call says.
    """

    def __init__(self, graph: GraphBuilder, call: Call, *, window: int | None) -> None:
        super().__init__(graph, call)
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
        keys = self._appended(layer, "kv" if v is k else "k", k, heads)
        values = keys if v is k else self._appended(layer, "v", v, heads)
        group = heads.query // heads.kv
        scaled = self._op("Mul", q, self._graph.constant(heads.dim**-0.5, "fp32"))
        grouped = self._op("Transpose", self._reshape(scaled, -1, heads.kv, group, heads.dim), perm=[1, 2, 0, 3])
        folded = self._reshape(grouped, 1, heads.kv, -1, heads.dim)
        scores = self._op("MatMul", folded, self._op("Transpose", keys, perm=[0, 1, 3, 2]))
        # A 0 keeps the dimension at that place, here the window's.
        masked = self._op("Add", self._reshape(scores, heads.kv, group, -1, 0), self._causal_mask())
        weights = self._reshape(self._op("Softmax", masked, axis=-1), 1, heads.kv, -1, 0)
        mixed = self._reshape(self._op("MatMul", weights, values), heads.kv, group, -1, heads.dim)
        return self._reshape(self._op("Transpose", mixed, perm=[2, 0, 1, 3]), -1, heads.query * heads.dim)

    def _appended(self, layer: int, role: str, rows: Value, heads: Heads) -> Value:
        """Put this call's rows into a state tensor; what attention reads of it, in float32."""
        past, tensor = self._call.past(layer, role, heads)
        new = self._op("Transpose", self._reshape(rows, 1, -1, heads.kv, heads.dim), perm=[0, 2, 1, 3])
        present = self._op("ScatterND", past, self._scatter_indices(heads.kv), self._cast(new, "fp32", tensor.dtype))
        self._call.present(tensor, present)
        if not self._reads_all:
            start, axis = self._graph.constant([0]), self._graph.constant([2])
            present = self._op("Slice", present, start, self._window, axis)
        return self._cast(present, tensor.dtype, "fp32")

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
