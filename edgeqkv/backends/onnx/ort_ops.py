"""Attention as ONNX Runtime's fused operator, ``com.microsoft.GroupQueryAttention``.

The operator knows keys and values, each with a past and a present. A layer that shares them gives it the same rows
twice and the same tensor as both pasts; both presents are outputs, and the caller binds all of them to one memory. The
operator then writes every new row twice to the same place, and the state is held once.

It appends in place only what is bound so: a present that lies elsewhere silently gets a copy of the whole state.
That is what a caller with no place for a second present (`edgeqkv.backends.onnx.genai`) pays, for one layer at a time.
Of a layer's window it keeps all positions, and attends to the last ones.

An int8 state is rounded with one constant scale a tensor (`edgeqkv.model.state`) as it is appended. The operator
computes in float32 on what it then reads back, so that the rounding of the state is all that differs.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from edgeqkv.backends.onnx.graph import DTYPES, GraphBuilder
from edgeqkv.backends.onnx.ops import StatefulOps
from edgeqkv.backends.onnx.signatures import GraphSignature
from edgeqkv.model.layers import Attention
from edgeqkv.model.state import StateScales

__all__ = ["OrtOps"]

Value = ir.Value

# Of the operator's inputs, those between the lengths and the scales: rotary caches, positions, bias, sink.
_UNUSED = [None] * 5


class OrtOps(StatefulOps):
    """Interprets a decoder into a graph whose attention is fused.

    Args:
        graph, signature: as for `StatefulOps`.
        scales: how an int8 state rounds; None for the others.
    """

    def __init__(self, graph: GraphBuilder, signature: GraphSignature, *, scales: StateScales | None) -> None:
        super().__init__(graph, signature)
        self._scales = scales
        with self.scope("length"):
            length = self._op("Cast", signature.filled(), to=DTYPES["int32"])
            self._last_position = self._op("Sub", length, graph.constant([1], "int32"))
            self._length = self._op("Squeeze", length, graph.constant([0]))

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        heads, specs = attention.heads, self._signature.specs
        with self.scope("queries"):
            queries = self.placed(q, heads.query, heads.dim, attention.q_norm, attention.rope)
        if v is k:
            keys, tensor = self._signature.past(specs[layer, "kv"], both=True)
            values, tensors = keys, (tensor, tensor)
            rows = self._batched(k)
            new = (rows, rows)
        else:
            keys, key_tensor = self._signature.past(specs[layer, "k"])
            values, value_tensor = self._signature.past(specs[layer, "v"])
            with self.scope("keys"):
                placed = self.placed(k, heads.kv, heads.dim, attention.k_norm, attention.rope)
            tensors, new = (key_tensor, value_tensor), (self._batched(placed), self._batched(v))
        quantization, scales = self._quantization(*(tensor.name for tensor in tensors))
        mixed, *presents = self._graph.ops(
            "GroupQueryAttention",
            self._batched(queries),
            *new,
            keys,
            values,
            self._last_position,
            self._length,
            *scales,
            outputs=3,
            domain="com.microsoft",
            num_heads=heads.query,
            kv_num_heads=heads.kv,
            scale=attention.scale,
            **_rules(attention),
            **quantization,
        )
        if v is not k:
            for tensor, present in zip(tensors, presents, strict=True):
                self._signature.present(tensor, present)
        elif tensors[0].aliases:
            self._signature.present(tensors[0], *presents)
        else:
            self._signature.present(tensors[0], presents[0])
            self._use_up(presents[1])
        return self._values_of(self._op("Squeeze", mixed, self._graph.constant([0])), attention)

    def _use_up(self, present: Value) -> None:
        """Have the runtime free a present that nobody wants before the next layer makes its own.

        What nothing reads it keeps to the end of the call, which would be a second state. So the next layer asks how
        much room there is, which is never less than the positions that are filled.
        """
        room = self._op("Shape", present, start=2, end=3)
        scalar = self._op("Cast", self._op("Squeeze", room, self._graph.constant([0])), to=DTYPES["int32"])
        self._length = self._op("Min", self._length, scalar)

    def _batched(self, rows: Value) -> Value:
        return self._op("Unsqueeze", rows, self._graph.constant([0]))

    def _quantization(self, *names: str) -> tuple[dict[str, Any], list[Value | None]]:
        """What the operator needs to know of an int8 state: attributes, and the inputs up to the scales."""
        if self._scales is None:
            return {}, []
        scales = [self._graph.constant([self._scales.of[name]], "fp32") for name in names]
        attributes = {"k_quant_type": "PER_TENSOR", "v_quant_type": "PER_TENSOR", "kv_cache_bit_width": 8}
        return attributes, [*_UNUSED, *scales]


def _rules(attention: Attention) -> dict[str, Any]:
    """What the operator needs to know of a window and a cap."""
    rules = {"local_window_size": attention.window, "softcap": attention.softcap}
    return {name: value for name, value in rules.items() if value is not None}
