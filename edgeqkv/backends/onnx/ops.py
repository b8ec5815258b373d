"""The ONNX interpreter of decoders: their operations as ONNX nodes, but for attention, in which the forms differ.

A state tensor is ``[1, kv_heads, context, head_dim]``, a graph input and output that the caller binds to the same
memory.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeqkv.backends.onnx.calls import Call
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.layer_ops import OnnxLayerOps
from edgeqkv.model.ops import DecoderOps, Heads
from edgeqkv.model.weights import Weight

__all__ = ["OnnxOps"]

Value = ir.Value


class OnnxOps(OnnxLayerOps, DecoderOps[Value]):
    """Interprets a decoder into a graph; a subclass says what attention is.

    Args:
        graph: where the nodes go.
        call: how the graph is called, which also says how the state is stored; arithmetic is float32.
    """

    def __init__(self, graph: GraphBuilder, call: Call) -> None:
        super().__init__(graph)
        self._call = call

    def embed(self, tokens: Value, token_table: Weight, position_table: Weight) -> Value:
        ids = self._op("Squeeze", tokens, self._graph.constant([0]))
        return self._op("Add", self._rows(token_table, ids), self._rows(position_table, self._call.positions))

    def last(self, x: Value) -> Value:
        return self._op("Gather", x, self._call.last_row)

    def logits(self, x: Value, table: Weight) -> Value:
        return self._product(x, table, None)

    def attention(self, layer: int, q: Value, k: Value, v: Value, heads: Heads) -> Value:
        raise NotImplementedError
