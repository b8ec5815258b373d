"""What every architecture is made of: weights grouped into layers, and the layers as functions over ops.

Sharing is identity here too: a Q-K=V layer's ``k`` and ``v`` are the *same* `Linear`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from edgeqkv.ops import Heads, Ops
from edgeqkv.weights import Weight

__all__ = ["MLP", "Attention", "Block", "Linear", "Norm", "block"]

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Linear:
    """``weight [out, in]`` and, unless the model was trained without, ``bias [out]``."""

    weight: Weight
    bias: Weight | None


@dataclass(frozen=True, eq=False)
class Norm:
    """A layer normalization's ``scale [C]``, ``bias [C]`` and epsilon."""

    scale: Weight
    bias: Weight
    eps: float


@dataclass(frozen=True, eq=False)
class Attention:
    """Query, key and value projections (the same object where the model shares them) and the output one."""

    q: Linear
    k: Linear
    v: Linear
    out: Linear
    heads: Heads


@dataclass(frozen=True, eq=False)
class MLP:
    """Two projections with a GELU between them."""

    up: Linear
    down: Linear


@dataclass(frozen=True, eq=False)
class Block:
    """A pre-normalization transformer block."""

    ln_1: Norm
    attention: Attention
    ln_2: Norm
    mlp: MLP


def block(ops: Ops[V], layer: int, x: V, weights: Block) -> V:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""
    x = ops.add(x, _attention(ops, layer, ops.layer_norm(x, weights.ln_1), weights.attention))
    return ops.add(x, _mlp(ops, ops.layer_norm(x, weights.ln_2), weights.mlp))


def _attention(ops: Ops[V], layer: int, x: V, weights: Attention) -> V:
    # A shared projection is computed once, and its one value stands for both, so that what follows sees
    # that they are the same.
    projected: dict[Linear, V] = {}
    for linear in (weights.q, weights.k, weights.v):
        if linear not in projected:
            projected[linear] = ops.linear(x, linear)
    q, k, v = projected[weights.q], projected[weights.k], projected[weights.v]
    return ops.linear(ops.attention(layer, q, k, v, weights.heads), weights.out)


def _mlp(ops: Ops[V], x: V, weights: MLP) -> V:
    return ops.linear(ops.gelu(ops.linear(x, weights.up)), weights.down)
