"""Decoders: they continue a text from the state that they keep. One shape serves GPT-2 and its descendants."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edgeqkv.model import shapes
from edgeqkv.model.architectures.blocks import block
from edgeqkv.model.config import DecoderConfig
from edgeqkv.model.layers import Block, Linear, Norm
from edgeqkv.model.ops import Ops
from edgeqkv.model.state import StateSpec, state_of_blocks
from edgeqkv.model.variants import Variant

if TYPE_CHECKING:
    from edgeqkv.model.weights import Weight

__all__ = ["Decoder", "LayerInputs", "shaped"]

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class LayerInputs:
    """Where the inputs of layers come from: ``(norm(projection(x)) + table[token]) · 2^-½``, so many for each layer.

    Attributes:
        table: ``[vocabulary, layers·channels]``.
        table_scale: what its rows are multiplied by.
        projection: of the embedded tokens, ``[layers·channels, C]``.
        projection_scale: what it is multiplied by.
        norm: of each layer's channels.
        channels: how many a layer has.
    """

    table: Weight
    table_scale: float
    projection: Linear
    projection_scale: float
    norm: Norm
    channels: int


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder's weights.

    Attributes:
        token_table: ``[vocabulary, C]``.
        position_table: ``[positions, C]``; None where positions are not learned.
        blocks: its layers.
        final_norm: before the head.
        head: ``[vocabulary, C]``, the ``token_table`` itself where the model ties them.
        embedding_scale: what a token's row is multiplied by.
        logit_scale: what logits are multiplied by.
        logit_softcap: logits then become ``cap · tanh(logit / cap)``.
        layer_inputs: where layers have inputs of their own, what those are made of.
    """

    token_table: Weight
    position_table: Weight | None
    blocks: tuple[Block, ...]
    final_norm: Norm
    head: Weight
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    layer_inputs: LayerInputs | None = None

    @property
    def token_tables(self) -> tuple[Weight, ...]:
        """The tables whose rows belong to tokens, the head among them; one that is both, once."""
        more = () if self.layer_inputs is None else (self.layer_inputs.table,)
        return tuple(dict.fromkeys((self.token_table, self.head, *more)))

    def state(self, context: int, chunk: int = 1) -> tuple[StateSpec, ...]:
        """What it stores for ``context`` positions and calls of up to ``chunk`` tokens."""
        return state_of_blocks(self.blocks, context, chunk)

    def outputs(self, ops: Ops[V], inputs: V) -> V:
        """Token ids → the logits after the last of them, continuing from the interpreter's state."""
        x = self.embedded(ops, inputs)
        given = self._given(ops, inputs, x)
        stored: dict[int, tuple[V, V]] = {}
        for layer, weights in enumerate(self.blocks):
            x = block(ops, layer, x, weights, stored, given[layer] if given else None)
        return self.read_out(ops, x)

    def embedded(self, ops: Ops[V], inputs: V) -> V:
        """Token ids → what the first block is given."""
        with ops.scope("embedding"):
            x = ops.embedding(inputs, self.token_table)
            if self.embedding_scale != 1.0:
                x = ops.scale(x, self.embedding_scale)
            return x if self.position_table is None else ops.add_positions(x, self.position_table)

    def _given(self, ops: Ops[V], ids: V, x: V) -> list[V]:
        """What each layer is given besides; nothing in most models."""
        made = self.layer_inputs
        if made is None:
            return []
        layers, channels = len(self.blocks), made.channels
        of_context = ops.scale(ops.linear(x, made.projection), made.projection_scale)
        of_context = ops.placed(of_context, layers, channels, made.norm, None)
        of_token = ops.scale(ops.embedding(ids, made.table), made.table_scale)
        both = ops.scale(ops.add(of_context, of_token), 0.5**0.5)
        whole = layers * channels
        return [ops.part(both, 1, whole, layer * channels, (layer + 1) * channels) for layer in range(layers)]

    def read_out(self, ops: Ops[V], x: V) -> V:
        """What the last block made → the logits."""
        with ops.scope("final_norm"):
            x = ops.norm(ops.last(x), self.final_norm)
        with ops.scope("head"):
            logits = ops.logits(x, self.head)
            if self.logit_scale != 1.0:
                logits = ops.scale(logits, self.logit_scale)
            return logits if self.logit_softcap is None else ops.softcap(logits, self.logit_softcap)


def shaped(config: DecoderConfig, variant: Variant) -> Decoder:
    """The paper's decoder of these dimensions, as another variant if need be: shapes, and no numbers."""
    width = config.hidden_size
    table = shapes.weight("token_table", config.vocab_size, width)
    return Decoder(
        token_table=table,
        position_table=None if config.computed_positions else shapes.weight("position_table", config.positions, width),
        blocks=shapes.blocks(
            variant,
            layers=config.layers,
            width=width,
            heads=config.heads,
            head_dim=config.head_dim,
            inner=config.intermediate_size,
            eps=config.norm_eps,
            causal=True,
        ),
        final_norm=shapes.norm("final_norm", width, config.norm_eps),
        head=table if config.tied_head else shapes.weight("head", config.vocab_size, width),
    )
