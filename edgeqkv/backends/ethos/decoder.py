"""A decoder whose state is an input and whose new rows are outputs: attention, its mask, and the graph's two ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from edgeqkv.backends.ethos.arithmetic import HIDDEN, NAN, added
from edgeqkv.backends.ethos.graph import Encoding, TosaGraph, Value
from edgeqkv.backends.ethos.ops import TosaOps
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.activations import ActivationRanges
from edgeqkv.model.layers import Attention, Heads
from edgeqkv.model.state import StateScales
from edgeqkv.model.weights import Weight

__all__ = ["DecoderOps"]

_STATE: Final = "int8"


class DecoderOps(TosaOps):
    """Interprets a decoder into a graph of ``tokens`` tokens a call and room for ``context``.

    Args:
        graph, ranges, narrow: as for `TosaOps`.
        scales: of the state, by the names of its tensors.
        context: positions that the state has room for.
        tokens: tokens that a call takes.
    """

    def __init__(
        self,
        graph: TosaGraph,
        ranges: ActivationRanges,
        scales: StateScales,
        *,
        context: int,
        tokens: int,
        narrow: bool,
    ) -> None:
        super().__init__(graph, ranges, narrow=narrow)
        self._scales = scales
        self._context = context
        self._tokens = tokens
        self._masks: dict[int, Value] = {}
        self._rows: list[tuple[StateTensor, Value]] = []
        self.ids = graph.input("input_ids", "int32", [1, tokens], "tokens")
        self._positions = graph.input("position_ids", "int32", [1, tokens], "positions")
        self._index = graph.input("logit_index", "int32", [1], "logit_index") if tokens > 1 else None

    def finish(self, logits: Value) -> tuple[StateTensor, ...]:
        """Declare the outputs, and return the state that the caller keeps."""
        self.graph.output(logits, "logits", "fp32", "logits")
        for tensor, rows in self._rows:
            self.graph.output(rows, str(tensor.output), tensor.dtype, "state")
        return tuple(tensor for tensor, _ in self._rows)

    def add_positions(self, x: Value, table: Weight) -> Value:
        encoding = self.at(self.sites.next("add_positions"))
        return added(self.graph, x, self.row(table, self._positions), encoding)

    def last(self, x: Value) -> Value:
        if self._index is None:
            return x
        return self.graph.rows(self.graph.reshape(x, 1, *x.shape), self.graph.reshape(self._index, 1, 1))

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        site = self.sites.next("attention")
        graph, heads, tokens = self.graph, attention.heads, self._tokens
        group = heads.query // heads.kv
        if v is k:
            keys = values = self._appended(layer, "kv", k, heads)
        else:
            keys, values = self._appended(layer, "k", k, heads), self._appended(layer, "v", v, heads)
        grouped = graph.reshape(self.scale(q, attention.scale), tokens, heads.kv, group, heads.dim)
        # The queries that read one KV head are rows of one matrix.
        folded = graph.reshape(graph.transpose(grouped, 1, 2, 0, 3), heads.kv, group * tokens, heads.dim)
        result = self.mixed(site, folded, keys, values, self._hidden(group))
        apart = graph.reshape(result, heads.kv, group, tokens, heads.dim)
        return graph.reshape(graph.transpose(apart, 2, 0, 1, 3), tokens, heads.query * heads.dim)

    def _appended(self, layer: int, role: str, rows: Value, heads: Heads) -> Value:
        """The state with this call's rows behind it, ``[KV, context + T, D]``; the graph gives back the rows alone."""
        graph, name, scale = self.graph, f"{role}_{layer}", self._scales.of[f"{role}_{layer}"]
        tensor = StateTensor(
            name=name,
            role=role,
            layer=layer,
            dtype=_STATE,
            shape=(1, heads.kv, self._context, heads.dim),
            update="rows",
            input=f"past_{name}",
            output=f"new_{name}",
        )
        rounded = graph.rescaled(rows, Encoding(_STATE, scale, 0, (-128 * scale, 127 * scale)))
        apart = graph.reshape(rounded, 1, self._tokens, heads.kv, heads.dim)
        new = graph.transpose(apart, 0, 2, 1, 3)
        self._rows.append((tensor, new))
        past = graph.input(str(tensor.input), _STATE, tensor.shape, "state", scale)
        joined = graph.concatenated([past, new], 2)
        whole = graph.reshape(joined, *joined.shape[1:])
        return whole if self._narrow else graph.codes_as(whole, "int16")

    def _hidden(self, group: int) -> Value:
        """``[1, group · T, context + T]``: what is added to the scores. Rows of the state are seen that stand before
        the call, and of the call's own those that do not stand after the token.
        """
        if group not in self._masks:
            graph, tokens, context = self.graph, self._tokens, self._context
            columns = np.arange(1, context + 1, dtype=np.int32).reshape(1, 1, -1)
            first = graph.reshape(graph.start(self._positions, 1), 1, 1, 1)
            # 0 where a row stands before the call, else -1.
            after = graph.whole_op("SUB", first, graph.whole(columns, 1.0))
            least = graph.whole_op("MAXIMUM", after, graph.number(-1, 3), None, NAN)
            sign = graph.whole_op("MINIMUM", least, graph.number(0, 3), None, NAN)
            past = replace(graph.wide(sign, -1.0 / HIDDEN), scale=1.0)
            if tokens > 1:
                past = graph.whole_op("ADD", past, graph.whole(np.zeros((1, tokens, context)), 1.0))
            among = graph.whole(np.triu(np.full((1, tokens, tokens), float(HIDDEN)), 1), 1.0)
            mask = graph.concatenated([past, among], 2)
            self._masks[group] = graph.concatenated([mask] * group, 1) if group > 1 else mask
        return self._masks[group]
