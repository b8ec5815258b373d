"""One attention layer, rewritten to store less: in closed form, from what was seen of it (`LayerStatistics`).

Every head restores its keys and its values from what is stored, ``k ≈ A s`` and ``v ≈ B s``, and neither map costs
anything, for queries and output take them up: ``q' = Aᵀ q``, ``W_o' = W_o B``. The bias of the keys is dropped, which
is exact: it adds the same to all scores of a query. What is stored is centred, and what its mean and the bias of the
values did goes into the output's bias.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import torch

from edgeqkv.convert.gauge import gauge
from edgeqkv.convert.grouping import Groups, grouped
from edgeqkv.convert.statistics import LayerStatistics
from edgeqkv.convert.subspace import Projection, best_subspace, factor, mean_inputs, powers, restored, rows_of
from edgeqkv.model.layers import Attention, Heads, Linear
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import Weight

__all__ = ["Basis", "Sides", "plain_basis", "sides_of", "solve"]

Tensor = torch.Tensor

Basis = Callable[[Tensor, Tensor], Tensor]
"""Of the covariance of what is stored and the cost of an error in it, both ``[D, D]``: the basis to store it in."""

Sides = tuple[Sequence[Projection], Sequence[Projection]]
"""The keys of every query head, and the values."""

_KEYS, _VALUES = 0, 1

_EXACT: Final = 256  # rows of a group; of more, the eigenvalues of thousands of groups would take minutes a layer

_RIDGE: Final = 0.02  # of the plain covariance, mixed into what counts: for inputs that the text hardly showed


@dataclass(frozen=True, eq=False)
class _ByHead:
    """An attention layer's weights by query head, whoever shared what, in float64; H heads of D numbers."""

    q: Tensor  # [H, D, C]
    k: Tensor  # [H, D, C]
    v: Tensor  # [H, D, C]
    out: Tensor  # [H, C, D]
    q_bias: Tensor | None  # [H, D]
    v_bias: Tensor  # [H, D]


@dataclass(frozen=True, eq=False)
class _Read:
    """How a head restores its keys or its values: ``map [D, D]`` times what is stored, ``rows [D, C]`` times ``y``."""

    map: Tensor
    rows: Tensor


def plain_basis(covariance: Tensor, cost: Tensor) -> Tensor:
    """Channels that vary alike, and apart from each other."""
    return powers(covariance, -0.5)[0]


def sides_of(attention: Attention, seen: LayerStatistics) -> Sides:
    """How errors in keys and values count."""
    heads = _by_head(attention)
    ridge = _RIDGE / seen.covariance.trace() * seen.covariance
    return (
        [Projection(*each, ridge) for each in zip(heads.k, seen.keys, seen.queries, strict=True)],
        [
            Projection(w, inputs, out.T @ out, ridge)
            for w, inputs, out in zip(heads.v, seen.values, heads.out, strict=True)
        ],
    )


def solve(
    attention: Attention,
    seen: LayerStatistics,
    variant: Variant,
    layer: int = 0,
    *,
    sides: Sides | None = None,
    basis: Basis = gauge,
) -> tuple[Attention, float]:
    """The layer as another variant, and which part of what counts is lost by that.

    Args:
        attention: the layer.
        seen: what was seen of it.
        variant: what it is to be.
        layer: which layer it is, for the names of its weights.
        sides: how errors count, if not as in `sides_of`.
        basis: in which basis to store.
    """
    shape = attention.heads
    sides = sides or sides_of(attention, seen)
    tensors = ((_KEYS, _VALUES),) if variant.sharing.tensors == 1 else ((_KEYS,), (_VALUES,))
    groups = _groups(sides, tensors, variant.kv_heads_of(shape.query))
    reads: dict[tuple[int, int], _Read] = {}
    for served in tensors:
        size = _size([part for side in served for part in sides[side]], seen)
        for group in groups:
            members = [(side, head) for side in served for head in group]
            reads |= _read_through_one(members, sides, seen, basis, size)
    stored = [torch.cat([reads[served[0], group[0]].rows for group in groups]) for served in tensors]
    rebuilt = _rebuilt(attention, seen, [head for group in groups for head in group], stored, reads, layer)
    lost = sum(sides[side][head].loss(read.map @ read.rows) for (side, head), read in reads.items())
    return rebuilt, lost / sum(part.energy for parts in sides for part in parts)


