"""The transformer block, once: what every architecture is made of, written over `edgeqkv.model.ops`."""

from __future__ import annotations

from typing import TypeVar

from edgeqkv.model.layers import MLP, Attention, Block, Linear, Norm
from edgeqkv.model.ops import Ops

__all__ = ["block"]

V = TypeVar("V")


def block(ops: Ops[V], layer: int, x: V, weights: Block) -> V:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; a post norm is on what is added."""
    mixed = _attention(ops, layer, _normed(ops, x, weights.attention_norm), weights.attention)
    x = _added(ops, x, _normed(ops, mixed, weights.attention_post_norm), weights.residual_scale)
    changed = _mlp(ops, _normed(ops, x, weights.mlp_norm), weights.mlp)
    x = _added(ops, x, _normed(ops, changed, weights.mlp_post_norm), weights.residual_scale)
    return x if weights.output_scale == 1.0 else ops.scale(x, weights.output_scale)


def _attention(ops: Ops[V], layer: int, x: V, weights: Attention) -> V:
    # A shared projection is computed once, and its one value stands for both, so that what follows sees
    # that they are the same.
    linears = tuple(dict.fromkeys((weights.q, weights.k, weights.v)))
    projected: dict[Linear, V] = dict(zip(linears, ops.linears(x, linears), strict=True))
    q, k, v = projected[weights.q], projected[weights.k], projected[weights.v]
    if weights.joint_norms is not None:
        of_queries, of_keys = weights.joint_norms
        q, k = ops.norm(q, of_queries), ops.norm(k, of_keys)
    return ops.linear(ops.attention(layer, q, k, v, weights), weights.out)


def _mlp(ops: Ops[V], x: V, weights: MLP) -> V:
    if weights.gate is None:
        return ops.linear(ops.activation(ops.linear(x, weights.up), weights.activation), weights.down)
    gate, up = ops.linears(x, (weights.gate, weights.up))
    return ops.linear(ops.multiply(ops.activation(gate, weights.activation), up), weights.down)


def _normed(ops: Ops[V], x: V, norm: Norm | None) -> V:
    return x if norm is None else ops.norm(x, norm)


def _added(ops: Ops[V], x: V, part: V, scale: float) -> V:
    return ops.add(x, part if scale == 1.0 else ops.scale(part, scale))
