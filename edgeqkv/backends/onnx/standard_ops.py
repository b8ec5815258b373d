"""Attention in the standard's own operators: the forms that any ONNX runtime can run.

New rows are put into the state with ``ScatterND``, which works in place where both ends are bound to the same memory;
attention reads the first ``window`` positions of the result: both as keys and as values, where the model shares them.
Query heads that read the same KV head are folded into the rows of one matrix product, so that no key or value is ever
repeated.

A layer that sees only so far back has a state tensor that is a ring (`edgeqkv.model.state`): rows are put where their
position modulo its length says, and the mask knows from the last position which one each row is of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgeqkv.backends.onnx.graph import DTYPES, GraphBuilder
from edgeqkv.backends.onnx.ops import StatefulOps
from edgeqkv.backends.onnx.signatures import GraphSignature
from edgeqkv.bundle.manifest import StateTensor
from edgeqkv.model.layers import Attention
from edgeqkv.model.state import StateScales, StateSpec

__all__ = ["StandardOps"]

Value = ir.Value


@dataclass(frozen=True)
class _Reach:
    """What attention reads of the state tensors of one length.

    Attributes:
        length: their length.
        stop: one past the last row that is read, ``[1]``; None: all are.
        positions: where each of these rows stands, ``[n]``; negative for one that was not written yet.
        column: the same as ``[n, 1]``.
    """

    length: int
    stop: Value | None
    positions: Value
    column: Value


@dataclass(frozen=True)
class _Seen:
    """What a layer attends to: keys and values, what each is to be multiplied with, and which rows they are."""

    keys: Value
    key_unit: float
    values: Value
    unit: float
    reach: _Reach


class StandardOps(StatefulOps):
    """Interprets a decoder into a graph whose attention is ``MatMul`` and ``Softmax``.

    Args:
        graph, signature: as for `StatefulOps`.
        window: positions that attention reads; None: as many as the call says.
        scales: how an int8 state rounds; None for the others.
    """

    def __init__(
        self, graph: GraphBuilder, signature: GraphSignature, *, window: int | None, scales: StateScales | None
    ) -> None:
        super().__init__(graph, signature)
        self._scales = scales
        self._window = window
        self._filled = signature.filled() if window is None else None
        self._reaches: dict[int, _Reach] = {}
        self._masks: dict[tuple[int, int, int | None], Value] = {}
        self._indices: dict[tuple[int, int], Value] = {}
        self._seen: dict[int, _Seen] = {}

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        heads = attention.heads
        with self.scope("queries"):
            queries = self.placed(q, heads.query, heads.dim, attention.q_norm, attention.rope)
        if attention.source is None:
            self._seen[layer] = self._stored_and_seen(layer, k, v, attention)
        seen = self._seen[layer if attention.source is None else attention.source]
        group = heads.query // heads.kv
        with self.scope("scores"):
            grouped = self._op("Transpose", self._reshape(queries, -1, heads.kv, group, heads.dim), perm=[1, 0, 2, 3])
            folded = self._reshape(grouped, 1, heads.kv, -1, heads.dim)
            scaled = self.scale(folded, attention.scale * seen.key_unit)
            scores = self._op("MatMul", scaled, self._op("Transpose", seen.keys, perm=[0, 1, 3, 2]))
            if attention.softcap is not None:
                scores = self.softcap(scores, attention.softcap)
            masked = self._op("Add", scores, self._mask(group, seen.reach, attention.window))
            weights = self._op("Softmax", masked, axis=-1)
        with self.scope("mix"):
            mixed = self.scale(self._op("MatMul", weights, seen.values), seen.unit)
            apart = self._op("Transpose", self._reshape(mixed, heads.kv, -1, group, heads.dim), perm=[1, 0, 2, 3])
            return self._values_of(self._reshape(apart, -1, heads.query * heads.dim), attention)

    def _stored_and_seen(self, layer: int, k: Value, v: Value, attention: Attention) -> _Seen:
        """Put this call's keys and values into the layer's state; what is seen of it then."""
        heads, specs = attention.heads, self._signature.specs
        reach = self._reach(specs[layer, attention.roles[0]].length)
        if v is k:
            values, unit = self._appended(specs[layer, "kv"], v, reach)
            with self.scope("keys"):
                keys = self._as_keys(values, unit, attention, reach)
            return _Seen(keys, 1.0 if attention.k_norm else unit, values, unit, reach)
        with self.scope("keys"):
            placed = self.placed(k, heads.kv, heads.dim, attention.k_norm, attention.rope)
        keys, key_unit = self._appended(specs[layer, "k"], placed, reach)
        values, unit = self._appended(specs[layer, "v"], v, reach)
        return _Seen(keys, key_unit, values, unit, reach)

    def _appended(self, spec: StateSpec, rows: Value, reach: _Reach) -> tuple[Value, float]:
        """Put this call's rows into a state tensor; what attention reads of it, in float32, and its scale."""
        with self.scope(f"state_{spec.role}"):
            past, tensor = self._signature.past(spec)
            new = self._reshape(self._stored(tensor, rows), 1, -1, spec.kv_heads, spec.dim)
            present = self._op("ScatterND", past, self._scatter_indices(spec.kv_heads, spec.length), new)
            self._signature.present(tensor, present)
            if reach.stop is not None:
                start, axis = self._graph.constant([0]), self._graph.constant([2])
                present = self._op("Slice", present, start, reach.stop, axis)
            if tensor.dtype != "fp32":
                present = self._op("Cast", present, to=DTYPES["fp32"])
        # An int8 state's codes are left as they are: their scale goes to what they are multiplied with.
        return present, 1.0 if self._scales is None else self._scales.of[spec.name]

    def _as_keys(self, state: Value, unit: float, attention: Attention, reach: _Reach) -> Value:
        """What a merged layer stored, as keys: normalized and rotated as it is read."""
        keys = state
        if attention.k_norm is not None:
            keys = self.norm(self.scale(keys, unit), attention.k_norm)
        if attention.rope is not None:
            keys = self._rotated(keys, attention.rope, attention.heads.dim, reach.column)
        return keys

    def _stored(self, tensor: StateTensor, rows: Value) -> Value:
        """Rows as the state holds them.

        Rounded before they are reshaped: ONNX Runtime would round a ``QuantizeLinear``'s reshaped input a second time.
        """
        if self._scales is None:
            return self._cast(rows, "fp32", tensor.dtype)
        scale = self._graph.constant(self._scales.of[tensor.name], "fp32")
        return self._op("QuantizeLinear", rows, scale, self._graph.constant(0, tensor.dtype))

    def _reach(self, length: int) -> _Reach:
        """What is read of tensors of this length; one for all layers."""
        if length not in self._reaches:
            with self.scope("/reach"):
                rows, stop = self._read_rows(length)
                positions = self._of_ring(rows, length) if self._is_ring(length) else rows
                self._reaches[length] = _Reach(length, stop, positions, self._reshape(positions, -1, 1))
        return self._reaches[length]

    def _is_ring(self, length: int) -> bool:
        return length < self._signature.context

    def _read_rows(self, length: int) -> tuple[Value, Value | None]:
        """The rows that are read of tensors of this length, and one past the last of them if there are more."""
        constant = self._graph.constant
        if self._window is not None:
            count = min(self._window, length)
            return constant(np.arange(count)), None if count == length else constant([count])
        assert self._filled is not None
        stop = self._op("Min", self._filled, constant([length])) if self._is_ring(length) else self._filled
        return self._op("Range", constant(0), self._op("Squeeze", stop, constant([0])), constant(1)), stop

    def _of_ring(self, rows: Value, length: int) -> Value:
        """The position whose row a ring has in each place: the last that belongs there, counted from this call's end.

        Of a call that is filled up, the end is that of the filling: what that overwrites no later token sees, as the
        ring is longer than a window by what can be filled up.
        """
        if self._filled is not None:
            last = self._op("Sub", self._filled, self._graph.constant([1]))
        else:
            last = self._op("Gather", self._signature.positions, self._graph.constant([-1]))
        since = self._op("Add", self._op("Sub", last, rows), self._graph.constant(length))  # never negative
        return self._op("Sub", last, self._op("Mod", since, self._graph.constant(length)))

    def _scatter_indices(self, kv_heads: int, length: int) -> Value:
        """``[1, T, kv_heads, 3]``: where each new row goes (batch, head, position); one for all layers."""
        if (kv_heads, length) not in self._indices:
            with self.scope("/rows"):
                zeros = self._graph.constant(np.zeros((1, 1, kv_heads, 1)))
                heads = self._graph.constant(np.arange(kv_heads).reshape(1, 1, kv_heads, 1))
                place = self._signature.positions
                if self._is_ring(length):
                    place = self._op("Mod", place, self._graph.constant(length))
                position = self._op("Add", zeros, self._reshape(place, 1, -1, 1, 1))
                batch = self._op("Sub", position, position)
                indices = self._op("Concat", batch, self._op("Add", batch, heads), position, axis=-1)
            self._indices[kv_heads, length] = indices
        return self._indices[kv_heads, length]

    def _mask(self, group: int, reach: _Reach, window: int | None) -> Value:
        """``[T · group, n]``: 0 where a row is visible, -inf where it is not; one for all layers with the same rules.

        Visible is what stands at the token's position or before it, and not a window or more before.
        """
        if window is not None and window >= self._signature.context:
            window = None
        key = (group, reach.length, window)
        if key not in self._masks:
            with self.scope("/mask"):
                each = self._op(
                    "Add", self._reshape(self._signature.positions, -1, 1), self._graph.constant(np.zeros((1, group)))
                )
                rows = self._reshape(each, -1, 1)
                visible = self._op("LessOrEqual", reach.positions, rows)
                if window is not None:
                    oldest = self._op("Sub", rows, self._graph.constant(window - 1))
                    # A row that was not written yet stands at a negative position.
                    oldest = self._op("Max", oldest, self._graph.constant(0)) if self._is_ring(reach.length) else oldest
                    visible = self._op("And", visible, self._op("GreaterOrEqual", reach.positions, oldest))
                shown, hidden = self._graph.constant(0.0, "fp32"), self._graph.constant(-np.inf, "fp32")
                self._masks[key] = self._op("Where", visible, shown, hidden)
        return self._masks[key]
