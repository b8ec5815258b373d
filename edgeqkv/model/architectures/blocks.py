"""The transformer block, once: what every architecture is made of, written over `edgeqkv.model.ops`."""

from __future__ import annotations

from typing import TypeVar

from edgeqkv.model.architectures.rows import attend
from edgeqkv.model.layers import MLP, Block, LayerInput, Norm
from edgeqkv.model.ops import Ops

__all__ = ["block"]

V = TypeVar("V")


def block(
    ops: Ops[V],
    layer: int,
    x: V,
    weights: Block,
    stored: dict[int, tuple[V, V]] | None = None,
    given: V | None = None,
) -> V:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; a post norm is on what is added.

    Args:
        ops, layer, x, weights: the interpreter, the layer's number, its input and its weights.
        stored: the keys and values of the layers before, to which its own are added.
        given: its own input, ``[S, channels]``, where the model has such.
    """
    normed = _normed(ops, x, weights.attention_norm)
    mixed = ops.linear(
        attend(ops, layer, normed, weights.attention, {} if stored is None else stored), weights.attention.out
    )
    x = _added(ops, x, _normed(ops, mixed, weights.attention_post_norm), weights.residual_scale)
    changed = _mlp(ops, _normed(ops, x, weights.mlp_norm), weights.mlp)
    x = _added(ops, x, _normed(ops, changed, weights.mlp_post_norm), weights.residual_scale)
    if weights.input is not None and given is not None:
        x = ops.add(x, _of_input(ops, x, given, weights.input))
    return x if weights.output_scale == 1.0 else ops.scale(x, weights.output_scale)


def _mlp(ops: Ops[V], x: V, weights: MLP) -> V:
    if weights.gate is None:
        return ops.linear(ops.activation(ops.linear(x, weights.up), weights.activation), weights.down)
    gate = ops.activation(ops.linear(x, weights.gate), weights.activation)
    return ops.linear(ops.multiply(gate, ops.linear(x, weights.up)), weights.down)


def _of_input(ops: Ops[V], x: V, given: V, weights: LayerInput) -> V:
    gate = ops.activation(ops.linear(x, weights.gate), weights.activation)
    return ops.norm(ops.linear(ops.multiply(gate, given), weights.out), weights.norm)


def _normed(ops: Ops[V], x: V, norm: Norm | None) -> V:
    return x if norm is None else ops.norm(x, norm)


def _added(ops: Ops[V], x: V, part: V, scale: float) -> V:
    return ops.add(x, part if scale == 1.0 else ops.scale(part, scale))
