"""What every architecture is made of: weights grouped into layers, and the layers as functions over ops.

Sharing is identity here too: a Q-K=V layer's ``k`` and ``v`` are the *same* `Linear`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from edgeqkv.model.ops import Heads, LayerOps
from edgeqkv.model.weights import Weight

__all__ = ["MLP", "Attention", "Block", "Linear", "Norm", "ScoreTerm", "block"]

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
class ScoreTerm:
    """The paper's 2-D position term, "(X)+": a score ``s`` of query i and key j becomes ``scale · s + bias[i, j]``.

    It was trained as a learned combination of fixed sinusoids, ``s · Σ w + p[i, j] · w + b``; nothing in it depends on
    the input, so that it comes down to these two constants. ``bias`` is ``[S, S]``.
    """

    scale: float
    bias: Weight


@dataclass(frozen=True, eq=False)
class Attention:
    """Query, key and value projections (the same object where the model shares them) and the output one."""

    q: Linear
    k: Linear
    v: Linear
    out: Linear
    heads: Heads
    term: ScoreTerm | None = None


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

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Its linear layers, each once."""
        attention, mlp = self.attention, self.mlp
        return tuple(dict.fromkeys((attention.q, attention.k, attention.v, attention.out, mlp.up, mlp.down)))


def block(ops: LayerOps[V], x: V, weights: Block, attend: Callable[[V, V, V], V]) -> V:
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))``; ``attend`` mixes queries, keys and values."""
    x = ops.add(x, _attention(ops, ops.layer_norm(x, weights.ln_1), weights.attention, attend))
    return ops.add(x, _mlp(ops, ops.layer_norm(x, weights.ln_2), weights.mlp))


def _attention(ops: LayerOps[V], x: V, weights: Attention, attend: Callable[[V, V, V], V]) -> V:
    # A shared projection is computed once, and its one value stands for both, so that what follows sees
    # that they are the same.
    projected: dict[Linear, V] = {}
    for linear in (weights.q, weights.k, weights.v):
        if linear not in projected:
            projected[linear] = ops.linear(x, linear)
    return ops.linear(attend(projected[weights.q], projected[weights.k], projected[weights.v]), weights.out)


def _mlp(ops: LayerOps[V], x: V, weights: MLP) -> V:
    return ops.linear(ops.gelu(ops.linear(x, weights.up)), weights.down)
