"""The transformer block, once: what every architecture is made of, written over `edgeqkv.model.ops`."""

from __future__ import annotations

from typing import TypeVar

from edgeqkv.model.architectures.rows import attend
from edgeqkv.model.layers import MLP, Block, LayerInput, Linear, Norm
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
    with ops.scope(f"h.{layer}"):
        normed = _normed(ops, "attn_norm", x, weights.attention_norm)
        with ops.scope("attn"):
            mixed = attend(ops, layer, normed, weights.attention, {} if stored is None else stored)
            mixed = _linear(ops, "out", mixed, weights.attention.out)
        mixed = _normed(ops, "attn_post_norm", mixed, weights.attention_post_norm)
        x = _added(ops, x, mixed, weights.residual_scale)
        normed = _normed(ops, "mlp_norm", x, weights.mlp_norm)
        with ops.scope("mlp"):
            changed = _mlp(ops, normed, weights.mlp)
        changed = _normed(ops, "mlp_post_norm", changed, weights.mlp_post_norm)
        x = _added(ops, x, changed, weights.residual_scale)
        if weights.input is not None and given is not None:
            with ops.scope("input"):
                x = ops.add(x, _of_input(ops, x, given, weights.input))
        return x if weights.output_scale == 1.0 else ops.scale(x, weights.output_scale)


def _mlp(ops: Ops[V], x: V, weights: MLP) -> V:
    if weights.gate is None:
        return _linear(ops, "down", ops.activation(_linear(ops, "up", x, weights.up), weights.activation), weights.down)
    gate, up = ops.linears(x, {"gate": weights.gate, "up": weights.up})
    return _linear(ops, "down", ops.multiply(ops.activation(gate, weights.activation), up), weights.down)


def _of_input(ops: Ops[V], x: V, given: V, weights: LayerInput) -> V:
    gate = ops.activation(_linear(ops, "gate", x, weights.gate), weights.activation)
    return _normed(ops, "norm", _linear(ops, "out", ops.multiply(gate, given), weights.out), weights.norm)


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
