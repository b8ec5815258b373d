"""The GPT-2 style decoder of the paper's language models: learned positions, pre-normalization, exact GELU."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from edgeqkv.model.layers import Block, Norm, block
from edgeqkv.model.ops import DecoderOps
from edgeqkv.model.weights import Weight

__all__ = ["Decoder", "decode"]

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class Decoder:
    """A decoder's weights.

    ``token_table [vocabulary, C]``, ``position_table [positions, C]``; ``head`` is the ``token_table`` itself
    where the model ties them.
    """

    token_table: Weight
    position_table: Weight
    blocks: tuple[Block, ...]
    ln_f: Norm
    head: Weight


def decode(ops: DecoderOps[V], decoder: Decoder, tokens: V) -> V:
    """Token ids → the logits after the last of them, continuing from the interpreter's state."""
    x = ops.embed(tokens, decoder.token_table, decoder.position_table)
    for layer, weights in enumerate(decoder.blocks):
        x = block(ops, x, weights, partial(ops.attention, layer, heads=weights.attention.heads))
    return ops.logits(ops.layer_norm(ops.last(x), decoder.ln_f), decoder.head)
