"""The transformer block, once: what every architecture is made of, written over `edgeqkv.model.ops`."""

from __future__ import annotations

from typing import TypeVar

from edgeqkv.model.layers import MLP, Attention, Block, Linear, Norm
from edgeqkv.model.ops import Ops

__all__ = ["block"]

V = TypeVar("V")


def block(ops: Ops[V], layer: int, x: V, weights: Block) -> V:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; a post norm is on what is added."""
    with ops.scope(f"h.{layer}"):
        normed = _normed(ops, "attn_norm", x, weights.attention_norm)
        with ops.scope("attn"):
            mixed = _attention(ops, layer, normed, weights.attention)
        mixed = _normed(ops, "attn_post_norm", mixed, weights.attention_post_norm)
        x = _added(ops, x, mixed, weights.residual_scale)
        normed = _normed(ops, "mlp_norm", x, weights.mlp_norm)
        with ops.scope("mlp"):
            changed = _mlp(ops, normed, weights.mlp)
        changed = _normed(ops, "mlp_post_norm", changed, weights.mlp_post_norm)
        x = _added(ops, x, changed, weights.residual_scale)
        return x if weights.output_scale == 1.0 else ops.scale(x, weights.output_scale)


def _attention(ops: Ops[V], layer: int, x: V, weights: Attention) -> V:
    # A shared projection is computed once, and its one value stands for both, so that what follows sees
    # that they are the same.
    roles: dict[Linear, str] = {}
    for role, linear in (("q", weights.q), ("k", weights.k), ("v", weights.v)):
        roles[linear] = roles.get(linear, "") + role
    named = {role: linear for linear, role in roles.items()}
    projected = dict(zip(named.values(), ops.linears(x, named), strict=True))
    q, k, v = projected[weights.q], projected[weights.k], projected[weights.v]
    if weights.joint_norms is not None:
        of_queries, of_keys = weights.joint_norms
        q, k = _normed(ops, "q_norm", q, of_queries), _normed(ops, "k_norm", k, of_keys)
    return _linear(ops, "out", ops.attention(layer, q, k, v, weights), weights.out)


def _mlp(ops: Ops[V], x: V, weights: MLP) -> V:
    if weights.gate is None:
        return _linear(ops, "down", ops.activation(_linear(ops, "up", x, weights.up), weights.activation), weights.down)
    gate, up = ops.linears(x, {"gate": weights.gate, "up": weights.up})
    return _linear(ops, "down", ops.multiply(ops.activation(gate, weights.activation), up), weights.down)


def _linear(ops: Ops[V], name: str, x: V, linear: Linear) -> V:
    with ops.scope(name):
        return ops.linear(x, linear)


def _normed(ops: Ops[V], name: str, x: V, norm: Norm | None) -> V:
    if norm is None:
        return x
    with ops.scope(name):
        return ops.norm(x, norm)


def _added(ops: Ops[V], x: V, part: V, scale: float) -> V:
    return ops.add(x, part if scale == 1.0 else ops.scale(part, scale))
