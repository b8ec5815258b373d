"""An encoder as a TOSA graph, for a batch of whole inputs at once."""

from __future__ import annotations

from math import prod

import numpy as np

from edgeqkv.backends.ethos.arithmetic import added
from edgeqkv.backends.ethos.graph import TosaGraph, Value, symmetric
from edgeqkv.backends.ethos.ops import TosaOps
from edgeqkv.bundle.manifest import TensorSpec
from edgeqkv.model.activations import ActivationRanges
from edgeqkv.model.layers import Attention, Linear
from edgeqkv.model.weights import Weight

__all__ = ["EncoderOps"]


class EncoderOps(TosaOps):
    """Interprets an encoder. Values are ``[batch · rows, channels]``: inputs one below the other.

    Args:
        graph, ranges, narrow: as for `TosaOps`.
        batch: inputs of a call.
    """

    def __init__(self, graph: TosaGraph, ranges: ActivationRanges, *, batch: int, narrow: bool) -> None:
        super().__init__(graph, ranges, narrow=narrow)
        self._batch = batch

    def given(self, spec: TensorSpec) -> Value:
        """The graph's input: token ids, or real numbers that the program makes codes of."""
        shape = [int(size) for size in spec.shape]
        if spec.role == "tokens":
            ids = self.graph.input(spec.name, spec.dtype, shape, spec.role)
            return self.graph.reshape(ids, 1, prod(shape))
        encoding = self.at("input")
        return self.graph.input(spec.name, spec.dtype, shape, spec.role, encoding.scale, encoding.ends)

    def finish(self, result: Value, spec: TensorSpec) -> None:
        """Declare the output."""
        whole = self.graph.reshape(result, *(int(size) for size in spec.shape))
        self.graph.output(whole, spec.name, spec.dtype, spec.role)

    def linear(self, x: Value, linear: Linear) -> Value:
        return super().linear(self.graph.reshape(x, prod(x.shape[:-1]), x.shape[-1]), linear)

    def add_positions(self, x: Value, table: Weight) -> Value:
        """Of whole inputs: every row of the table, for each of them."""
        encoding = self.at(self.sites.next("add_positions"))
        numbers = np.tile(table.values().numpy(), (self._batch, 1))
        low, high = float(numbers.min()), float(numbers.max())
        rows = self.graph.stored(numbers, numbers.shape, symmetric(low, high))
        return added(self.graph, x, rows, encoding)

    def last(self, x: Value) -> Value:
        return x

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        site = self.sites.next("attention")
        heads, tokens = attention.heads, q.shape[0] // self._batch
        term = attention.term
        queries = self._split(self.scale(q, attention.scale * (1 if term is None else term.scale)), heads.query)
        keys = self._split(self.operand(k), heads.kv)
        values = keys if v is k else self._split(self.operand(v), heads.kv)
        result = self.mixed(site, queries, keys, values, None if term is None else term.bias)
        apart = self.graph.reshape(result, self._batch, heads.query, tokens, heads.dim)
        each = self.graph.transpose(apart, 0, 2, 1, 3)
        return self.graph.reshape(each, self._batch * tokens, heads.query * heads.dim)

    def _split(self, x: Value, heads: int) -> Value:
        """``[batch · heads, S, D]``"""
        tokens, dim = x.shape[0] // self._batch, x.shape[1] // heads
        apart = self.graph.reshape(x, self._batch, tokens, heads, dim)
        return self.graph.reshape(self.graph.transpose(apart, 0, 2, 1, 3), self._batch * heads, tokens, dim)

    def patches(self, pixels: Value, size: int) -> Value:
        batch, channels, height, width = pixels.shape
        pixels = self._padded(self._padded(pixels, 2, -height % size), 3, -width % size)
        rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
        # In two steps, of as few dimensions as they take.
        apart = self.graph.reshape(pixels, batch * channels * rows, size, columns, size)
        squares = self.graph.transpose(apart, 0, 2, 1, 3)
        grouped = self.graph.reshape(squares, batch, channels, rows * columns, size * size)
        each = self.graph.transpose(grouped, 0, 2, 1, 3)
        return self.graph.reshape(each, batch * rows * columns, channels * size * size)

    def _padded(self, x: Value, axis: int, count: int) -> Value:
        """With zeros behind it."""
        if not count:
            return x
        shape = [count if each == axis else size for each, size in enumerate(x.shape)]
        return self.graph.concatenated([x, self.graph.like(x, np.zeros(shape))], axis)

    def prepend(self, x: Value, row: Weight) -> Value:
        encoding = self.at(self.sites.next("prepend"))
        channels = x.shape[1]
        apart = self.graph.reshape(x, self._batch, x.shape[0] // self._batch, channels)
        inputs = self.graph.rescaled(apart, encoding)
        numbers = np.tile(row.values().numpy().reshape(1, 1, channels), (self._batch, 1, 1))
        joined = self.graph.concatenated([self.graph.like(inputs, numbers), inputs], 1)
        return self.graph.reshape(joined, self._batch * joined.shape[1], channels)

    def first(self, x: Value) -> Value:
        tokens, channels = x.shape[0] // self._batch, x.shape[1]
        return self.graph.start(self.graph.reshape(x, self._batch, tokens * channels), channels)