def _read_through_one(
    members: Sequence[tuple[int, int]], sides: Sides, seen: LayerStatistics, basis: Basis, size: float
) -> dict[tuple[int, int], _Read]:
    """One KV head of a state tensor, and how each member (a side of a query head) reads it."""
    parts = [sides[side][head] for side, head in members]
    noise = [(seen.key_noise, seen.value_noise)[side][head] for side, head in members]
    rows = best_subspace(parts, len(parts[0].weight))
    maps = [restored(part, rows) for part in parts]
    cost = sum((n * a.T @ part.outputs @ a for n, a, part in zip(noise, maps, parts, strict=True)), torch.tensor(0.0))
    change = size * basis(rows @ seen.covariance @ rows.T, cost)
    back = torch.linalg.inv(change)
    return {member: _Read(a @ back, change @ rows) for member, a in zip(members, maps, strict=True)}


def _groups(sides: Sides, tensors: Sequence[tuple[int, ...]], count: int) -> Groups:
    """Which query heads share a KV head: whichever lose least by it, by the squares that no shared subspace holds."""
    heads, size = len(sides[0]), len(sides[0][0].weight)
    if count in (1, heads):
        return grouped(heads, count, lambda _: 0.0)
    products = []
    for served in tensors:
        root = factor(mean_inputs([part for side in served for part in sides[side]]))
        rows = torch.stack([torch.cat([rows_of(sides[side][head], root) for side in served]) for head in range(heads)])
        if rows.shape[1] > size and heads // count * rows.shape[1] > _EXACT:
            # Of a head's keys and values only as much as it could keep alone: the rest is lost in any group.
            _, values, directions = torch.linalg.svd(rows, full_matrices=False)
            rows = values[:, :size, None] * directions[:, :size]
        products.append(torch.einsum("aic,bjc->aibj", rows, rows))

    def tail(group: tuple[int, ...]) -> float:
        total = 0.0
        for product in products:
            one = product[list(group)][:, :, list(group)].flatten(2).flatten(0, 1)
            total += float(torch.linalg.eigvalsh(one)[:-size].sum())
        return total

    return grouped(heads, count, tail)


def _rebuilt(
    attention: Attention,
    seen: LayerStatistics,
    order: Sequence[int],
    stored: Sequence[Tensor],
    reads: Mapping[tuple[int, int], _Read],
    layer: int,
) -> Attention:
    """The layer around what it stores, its query heads in this order."""
    heads, shape = _by_head(attention), attention.heads
    q = torch.cat([reads[_KEYS, head].map.T @ heads.q[head] for head in order])
    out = torch.cat([heads.out[head] @ reads[_VALUES, head].map for head in order], dim=1)
    q_bias = out_bias = stored_bias = None
    if heads.q_bias is not None:
        q_bias = torch.cat([reads[_KEYS, head].map.T @ heads.q_bias[head] for head in order])
    if attention.out.bias is not None:
        out_bias = attention.out.bias.values().double()
        for head in order:
            read, mean = reads[_VALUES, head], seen.value_means[head]
            kept = heads.v[head] @ mean + heads.v_bias[head] - read.map @ (read.rows @ (mean - seen.mean))
            out_bias = out_bias + heads.out[head] @ kept
    projections = []
    names = ("c_kv",) if len(stored) == 1 else ("c_kv.k", "c_kv.v")
    for name, rows in zip(names, stored, strict=True):
        stored_bias = -rows @ seen.mean if attention.k.bias is not None else None
        projections.append(_linear(layer, name, rows, stored_bias))
    return replace(
        attention,
        q=_linear(layer, "c_q", q, q_bias),
        k=projections[0],
        v=projections[-1],
        out=_linear(layer, "c_proj", out, out_bias),
        heads=Heads(shape.query, len(stored[0]) // shape.dim, shape.dim),
    )


def _linear(layer: int, name: str, weight: Tensor, bias: Tensor | None) -> Linear:
    whole = f"h.{layer}.attn.{name}"
    return Linear(
        Weight(f"{whole}.weight", weight.float()), None if bias is None else Weight(f"{whole}.bias", bias.float())
    )


def _size(parts: Sequence[Projection], seen: LayerStatistics) -> float:
    """How much a number of the keys or values that a state tensor stands for varies: what is stored is to be alike."""
    variances = [(part.weight @ seen.covariance @ part.weight.T).diagonal().mean() for part in parts]
    return float(torch.stack(variances).mean().sqrt())


def _by_head(attention: Attention) -> _ByHead:
    query, kv, dim = attention.heads

    def split(linear: Linear, count: int) -> Tensor:
        return linear.weight.values().double().view(count, dim, -1).repeat_interleave(query // count, dim=0)

    v_bias = torch.zeros(kv * dim) if attention.v.bias is None else attention.v.bias.values()
    return _ByHead(
        q=split(attention.q, query),
        k=split(attention.k, kv),
        v=split(attention.v, kv),
        out=attention.out.weight.values().double().view(-1, query, dim).transpose(0, 1),
        q_bias=None if attention.q.bias is None else attention.q.bias.values().double().view(query, dim),
        v_bias=v_bias.double().view(kv, dim).repeat_interleave(query // kv, dim=0),
    )
