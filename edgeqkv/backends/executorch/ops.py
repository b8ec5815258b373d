"""The interpreters that are traced into an ExecuTorch program: the torch one, with weights that a module holds.

`ExecuTorchOps` is all that a model without a state needs; a decoder's have theirs in planned memory.

Activations are float32. Weights and state may be stored in fp16: a matrix product with fp16 weights and an
attention over an fp16 state are computed in fp16, for XNNPACK and the attention operator take operands of one type
alone; their results are widened again, so that norms and the residual stream keep float32. What multiplies a
quantized matrix is rounded to int8 (`edgeqkv.backends.executorch.quantized`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from math import isclose, pi, sqrt
from typing import Final, cast

import torch
import torch.nn.functional as F

from edgeqkv.backends.executorch._compat import promise
from edgeqkv.backends.executorch.quantized import quantized_product, quantized_rows
from edgeqkv.model.layers import Activation, Attention, Heads, Linear, Norm, Rope
from edgeqkv.model.state import HIGHEST, StateScales
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.reference.attention import rotated, turns
from edgeqkv.reference.ops import TorchOps

__all__ = ["LONG", "OPS", "ExecuTorchOps", "PortableOps", "StatefulOps", "StockOps", "promise"]

Tensor = torch.Tensor

_ROOT_2_PI: Final = sqrt(2 / pi)

LONG: Final = 128
"""Tokens from which on folded heads are faster: 0.08 ms a layer instead of 0.09, and 0.90 instead of 1.32 at 2000.

