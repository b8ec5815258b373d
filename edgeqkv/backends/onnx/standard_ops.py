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
from edgeqkv.backends.onnx.graph import DTYPES, GraphBuilder
from edgeqkv.backends.onnx.ops import StatefulOps
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.layers import Attention, Norm, Rope
from edgeqkv.model.state import StateScales, StateSpec

__all__ = ["StandardOps"]

Value = ir.Value


class StandardOps(StatefulOps):
    """Interprets a decoder into a graph whose attention is ``MatMul`` and ``Softmax``.

    Args:
        graph, call: as for `StatefulOps`.
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
        self._masks: dict[int, Value] = {}
        self._indices: dict[int, Value] = {}

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        heads, specs = attention.heads, self._call.specs
        queries = self._placed(q, heads.query, attention.q_norm, attention)
        new_values = v
        if attention.v_norm is not None:
            new_values = self._reshape(
                self.norm(self._reshape(v, -1, heads.kv, heads.dim), attention.v_norm), -1, heads.kv * heads.dim
            )
        if v is k:
            values, unit = self._appended(specs[layer, "kv"], new_values)
            keys, key_unit = self._as_keys(values, unit, attention), 1.0 if attention.k_norm else unit
        else:
            keys, key_unit = self._appended(specs[layer, "k"], self._placed(k, heads.kv, attention.k_norm, attention))
            values, unit = self._appended(specs[layer, "v"], new_values)
        group = heads.query // heads.kv
        grouped = self._op("Transpose", self._reshape(queries, -1, heads.kv, group, heads.dim), perm=[1, 0, 2, 3])
        folded = self._reshape(grouped, 1, heads.kv, -1, heads.dim)
        scaled = self.scale(folded, attention.scale * key_unit)
        scores = self._op("MatMul", scaled, self._op("Transpose", keys, perm=[0, 1, 3, 2]))
        if attention.softcap is not None:
            scores = self.softcap(scores, attention.softcap)
        weights = self._op("Softmax", self._op("Add", scores, self._causal_mask(group)), axis=-1)
        mixed = self.scale(self._op("MatMul", weights, values), unit)
        apart = self._op("Transpose", self._reshape(mixed, heads.kv, -1, group, heads.dim), perm=[1, 0, 2, 3])
        return self._reshape(apart, -1, heads.query * heads.dim)

    def _appended(self, spec: StateSpec, rows: Value) -> tuple[Value, float]:
        """Put this call's rows into a state tensor; what attention reads of it, in float32, and its scale."""
        past, tensor = self._call.past(spec)
        new = self._reshape(self._stored(tensor, rows), 1, -1, spec.kv_heads, spec.dim)
        present = self._op("ScatterND", past, self._scatter_indices(spec.kv_heads), new)
        self._call.present(tensor, present)
        if not self._reads_all:
            start, axis = self._graph.constant([0]), self._graph.constant([2])
            present = self._op("Slice", present, start, self._window, axis)
        # An int8 state's codes are left as they are: their scale goes to what they are multiplied with.
        unit = 1.0 if self._scales is None else self._scales.of[spec.name]
        return (self._op("Cast", present, to=DTYPES["fp32"]) if tensor.dtype != "fp32" else present), unit

    def _placed(self, x: Value, heads: int, norm: Norm | None, attention: Attention) -> Value:
        """This call's queries or keys ``[T, heads·dim]``, each head normalized and rotated to where it stands."""
        if norm is None and attention.rope is None:
            return x
        split = self._reshape(x, -1, heads, attention.heads.dim)
        if norm is not None:
            split = self.norm(split, norm)
        if attention.rope is not None:
            split = self._rotated(split, attention.rope, self._reshape(self._call.positions, -1, 1, 1))
        return self._reshape(split, -1, heads * attention.heads.dim)

    def _as_keys(self, state: Value, unit: float, attention: Attention) -> Value:
        """What a merged layer stored, as keys: normalized and rotated as it is read."""
        keys = state
        if attention.k_norm is not None:
            keys = self.norm(self.scale(keys, unit), attention.k_norm)
        if attention.rope is not None:
            keys = self._rotated(keys, attention.rope, self._reshape(self._columns, -1, 1))
        return keys

    def _rotated(self, x: Value, rope: Rope, positions: Value) -> Value:
        """``x [..., D]`` at the positions, which have as many dimensions and a last one of 1."""
        frequencies = self._graph.constant(rope.inverse_frequencies, "fp32")
        angles = self._op("Mul", self._op("Cast", positions, to=DTYPES["fp32"]), frequencies)
        cos = self.scale(self._op("Cos", angles), rope.attention_factor)
        sin = self.scale(self._op("Sin", angles), rope.attention_factor)
        half = rope.dims // 2
        places = ((0, rope.dims, 2), (1, rope.dims, 2)) if rope.interleaved else ((0, half, 1), (half, rope.dims, 1))
        first, second = (self._channels_of(x, *place) for place in places)
        turned = [
            self._op("Sub", self._op("Mul", first, cos), self._op("Mul", second, sin)),
            self._op("Add", self._op("Mul", second, cos), self._op("Mul", first, sin)),
        ]
        if rope.interleaved:
            last = self._graph.constant([-1])
            pairs = self._op("Concat", *(self._op("Unsqueeze", each, last) for each in turned), axis=-1)
            shape = self._op("Concat", self._op("Shape", first, end=-1), self._graph.constant([rope.dims]), axis=0)
            turned = [self._op("Reshape", pairs, shape)]
        rest = self._channels_of(x, rope.dims, np.iinfo(np.int64).max, 1)
        return self._op("Concat", *turned, rest, axis=-1)

    def _channels_of(self, x: Value, start: int, stop: int, step: int) -> Value:
        bounds = (self._graph.constant([each]) for each in (start, stop, -1, step))
        return self._op("Slice", x, *bounds)

    def _stored(self, tensor: StateTensor, rows: Value) -> Value:
        """Rows as the state holds them.

        Rounded before they are reshaped: ONNX Runtime would round a ``QuantizeLinear``'s reshaped input a second time.
        """
        if self._scales is None:
            return self._cast(rows, "fp32", tensor.dtype)
        scale = self._graph.constant(self._scales.of[tensor.name], "fp32")
        return self._op("QuantizeLinear", rows, scale, self._graph.constant(0, tensor.dtype))

    def _scatter_indices(self, kv_heads: int) -> Value:
        """``[1, T, kv_heads, 3]``: where each new row goes (batch, head, position); one for all layers."""
        if kv_heads not in self._indices:
            zeros = self._graph.constant(np.zeros((1, 1, kv_heads, 1)))
            heads = self._graph.constant(np.arange(kv_heads).reshape(1, 1, kv_heads, 1))
            position = self._op("Add", zeros, self._reshape(self._call.positions, 1, -1, 1, 1))
            batch = self._op("Sub", position, position)
            self._indices[kv_heads] = self._op("Concat", batch, self._op("Add", batch, heads), position, axis=-1)
        return self._indices[kv_heads]

    def _causal_mask(self, group: int) -> Value:
        """``[T · group, window]``: 0 where the position is visible, -inf where it is not; one for all layers."""
        if group not in self._masks:
            each = self._op(
                "Add", self._reshape(self._call.positions, -1, 1), self._graph.constant(np.zeros((1, group)))
            )
            visible = self._op("LessOrEqual", self._columns, self._reshape(each, -1, 1))
            shown, hidden = self._graph.constant(0.0, "fp32"), self._graph.constant(-np.inf, "fp32")
            self._masks[group] = self._op("Where", visible, shown, hidden)
        return self._masks[group]
