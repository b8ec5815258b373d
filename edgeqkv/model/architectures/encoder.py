"""The paper's encoders: pre-normalization blocks in which every token looks at every other.

`TokenEncoder` reads token ids (the synthetic sequence tasks), `SetEncoder` feature vectors in no order (set anomaly);
`edgeqkv.model.architectures.vision` reads images. All three end in a `Trunk` and a head, and keep no state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edgeqkv.model import shapes
from edgeqkv.model.architectures.blocks import block
from edgeqkv.model.config import EncoderConfig
from edgeqkv.model.layers import Block, Linear, Norm
from edgeqkv.model.ops import Ops
from edgeqkv.model.state import StateSpec, state_of_blocks
from edgeqkv.model.variants import Variant

if TYPE_CHECKING:
    from edgeqkv.model.weights import Weight

__all__ = ["SetEncoder", "TokenEncoder", "Trunk", "TrunkNetwork", "shaped_head", "shaped_trunk"]

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Trunk:
    """The blocks and the normalization after them."""

    blocks: tuple[Block, ...]
    final_norm: Norm

    def hidden(self, ops: Ops[V], x: V) -> V:
        """``[S, C]`` → ``[S, C]``, not yet normalized."""
        for layer, weights in enumerate(self.blocks):
            x = block(ops, layer, x, weights)
        return x


class TrunkNetwork:
    """What every network with a `Trunk` and a head says of its blocks, and computes after its stem."""

    trunk: Trunk
    head: Linear

    def read_out(self, ops: Ops[V], x: V) -> V:
        """What the last block made, of the tokens that are asked about → the logits."""
        with ops.scope("final_norm"):
            x = ops.norm(x, self.trunk.final_norm)
        with ops.scope("head"):
            return ops.linear(x, self.head)

    @property
    def blocks(self) -> tuple[Block, ...]:
        return self.trunk.blocks

    def state(self, context: int, chunk: int = 1) -> tuple[StateSpec, ...]:
        """What it stores: nothing, as none of its blocks is causal."""
        return state_of_blocks(self.blocks, context, chunk)


@dataclass(frozen=True, eq=False)
class TokenEncoder(TrunkNetwork):
    """Token ids ``[S]`` → logits ``[S, classes]``. ``token_table [vocabulary, C]``, ``position_table [S, C]``."""

    token_table: Weight
    position_table: Weight
    trunk: Trunk
    head: Linear

    def outputs(self, ops: Ops[V], inputs: V) -> V:
        """The input → logits."""
        with ops.scope("embedding"):
            x = ops.add_positions(ops.embedding(inputs, self.token_table), self.position_table)
        return self.read_out(ops, self.trunk.hidden(ops, x))


@dataclass(frozen=True, eq=False)
class SetEncoder(TrunkNetwork):
    """Feature vectors ``[S, features]`` → logits ``[S, 1]``, one for each member of the set."""

    stem: Linear
    trunk: Trunk
    head: Linear

    def outputs(self, ops: Ops[V], inputs: V) -> V:
        """The input → logits."""
        with ops.scope("stem"):
            x = ops.linear(inputs, self.stem)
        return self.read_out(ops, self.trunk.hidden(ops, x))


def shaped_trunk(config: EncoderConfig, variant: Variant) -> Trunk:
    """A trunk of these dimensions: shapes, and no numbers."""
    blocks = shapes.blocks(
        variant,
        layers=config.layers,
        width=config.hidden_size,
        heads=config.heads,
        head_dim=config.head_dim,
        inner=config.intermediate_size,
        eps=config.norm_eps,
        causal=False,
        tokens=config.tokens,
    )
    return Trunk(blocks, shapes.norm("final_norm", config.hidden_size, config.norm_eps))


def shaped_head(config: EncoderConfig) -> Linear:
    """The head that belongs to it."""
    return shapes.linear("head", config.classes, config.hidden_size)
