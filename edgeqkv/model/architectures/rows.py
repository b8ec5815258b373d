"""What attention is given: queries, keys and values, or the one row that is key and value, over `edgeqkv.model.ops`."""

from __future__ import annotations

from typing import TypeVar

from edgeqkv.model.layers import Attention, LatentRows, Linear, PaddedRows
from edgeqkv.model.ops import Ops

__all__ = ["attend"]

V = TypeVar("V")


def attend(ops: Ops[V], layer: int, x: V, weights: Attention, stored: dict[int, tuple[V, V]]) -> V:
    """What a layer mixes for every token, ``[S, H·value_dim]``; of latent rows, each head's values of it.

    ``stored`` are the keys and values of the layers before; this one's are added.
    """
    projected = _projections(ops, x, weights)
    queries = _queries(ops, x, weights, projected)
    if weights.source is None:
        stored[layer] = _keys_and_values(ops, weights, projected)
    keys, values = stored[layer if weights.source is None else weights.source]
    mixed = ops.attention(layer, queries, keys, values, weights)
    return _by_head(ops, mixed, weights.rows.expanded) if isinstance(weights.rows, LatentRows) else mixed


def _projections(ops: Ops[V], x: V, weights: Attention) -> dict[Linear, V]:
    """What is multiplied with the layer's input itself, together.

    A shared projection is computed once, and its one value stands for both, so that what follows sees that they are the
    same; it is named for all that it is.
    """
    latent = weights.rows if isinstance(weights.rows, LatentRows) else None
    wanted = [] if latent else [("q", weights.q)]
    if weights.source is None:
        wanted += [("k", weights.k), ("v", weights.v), *([("k_rotated", latent.k_rotated)] if latent else [])]
    names: dict[Linear, str] = {}
    for name, linear in wanted:
        names[linear] = names.get(linear, "") + name
    return dict(zip(names, ops.linears(x, {name: linear for linear, name in names.items()}), strict=True))


def _queries(ops: Ops[V], x: V, weights: Attention, projected: dict[Linear, V]) -> V:
    heads, rows = weights.heads.query, weights.rows
    match rows:
        case None:
            q = projected[weights.q]
            return q if weights.joint_norms is None else ops.norm(q, weights.joint_norms[0])
        case PaddedRows():
            q = ops.placed(projected[weights.q], heads, weights.value_dim, rows.q_norm, rows.rope)
            return ops.pad(q, heads, weights.value_dim, rows.rope.dims)
        case LatentRows():
            if rows.q_down is not None:
                down, norm = rows.q_down
                x = ops.norm(ops.linear(x, down), norm)
            rotated = ops.placed(ops.linear(x, rows.q_rotated), heads, rows.rope.dims, None, rows.rope)
            latent = _by_head(ops, ops.linear(x, weights.q), rows.absorbed)
            return ops.join((rotated, latent), heads, (rows.rope.dims, weights.value_dim))


def _keys_and_values(ops: Ops[V], weights: Attention, projected: dict[Linear, V]) -> tuple[V, V]:
    rows, heads, dim = weights.rows, weights.heads.kv, weights.value_dim
    k, v = projected[weights.k], projected[weights.v]
    if rows is None:
        if weights.joint_norms is not None:
            k = ops.norm(k, weights.joint_norms[1])
        if weights.v_norm is not None:
            v = ops.placed(v, heads, dim, weights.v_norm, None)
        return (v if weights.merged else k), v
    count = rows.rope.dims
    if isinstance(rows, LatentRows):
        key, value = projected[rows.k_rotated], ops.norm(v, rows.norm)
    else:
        normed = k if rows.k_norm is None else ops.placed(k, heads, dim, rows.k_norm, None)
        key = ops.part(normed, heads, dim, dim - count, dim)
        value = v if rows.v_norm is None else ops.placed(v, heads, dim, rows.v_norm, None)
    row = ops.join((ops.placed(key, heads, count, None, rows.rope), value), heads, (count, dim))
    return row, row


def _by_head(ops: Ops[V], x: V, matrices: tuple[Linear, ...]) -> V:
    """Each head's channels times a matrix of its own."""
    heads, (rows, columns) = len(matrices), matrices[0].weight.shape
    parts = [
        ops.linear(ops.part(x, 1, heads * columns, head * columns, (head + 1) * columns), matrix)
        for head, matrix in enumerate(matrices)
    ]
    return ops.join(parts, 1, [rows] * heads)