`python -m benchmarks.executorch_attention`, 4 KV heads of 4 query heads of 64 numbers.
"""

_Seen = tuple[Tensor, float | None, Tensor, float | None]
"""Keys and values that are attended to ``[1, T, KV, D]``, each with its scale if it has one."""


class ExecuTorchOps(TorchOps):
    """In operators of XNNPACK's, without a state.

    Args:
        parameter: the parameter that holds a weight, or the named part of a quantized one.
    """

    def __init__(self, parameter: Callable[[Weight, str], Tensor]) -> None:
        self._parameter = parameter

    def values(self, weight: Weight) -> Tensor:
        return self._parameter(weight, "")

    def embedding(self, ids: Tensor, table: Weight) -> Tensor:
        if isinstance(table, QuantizedWeight):
            return quantized_rows(ids, table, partial(self._parameter, table))
        return F.embedding(ids, self.values(table)).float()

    def add_positions(self, x: Tensor, table: Weight) -> Tensor:
        return x + self.values(table)

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        bias = self.values(linear.bias) if linear.bias else None
        if x.dim() == 2:
            return self._product(x, linear.weight, bias)
        # XNNPACK rounds what goes into a quantized product a row at a time, and knows rows of a matrix alone.
        return self._product(x.flatten(0, 1), linear.weight, bias).view(*x.shape[:2], -1)

    def activation(self, x: Tensor, kind: Activation) -> Tensor:
        if kind != "gelu_tanh":
            return super().activation(x, kind)
        # XNNPACK has one GELU, the exact one, and computes that whichever is asked for.
        return 0.5 * x * (1 + torch.tanh(_ROOT_2_PI * (x + 0.044715 * x * x * x)))

    def logits(self, x: Tensor, table: Weight) -> Tensor:
        return self._product(x, table, None)

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        heads, term = attention.heads, attention.term
        batch, length = q.shape[:2]

        def heads_of(x: Tensor) -> Tensor:
            return x.view(batch, length, heads.query, heads.dim).transpose(1, 2).flatten(0, 1)

        # Products of three dimensions: of four, the sides would be expanded first, which XNNPACK does not do.
        scale = attention.scale * (1.0 if term is None else term.scale)
        scores = torch.bmm(heads_of(q) * scale, heads_of(k).transpose(1, 2))
        if term is not None:
            scores = scores + self.values(term.bias)
        mixed = torch.bmm(scores.softmax(-1), heads_of(v))
        return mixed.view(batch, heads.query, length, heads.dim).transpose(1, 2).flatten(2)

    def patches(self, pixels: Tensor, size: int) -> Tensor:
        batch, channels, height, width = pixels.shape
        padded = F.pad(pixels, (0, -width % size, 0, -height % size))
        down, across = padded.shape[2] // size, padded.shape[3] // size
        squares = padded.view(batch, channels, down, size, across, size).permute(0, 2, 4, 1, 3, 5)
        return squares.reshape(batch, down * across, channels * size * size)

    def _product(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        if isinstance(weight, QuantizedWeight):
            return quantized_product(x, weight, partial(self._parameter, weight), bias)
        matrix = self.values(weight)
        return F.linear(x.to(matrix.dtype), matrix, bias).float()


class StatefulOps(ExecuTorchOps):
    """What every form of a decoder has in common. Values are ``[S, C]``.

    Args:
        position: where the first token stands, a symbol during tracing.
        context: positions that there are; a state buffer shorter than that is a ring (`edgeqkv.model.state`).
        parameter: the parameter that holds a weight, or the named part of a quantized one.
        state: the buffer ``[1, length, kv_heads, head_dim]`` of a layer and role (``kv``, ``k`` or ``v``).
        scales: how an int8 state rounds; None for a state in floating point.
    """

    def __init__(
        self,
        position: int,
        context: int,
        parameter: Callable[[Weight, str], Tensor],
        state: Callable[[int, str], Tensor],
        scales: StateScales | None,
    ) -> None:
        super().__init__(parameter)
        self.position = position
        self.scales = scales
        self._context = context
        self._state = state
        # Of this call: where rows stand and how they turn there, and what is added to scores.
        self._stands: dict[int | None, Tensor] = {}
        self._turns: dict[tuple[Rope, int | None], tuple[Tensor, Tensor]] = {}
        self._masks: dict[tuple[int, int | None], Tensor] = {}
        self._seen: dict[int, _Seen] = {}
        self._starts_of: dict[int, tuple[Tensor, int, int]] = {}

    def add_positions(self, x: Tensor, table: Weight) -> Tensor:
        return x + F.embedding(self._rows_stand(x.shape[0]), self.values(table)).float()

    def last(self, x: Tensor) -> Tensor:
        return x[-1:]

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, attention: Attention) -> Tensor:
        heads, steps = attention.heads, q.shape[0]
        q = self.placed(q, heads.query, heads.dim, attention.q_norm, attention.rope)
        source = layer if attention.source is None else attention.source
        if attention.source is None:
            self._seen[layer] = self._stored_and_seen(layer, k, v, attention)
        keys, key_scale, values, value_scale = self._seen[source]
        # What computes the scores scales them by 1/√dim.
        factor = attention.scale * heads.dim**0.5 * (key_scale or 1.0)
        queries = _scaled(q, None if isclose(factor, 1.0) else factor)
        queries = queries.view(1, -1, heads.query, heads.dim).to(keys.dtype)
        if self._is_fused(attention):
            mixed = self._attend(queries, keys, values)
        else:
            length = self._state(source, "kv" if attention.merged else "k").shape[1]
            mask = self._mask(length, steps, self._window(attention))
            mixed = self._attend_seen(queries, keys, values, mask, attention.softcap)
        whole = _scaled(mixed.reshape(steps, -1).float(), value_scale)
        return self.part(whole, heads.query, heads.dim, heads.dim - attention.value_dim, heads.dim)

    def placed(self, x: Tensor, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Tensor:
        if norm is None and rope is None:
            return x
        split = x.view(-1, heads, dim)
        split = split if norm is None else self.norm(split, norm)
        return self._turned(split, rope, None, x.shape[0]).reshape(x.shape[0], -1)

    def part(self, x: Tensor, heads: int, dim: int, start: int, stop: int) -> Tensor:
        if (start, stop) == (0, dim):
            return x
        return x.view(-1, heads, dim)[..., start:stop].reshape(x.shape[0], -1)

    def _stored_and_seen(self, layer: int, k: Tensor, v: Tensor, attention: Attention) -> _Seen:
        """Put this call's keys and values into the layer's state; what is seen of it then."""
        heads, steps = attention.heads, k.shape[0]
        if v is k:
            values, value_scale = self._appended(layer, "kv", v, attention)
            length = self._state(layer, "kv").shape[1]
            return *self._as_keys(values, value_scale, length, steps, attention), values, value_scale
        placed = self.placed(k, heads.kv, heads.dim, attention.k_norm, attention.rope)
        return *self._appended(layer, "k", placed, attention), *self._appended(layer, "v", v, attention)

    def _as_keys(
        self, rows: Tensor, scale: float | None, length: int, steps: int, attention: Attention
    ) -> tuple[Tensor, float | None]:
        """What a merged layer stored ``[1, T, KV, D]`` as keys, normalized and rotated as it is read; and its scale."""
        if not _differ(attention):
            return rows, scale
        keys = rows[0].float()
        if attention.k_norm is not None:
            keys, scale = self.norm(_scaled(keys, scale), attention.k_norm), None
        return self._turned(keys, attention.rope, length, steps).to(rows.dtype)[None], scale

    def _turned(self, x: Tensor, rope: Rope | None, length: int | None, steps: int) -> Tensor:
        """Heads ``[rows, heads, D]`` turned to where they stand: this call's, or those of a state of so many rows."""
        if rope is None:
            return x
        if (rope, length) not in self._turns:
            stands = self._rows_stand(steps) if length is None else self._state_stands(length, steps)
            self._turns[rope, length] = turns(rope, stands)
        return rotated(x, rope, *self._turns[rope, length])

    def _appended(self, layer: int, role: str, rows: Tensor, attention: Attention) -> tuple[Tensor, float | None]:
        """Write a step's rows into the state; what is to be attended to ``[1, T, KV, D]``, and its scale if it has one.

        The codes of an int8 state are widened a layer at a time, as far as it is filled. Their scale is left to the
        queries and to what comes out, which are few.
        """
        state, steps = self._state(layer, role), rows.shape[0]
        rows = rows.view(1, steps, attention.heads.kv, attention.heads.dim)
        if self.scales is None:
            self._write(state, rows.to(state.dtype))
            # The fused operator knows how far a state is filled, and reads no further.
            return state if self._is_fused(attention) else self._filled(state, steps), None
        scale = self.scales.of[f"{role}_{layer}"]
        self._write(state, (rows / scale).round().clamp(-HIGHEST - 1, HIGHEST).to(state.dtype))
        least = self._least(attention.heads) if self._is_fused(attention) else 1
        return self._filled(state, steps, least).float(), scale

    def _filled(self, state: Tensor, steps: int, least: int = 1) -> Tensor:
        """The rows up to the last token of this call, or all of a ring that was once around; ``least`` or more."""
        # Those past it were never written and may hold anything, NaN included, which a mask would let through
        # (0 × NaN): they are not read at all.
        count = self._count(state.shape[1], steps)
        if least > 1:
            count = cast("int", torch.sym_max(count, least))  # type: ignore[no-untyped-call]
        promise(count <= state.shape[1])
        return state.narrow(1, 0, count)

    def _count(self, length: int, steps: int) -> int:
        """The rows of a state of this length that hold something."""
        stop = self.position + steps
        if length == self._context:
            return stop
        return cast("int", torch.sym_min(stop, length))  # type: ignore[no-untyped-call]

    def _places(self, length: int, steps: int) -> Tensor:
        """Where this call's rows go in a state of this length, ``[S]``."""
        stands = self._rows_stand(steps)
        return stands % length if length < self._context else stands

    def _rows_stand(self, steps: int) -> Tensor:
        """Where this call's rows stand, ``[S]``."""
        if None not in self._stands:
            # Not `arange` from start to end, which torch.export would have to know.
            self._stands[None] = self.position + torch.arange(steps)
        return self._stands[None]

    def _state_stands(self, length: int, steps: int) -> Tensor:
        """Where the rows stand that are read of a state of this length, ``[T]``.

        A ring has in each place the last position that belongs there.
        """
        if length not in self._stands:
            rows = torch.arange(self._count(length, steps))
            if length < self._context:
                last = self.position + steps - 1
                since = (rows.neg() + (last + length)) % length
                rows = since.neg() + last
            self._stands[length] = rows
        return self._stands[length]

    def _window(self, attention: Attention) -> int | None:
        """How many positions a token sees, if that is fewer than there are."""
        return attention.window if attention.window is not None and attention.window < self._context else None

    def _mask(self, length: int, steps: int, window: int | None) -> Tensor:
        """Added to scores ``[S, T]``: 0 where a row of a state of this length is seen, -∞ elsewhere."""
        if (length, window) not in self._masks:
            columns, rows = self._state_stands(length, steps), self._rows_stand(steps)[:, None]
            seen = columns <= rows
            if window is not None:
                seen = seen & (columns > rows - window)
            self._masks[length, window] = torch.where(seen, 0.0, -torch.inf)
        return self._masks[length, window]

    def _is_fused(self, attention: Attention) -> bool:
        """Whether `_attend` can do it, with a state in floating point as it lies."""
        return False

    @abstractmethod
    def _write(self, state: Tensor, rows: Tensor) -> None:
        """Put ``rows [1, S, KV, D]`` into the state at the position."""

    def _least(self, heads: Heads) -> int:
        """The rows that `_attend` asks for of a widened state, filled or not."""
        return 1

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Causal attention of ``q [1, S, H, D]`` to ``k, v [1, T, KV, D]``; ``[1, S, H, D]``."""
        raise NotImplementedError

    def _attend_seen(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
        """The same with a mask ``[S, T]`` that is added to the scores, and a cap on them: of core operators."""
        steps, heads, dim = q.shape[1:]
        total, kv_heads = k.shape[1:3]
        # Query heads of a group become rows of one matrix, so that the state is not repeated for each.
        queries = q.view(steps, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3)
        queries = queries.reshape(kv_heads, heads // kv_heads * steps, dim)
        scores = torch.bmm(queries, k[0].permute(1, 2, 0)) * dim**-0.5
        if softcap is not None:
            scores = self.softcap(scores, softcap)
        weights = F.softmax(scores.view(kv_heads, -1, steps, total) + mask.to(scores.dtype), dim=-1)
        mixed = torch.bmm(weights.view(kv_heads, -1, total), v[0].transpose(0, 1))
        return mixed.view(kv_heads, -1, steps, dim).permute(2, 0, 1, 3).reshape(1, steps, heads, dim)


class StockOps(StatefulOps):
    """With the custom operators of ExecuTorch's LLM extension, which read and write the state in place."""

    def _is_fused(self, attention: Attention) -> bool:
        return self._window(attention) is None and attention.softcap is None and not _differ(attention)

    def _write(self, state: Tensor, rows: Tensor) -> None:
        length, steps = state.shape[1], rows.shape[1]
        if length < self._context:
            torch.ops.llama.update_cache_with_indices(rows, state, 0, self._places(length, steps)[None])
        else:
            torch.ops.llama.update_cache(rows, state, self.position)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        steps, group = q.shape[1], q.shape[2] // k.shape[2]
        if not self._may_fold(group) or (isinstance(steps, int) and steps > 1):
            return _attended(q, k, v, self.position, causal=True)
        # Which of the two holds is known when the program runs; the other one then reads next to nothing of the state.
        folded, start, start_folded = self._starts(steps, group)
        mixed = _attended(q, k, v, start, causal=True)
        rows = q[:, -1:].view(1, -1, group, q.shape[3]).transpose(1, 2)
        alone = _attended(rows, k, v, start_folded, causal=False).transpose(1, 2)
        return torch.where(folded, alone.reshape(1, 1, *q.shape[2:]), mixed)

    def _least(self, heads: Heads) -> int:
        return heads.query // heads.kv if self._may_fold(heads.query // heads.kv) else 1

    def _may_fold(self, group: int) -> bool:
        """Whether one token's attention may take the heads of a group as if they were positions of one head.

        The operator goes through the state once for every head that it is given: so, once for a KV head.
        """
        return 1 < group <= LONG < self._context

    def _starts(self, steps: int, group: int) -> tuple[Tensor, int, int]:
        """Whether this call is one token behind many, ``bool [1]``; where attention starts for all heads, and folded.

        Without a causal mask the operator reads up to the start and as many positions as it is given.
        """
        if group not in self._starts_of:
            stands = self._rows_stand(steps)
            first, last = stands[:1], stands[-1:]
            folded = (first == last) & (first >= LONG)
            starts = torch.where(folded, 0, first), torch.where(folded, first - (group - 1), 0)
            start, start_folded = (cast("int", each.item()) for each in starts)
            self._starts_of[group] = folded, start, start_folded
        return self._starts_of[group]

    def _attend_seen(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor, softcap: float | None) -> Tensor:
        if softcap is not None:
            return super()._attend_seen(q, k, v, mask, softcap)
        result: Tensor = torch.ops.llama.custom_sdpa(q, k, v, 0, mask, 0.0, False)  # a float32 mask always
        return result


class PortableOps(StatefulOps):
    """With core ATen operators only."""

    def _write(self, state: Tensor, rows: Tensor) -> None:
        state.index_copy_(1, self._places(state.shape[1], rows.shape[1]), rows)


def _attended(q: Tensor, k: Tensor, v: Tensor, start: int, *, causal: bool) -> Tensor:
    # Whatever k and v are, the operator takes a buffer for each: the same one twice where they are shared.
    result: Tensor = torch.ops.llama.custom_sdpa(q, k, v, start, None, 0.0, causal)
    return result


def _differ(attention: Attention) -> bool:
    """Whether a merged layer's keys are not what it stores."""
    return attention.merged and (attention.rope is not None or attention.k_norm is not None)


def _scaled(x: Tensor, scale: float | None) -> Tensor:
    return x if scale is None else x * scale


OPS: Final[dict[str, type[StatefulOps]]] = {"stock": StockOps, "static": StockOps, "portable": PortableOps}
"""Form → interpreter."""
