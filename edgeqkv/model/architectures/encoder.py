"""The paper's encoders: pre-normalization blocks in which every token looks at every other.

`TokenEncoder` reads token ids (the synthetic sequence tasks), `SetEncoder` feature vectors in no order (set anomaly);
`edgeqkv.model.architectures.vision` reads images. All three end in a `Trunk` and a head.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

from edgeqkv.model.layers import Block, Linear, Norm, block
from edgeqkv.model.ops import EncoderOps
from edgeqkv.model.weights import Weight

__all__ = ["EncoderNetwork", "SetEncoder", "TokenEncoder", "Trunk"]

V = TypeVar("V")


class EncoderNetwork(Protocol):
    """What every encoder is: layers, and what they compute.

    ``surroundings`` are the linear layers outside its blocks: the head's, and what makes channels of the input.
    """

    @property
    def trunk(self) -> Trunk: ...
    @property
    def surroundings(self) -> tuple[Linear, ...]: ...
    def outputs(self, ops: EncoderOps[V], inputs: V) -> V:
        """The input → logits ``[S, classes]``."""


@dataclass(frozen=True, eq=False)
class Trunk:
    """The blocks and the normalization after them."""

    blocks: tuple[Block, ...]
    ln_f: Norm

    def hidden(self, ops: EncoderOps[V], x: V) -> V:
        """``[S, C]`` → ``[S, C]``, not yet normalized."""
        for weights in self.blocks:
            attention = weights.attention
            x = block(ops, x, weights, partial(ops.attend, heads=attention.heads, term=attention.term))
        return x


@dataclass(frozen=True, eq=False)
class TokenEncoder:
    """Token ids ``[S]`` → logits ``[S, classes]``. ``token_table [vocabulary, C]``, ``position_table [S, C]``."""

    token_table: Weight
    position_table: Weight
    trunk: Trunk
    head: Linear

    @property
    def surroundings(self) -> tuple[Linear, ...]:
        return (self.head,)

    def outputs(self, ops: EncoderOps[V], inputs: V) -> V:
        x = ops.add_positions(ops.rows(inputs, self.token_table), self.position_table)
        return ops.linear(ops.layer_norm(self.trunk.hidden(ops, x), self.trunk.ln_f), self.head)


@dataclass(frozen=True, eq=False)
class SetEncoder:
    """Feature vectors ``[S, features]`` → logits ``[S, 1]``, one for each member of the set."""

    embedding: Linear
    trunk: Trunk
    head: Linear

    @property
    def surroundings(self) -> tuple[Linear, ...]:
        return (self.embedding, self.head)

    def outputs(self, ops: EncoderOps[V], inputs: V) -> V:
        x = self.trunk.hidden(ops, ops.linear(inputs, self.embedding))
        return ops.linear(ops.layer_norm(x, self.trunk.ln_f), self.head)
