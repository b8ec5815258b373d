"""One row for keys and values that are rotated in part: a merged layer's weights in the order that `PaddedRows` asks
for.

A merged layer with rotary positions stores values, and makes keys of them as it reads: all of the state is rotated for
every token. Where a part of each head is rotated, it is faster to store that part of the key, too: a row of D + r
channels for keys and values of D each, (D + r) / 2D of their size, which attention reads where it lies.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from edgeqkv.model.layers import Attention, Linear, Norm, PaddedRows, Rope
from edgeqkv.model.weights import Weight

__all__ = ["padded"]

_ORDERED = "in the order of rows"


def padded(attention: Attention, source: Attention | None = None) -> Attention:
    """The same layer with a row that is key and value; as it is, where it has none that is smaller than the two.

    ``source`` is the layer that it reads, already so, if it reads another one.
    """
    rope = attention.rope
    if not (attention.causal and attention.merged) or rope is None or attention.rows is not None:
        return attention
    rotated, frequencies = _rotated(rope)
    dim = attention.heads.dim
    count = len(rotated)
    if not 0 < count < dim or not _are_alike(attention) or (rope.attention_factor != 1 and count < rope.dims):
        return attention
    rest = [channel for channel in range(dim) if channel not in rotated]
    first, last = [*rotated, *rest], [*rest, *rotated]
    factors = _factors(attention.k_norm, rest, count)
    q, q_norm = _rows(attention.q, first), _ordered(attention.q_norm, first, factors)
    if attention.q_norm is None and factors is not None:
        q = _scaled(q, factors)
    stored = attention.k if source is None else source.k
    if source is None:
        stored = _rows(attention.k, last)
        rows = PaddedRows(
            Rope(count, frequencies, attention_factor=rope.attention_factor),
            q_norm,
            _ordered(attention.k_norm, last, None),
            attention.v_norm,
        )
    else:
        assert isinstance(source.rows, PaddedRows), "layers that share a state have one form"
        rows = replace(source.rows, q_norm=q_norm)
    return replace(
        attention,
        q=q,
        k=stored,
        v=stored,
        out=_columns(attention.out, last),
        heads=attention.heads._replace(dim=dim + count),
        rope=None,
        q_norm=None,
        k_norm=None,
        v_norm=None,
        rows=rows,
    )


def _rotated(rope: Rope) -> tuple[list[int], tuple[float, ...]]:
    """The channels that turn, first those that are first in their pairs, and how fast."""
    turning = [pair for pair, frequency in enumerate(rope.inverse_frequencies) if frequency]
    half = rope.dims // 2
    pairs = [(2 * pair, 2 * pair + 1) if rope.interleaved else (pair, pair + half) for pair in turning]
    frequencies = tuple(rope.inverse_frequencies[pair] for pair in turning)
    return [one for one, _ in pairs] + [other for _, other in pairs], frequencies


def _are_alike(attention: Attention) -> bool:
    """Whether keys, before they are rotated, are values times a vector."""
    of_keys, of_values = attention.k_norm, attention.v_norm
    if of_keys is None or of_values is None:
        return of_keys is of_values
    return (of_keys.kind, of_keys.eps) == (of_values.kind, of_values.eps) and (of_keys.bias, of_values.scale) == (
        None,
        None,
    )


def _factors(norm: Norm | None, rest: list[int], count: int) -> torch.Tensor | None:
    """What the keys of channels that are not rotated are values times, and 1 for the others, which come first."""
    if norm is None or norm.scale is None:
        return None
    return torch.cat([torch.ones(count), norm.scale.values()[rest] + norm.offset])


def _ordered(norm: Norm | None, order: list[int], factors: torch.Tensor | None) -> Norm | None:
    """The normalization of heads whose channels are in this order, and then multiplied."""
    if norm is None or (norm.scale is None and factors is None):
        return norm
    if norm.scale is None:
        scale = torch.ones(len(order))
        name = f"{norm.kind} scale {_ORDERED}"
    else:
        scale, name = norm.scale.values()[order] + norm.offset, f"{norm.scale.name} {_ORDERED}"
    return replace(norm, scale=Weight(name, scale if factors is None else scale * factors), offset=0.0)


def _rows(linear: Linear, order: list[int]) -> Linear:
    """A projection whose heads have their channels in this order."""

    def ordered(weight: Weight) -> Weight:
        heads = weight.tensor.view(-1, len(order), *weight.shape[1:])
        return Weight(f"{weight.name} {_ORDERED}", heads[:, order].reshape(weight.shape))

    return Linear(ordered(linear.weight), None if linear.bias is None else ordered(linear.bias))


def _columns(linear: Linear, order: list[int]) -> Linear:
    weight = linear.weight
    heads = weight.tensor.view(weight.shape[0], -1, len(order))
    return Linear(Weight(f"{weight.name} {_ORDERED}", heads[:, :, order].reshape(weight.shape)), linear.bias)


def _scaled(linear: Linear, factors: torch.Tensor) -> Linear:
    """A projection whose heads are multiplied."""

    def scaled(weight: Weight) -> Weight:
        heads = weight.tensor.float().view(-1, len(factors), *weight.shape[1:])
        by = factors.view(-1, *[1] * (heads.dim() - 2))
        return replace(weight, tensor=(heads * by).reshape(weight.shape))

    return Linear(scaled(linear.weight), None if linear.bias is None else scaled(linear.bias))
