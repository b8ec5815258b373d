"""The ONNX interpreter of encoders: static shapes throughout, in the standard's own operators.

Activations are ``[batch·S, C]``; only attention, and what puts tokens together, sees that there is a batch.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.backends.onnx.layer_ops import OnnxLayerOps
from edgeqkv.bundle.manifest import TensorSpec
from edgeqkv.model.layers import ScoreTerm
from edgeqkv.model.ops import EncoderOps, Heads
from edgeqkv.model.weights import Weight

__all__ = ["OnnxEncoderOps"]

Value = ir.Value


class OnnxEncoderOps(OnnxLayerOps, EncoderOps[Value]):
    """Interprets an encoder into a graph.

    Args:
        graph: where the nodes go.
        input_: ``[batch, …]``, what goes in.
        channels: the model's.
    """

    def __init__(self, graph: GraphBuilder, input_: TensorSpec, channels: int) -> None:
        super().__init__(graph)
        self._channels = channels
        self._batch, *self._shape = (int(size) for size in input_.shape)
        given = graph.input(input_.name, input_.dtype, input_.shape)
        # Vectors are one token each. Ids and pixels are taken apart by the words that read them.
        vectors = input_.dtype == "fp32" and len(self._shape) == 2
        self.inputs = self._reshape(given, -1, self._shape[-1]) if vectors else given

    def finish(self, logits: Value, output: TensorSpec) -> None:
        """Declare the output."""
        sizes = [int(size) for size in output.shape]
        self._graph.output(self._reshape(logits, *sizes), output.name, output.dtype, sizes)

    def rows(self, ids: Value, table: Weight) -> Value:
        return self._rows(table, self._reshape(ids, -1))

    def patches(self, pixels: Value, size: int) -> Value:
        channels, height, width = self._shape
        right, bottom = -width % size, -height % size
        if right or bottom:
            pixels = self._op("Pad", pixels, self._graph.constant([0, 0, 0, 0, 0, 0, bottom, right]))
        down, across = (height + bottom) // size, (width + right) // size
        squares = self._reshape(pixels, self._batch, channels, down, size, across, size)
        by_patch = self._op("Transpose", squares, perm=[0, 2, 4, 1, 3, 5])
        return self._reshape(by_patch, self._batch * down * across, channels * size * size)

    def prepend(self, x: Value, row: Weight) -> Value:
        shape = self._graph.constant([self._batch, 1, self._channels])
        first = self._op("Expand", self._float(row), shape)
        return self._reshape(self._op("Concat", first, self._by_input(x), axis=1), -1, self._channels)

    def add_positions(self, x: Value, table: Weight) -> Value:
        return self._reshape(self._op("Add", self._by_input(x), self._float(table)), -1, self._channels)

    def attend(self, q: Value, k: Value, v: Value, heads: Heads, term: ScoreTerm | None) -> Value:
        queries = self._split(q, heads, [0, 2, 1, 3])
        keys = self._split(k, heads, [0, 2, 3, 1])
        values = self._split(v, heads, [0, 2, 1, 3])
        scale = heads.dim**-0.5 * (1.0 if term is None else term.scale)
        scores = self._op("MatMul", self._op("Mul", queries, self._graph.constant(scale, "fp32")), keys)
        if term is not None:
            scores = self._op("Add", scores, self._float(term.bias))
        mixed = self._op("MatMul", self._op("Softmax", scores, axis=-1), values)
        return self._reshape(self._op("Transpose", mixed, perm=[0, 2, 1, 3]), -1, heads.query * heads.dim)

    def first(self, x: Value) -> Value:
        return self._op("Gather", self._by_input(x), self._graph.constant(0), axis=1)

    def _by_input(self, x: Value) -> Value:
        return self._reshape(x, self._batch, -1, self._channels)

    def _split(self, x: Value, heads: Heads, order: list[int]) -> Value:
        return self._op("Transpose", self._reshape(x, self._batch, -1, heads.query, heads.dim), perm=order)
