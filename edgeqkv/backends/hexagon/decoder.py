"""A decoder whose state is an input and whose new rows are outputs: attention, its mask, and the graph's two ends."""

from __future__ import annotations

import numpy as np

from edgeqkv.backends.hexagon.encodings import STATE, Encoding
from edgeqkv.backends.hexagon.graph import QdqGraph, Value
from edgeqkv.backends.hexagon.ops import QdqOps, token_ids
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.activations import ActivationRanges
from edgeqkv.model.layers import Attention, Heads
from edgeqkv.model.state import StateScales
from edgeqkv.model.weights import Weight

__all__ = ["DecoderOps"]

_FAR_BELOW = 12.0
"""How far below the least score of a layer a hidden one is. e⁻¹² is less than half a step of what Softmax gives, a
16-bit number up to 1: hidden rows count nothing."""


class DecoderOps(QdqOps):
    """Interprets a decoder into a graph of ``tokens`` tokens a call and room for ``context``.

    The rows of a call are rounded to the state's codes **before** they are laid out as the state is: after a
    ``Reshape`` or ``Transpose`` the compiled graph cuts off what the CPU rounds (measured with onnxruntime-qnn 2.7).

    Args:
        graph, ranges: as for `QdqOps`.
        scales: of the state, by the names of its tensors.
        context: positions that the state has room for.
        tokens: tokens that a call takes.
    """

    def __init__(
        self, graph: QdqGraph, ranges: ActivationRanges, scales: StateScales, *, context: int, tokens: int
    ) -> None:
        super().__init__(graph, ranges)
        self._scales = scales
        self._context = context
        self._tokens = tokens
        self._masks: dict[int, Value] = {}
        self._rows: list[tuple[StateTensor, tuple[int, ...]]] = []
        self.ids = token_ids(graph.input("input_ids", "int32", [tokens], "tokens"), (tokens,))
        self._positions = graph.input("position_ids", "int32", [tokens], "positions")

    def add_positions(self, x: Value, table: Weight) -> Value:
        site = self.sites.next("add_positions")
        return self.of_two("Add", x, self.row(table, self._positions, x.shape[:1]), self.at(site))

    def last(self, x: Value) -> Value:
        if self._tokens == 1:
            return x
        index = self.graph.input("logit_index", "int32", [1], "logit_index")
        return self.graph.op("Gather", x, (1, x.shape[1]), index, axis=0)

    def finish(self, logits: Value) -> tuple[StateTensor, ...]:
        """Declare the outputs, and return the state that the caller keeps."""
        self.graph.real(logits, output="logits")
        self.graph.output("logits", "fp32", logits.shape, "logits")
        for tensor, shape in self._rows:
            self.graph.output(str(tensor.output), tensor.dtype, shape, "state")
        return tuple(tensor for tensor, _ in self._rows)

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        site = self.sites.next("attention")
        heads, tokens = attention.heads, self._tokens
        group = heads.query // heads.kv
        if v is k:
            keys = values = self._appended(layer, "kv", k, heads)
        else:
            keys, values = self._appended(layer, "k", k, heads), self._appended(layer, "v", v, heads)
        scaled = self.scaled(q, attention.scale, self.at(f"{site}.queries"))
        grouped = self.graph.reshape(scaled, tokens, heads.kv, group, heads.dim)
        # The queries that read one KV head are rows of one matrix.
        folded = self.graph.reshape(self.graph.transpose(grouped, 1, 2, 0, 3), 1, heads.kv, group * tokens, heads.dim)
        low, high = self.ranges.of[f"{site}.products"]
        shape = (1, heads.kv, group * tokens, self._context + tokens)
        products = self.graph.node(
            "FusedMatMul", self.graph.real(folded), self.graph.real(keys), domain="com.microsoft", transB=1
        )
        scores = self.graph.quantized(products, shape, Encoding.of(low, high))
        masked = self.of_two("Add", scores, self._mask(group), Encoding.of(min(low, 0.0) - _FAR_BELOW, high))
        weights = self.graph.op("Softmax", masked, shape, encoding=Encoding.of(0.0, 1.0), axis=-1)
        mixed = self.graph.node("MatMul", self.graph.real(weights), self.graph.real(values))
        result = self.graph.quantized(mixed, (1, heads.kv, group * tokens, heads.dim), self.at(site))
        apart = self.graph.reshape(result, heads.kv, group, tokens, heads.dim)
        return self.graph.reshape(self.graph.transpose(apart, 2, 0, 1, 3), tokens, heads.query * heads.dim)

    def _appended(self, layer: int, role: str, rows: Value, heads: Heads) -> Value:
        """The state with this call's rows behind it; what the graph gives back are the rows alone."""
        name = f"{role}_{layer}"
        encoding = Encoding.around_zero(self._scales.of[name], STATE)
        tensor = StateTensor(
            name=name,
            role=role,
            layer=layer,
            dtype=STATE,
            zero=encoding.zero,
            shape=(1, heads.kv, self._context, heads.dim),
            update="rows",
            input=f"past_{name}",
            output=f"new_{name}",
        )
        rounded = self.graph.reshape(self.graph.again(rows, encoding), 1, self._tokens, heads.kv, heads.dim)
        shape = (1, heads.kv, self._tokens, heads.dim)
        new = self.graph.op("Transpose", rounded, shape, output=str(tensor.output), perm=[0, 2, 1, 3])
        self._rows.append((tensor, shape))
        past = Value(self.graph.input(str(tensor.input), tensor.dtype, tensor.shape, "state"), tensor.shape, encoding)
        joined = self.graph.node("Concat", self.graph.real(past), self.graph.real(new), axis=2)
        whole = (1, heads.kv, self._context + self._tokens, heads.dim)
        return self.graph.quantized(joined, whole, encoding)

    def _mask(self, group: int) -> Value:
        """``[1, 1, group · T, context + T]``: 0 where a row is seen, else a number that takes any score to the least.

        One for all layers, each of which lets the sum saturate. Rows of the state are seen that stand before the call,
        and of the call's own those that do not stand after the token.
        """
        if group not in self._masks:
            tokens, context = self._tokens, self._context
            lowest = -2 * (self.ranges.widest(".products") + _FAR_BELOW)
            encoding = Encoding.of(lowest, 0.0)
            columns = np.concatenate([np.arange(context), np.full(tokens, -1)]).astype(np.int32)
            start = self._positions
            if tokens > 1:
                start = self.graph.node("Gather", start, self.graph.constant(np.array([0], np.int32)), axis=0)
            before = self.graph.node("Less", self.graph.constant(columns.reshape(1, 1, 1, -1)), start)
            shown = self.graph.stored("shown", np.array(0.0, np.float32), encoding)
            hidden = self.graph.stored("hidden", np.array(lowest, np.float32), encoding)
            chosen = self.graph.node("Where", before, self.graph.real(shown), self.graph.real(hidden))
            mask = self.graph.quantized(chosen, columns.reshape(1, 1, 1, -1).shape, encoding)
            if tokens > 1:
                future = np.triu(np.full((tokens, tokens), lowest, np.float32), 1)
                later = np.concatenate([np.zeros((tokens, context), np.float32), future], 1)
                tiled = np.tile(later, (group, 1))[None, None]
                mask = self.of_two("Add", mask, self.graph.stored(f"later_{group}", tiled, encoding), encoding)
                mask = Value(mask.name, tiled.shape, encoding)
            self._masks[group] = mask
        return self._masks[group]
