"""The ONNX interpreter of decoders: their operations as ONNX nodes, but for attention, in which the forms differ.

A state tensor is ``[1, kv_heads, context, head_dim]``, a graph input and output that the caller binds to the same
memory.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeqkv.artifact import StateTensor
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.layer_ops import OnnxLayerOps
from edgeqkv.ops import DecoderOps, Heads
from edgeqkv.weights import Weight

__all__ = ["OnnxOps"]

Value = ir.Value


class OnnxOps(OnnxLayerOps, DecoderOps[Value]):
    """Interprets a decoder into a graph; a subclass says what attention is.

    Args:
        graph: where the nodes go.
        context: positions that the state has room for.
        state: precision in which the state is stored; arithmetic is float32.
        tokens: tokens a call takes; None: any number (``T``).
    """

    def __init__(self, graph: GraphBuilder, *, context: int, state: str, tokens: int | None) -> None:
        super().__init__(graph)
        self._context = context
        self._state = state
        self.tokens = graph.input("input_ids", "int64", [1, tokens or "T"])
        position_ids = graph.input("position_ids", "int64", [1, tokens or "T"])
        self._logit_index = graph.input("logit_index", "int64", [1])
        self._positions = self._op("Squeeze", position_ids, graph.constant([0]))
        self._presents: list[tuple[StateTensor, tuple[Value, ...]]] = []

    def finish(self, logits: Value, vocab_size: int) -> tuple[StateTensor, ...]:
        """Declare the outputs and return the state that the graph keeps."""
        self._graph.output(logits, "logits", "fp32", [1, vocab_size])
        for tensor, values in self._presents:
            for value, name in zip(values, (str(tensor.output), *tensor.aliases), strict=True):
                self._graph.output(value, name, tensor.dtype, tensor.shape)
        return tuple(tensor for tensor, _ in self._presents)

    def embed(self, tokens: Value, token_table: Weight, position_table: Weight) -> Value:
        ids = self._op("Squeeze", tokens, self._graph.constant([0]))
        return self._op("Add", self._rows(token_table, ids), self._rows(position_table, self._positions))

    def last(self, x: Value) -> Value:
        return self._op("Gather", x, self._logit_index)

    def logits(self, x: Value, table: Weight) -> Value:
        return self._product(x, table, None)

    def attention(self, layer: int, q: Value, k: Value, v: Value, heads: Heads) -> Value:
        raise NotImplementedError

    def _past(self, layer: int, role: str, heads: Heads, aliases: tuple[str, ...] = ()) -> tuple[Value, StateTensor]:
        """Declare a state tensor: the input that holds it, and its description."""
        tensor = StateTensor(
            name=f"{role}_{layer}",
            role=role,
            layer=layer,
            dtype=self._state,
            shape=(1, heads.kv, self._context, heads.dim),
            input=f"past_{role}_{layer}",
            output=f"present_{role}_{layer}",
            aliases=aliases,
        )
        return self._graph.input(str(tensor.input), tensor.dtype, tensor.shape), tensor
