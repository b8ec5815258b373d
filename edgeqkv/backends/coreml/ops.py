"""The MIL interpreter of decoders: their operations, in fp16, as operations of a Core ML program (opset iOS 18).

How activations lie (`edgeqkv.backends.coreml.layouts`), how the state is appended to
(`edgeqkv.backends.coreml.states`) and what a call is told (`edgeqkv.backends.coreml.calls`) are parts that are
put together; everything else is here, once.

Where a model shares keys and values, ``key`` and ``value`` of an attention are the same variable, read from the
same state. Query heads that read the same KV head are folded into the rows of the queries, so that no key or
value is ever repeated.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgeqkv.backends.coreml.calls import Call
from edgeqkv.backends.coreml.layer_ops import MilLayerOps
from edgeqkv.backends.coreml.layouts import Layout
from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.states import Update
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.model.ops import DecoderOps, Heads
from edgeqkv.model.weights import Weight

__all__ = ["MilOps"]


class MilOps(MilLayerOps, DecoderOps[Var]):
    """Interprets a decoder into the function that is being built.

    Args:
        weights: where constants come from.
        layout: how activations lie.
        update: how the state is appended to.
        call: what this function is told, and gives back.
        states: the state variables by role: ``kv``, or ``k`` and ``v``.
    """

    def __init__(
        self, weights: WeightPool, layout: Layout, update: Update, call: Call, states: Mapping[str, Var]
    ) -> None:
        super().__init__(weights, layout)
        self._update = update
        self._call = call
        self._states = states

    def embed(self, tokens: Var, token_table: Weight, position_table: Weight) -> Var:
        rows = self._layout.rows(token_table, mb.reshape(x=tokens, shape=[-1]))
        return mb.add(x=rows, y=self._layout.rows(position_table, self._call.place.positions))

    def attention(self, layer: int, q: Var, k: Var, v: Var, heads: Heads) -> Var:
        keys = self._appended("kv" if v is k else "k", layer, k, heads)
        values = keys if v is k else self._appended("v", layer, v, heads)
        queries = self._layout.split_heads(q, heads.query, heads.dim)
        mixed = mb.scaled_dot_product_attention(
            query=mb.reshape(x=queries, shape=[1, heads.kv, -1, heads.dim]),
            key=keys,
            value=values,
            attn_mask=self._call.mask(heads.query // heads.kv),
        )
        return self._layout.merge_heads(mb.reshape(x=mixed, shape=[1, heads.query, -1, heads.dim]))

    def last(self, x: Var) -> Var:
        return self._layout.last(x) if self._call.last_only else x

    def logits(self, x: Var, table: Weight) -> Var:
        return self._layout.logits(x, table)

    def _appended(self, role: str, layer: int, rows: Var, heads: Heads) -> Var:
        new = self._layout.split_heads(rows, heads.kv, heads.dim)
        return self._update.append(self._states[role], layer, new, self._call.place)
