"""Many sequences at once, for what is learned from text: the torch interpreter on a batch, without a state."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from edgeqkv.model.ops import Heads
from edgeqkv.model.weights import Weight
from edgeqkv.reference.decoder import TorchOps, attend

__all__ = ["StackedOps"]

Tensor = torch.Tensor


class StackedOps(TorchOps):
    """Computes sequences of one length, stacked to ``[sequences · length, C]``, at every position.

    Args:
        shape: how many sequences, and their length.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.sequences, self.length = shape

    def embed(self, tokens: Tensor, token_table: Weight, position_table: Weight) -> Tensor:
        positions = torch.arange(self.length).repeat(self.sequences)
        return F.embedding(tokens, self.values(token_table)) + F.embedding(positions, self.values(position_table))

    def last(self, x: Tensor) -> Tensor:
        return x

    def attention(self, layer: int, q: Tensor, k: Tensor, v: Tensor, heads: Heads) -> Tensor:
        by_sequence = [t.view(self.sequences, self.length, -1) for t in (q, k, v)]
        return torch.cat(
            [
                attend(q, k.view(-1, heads.kv, heads.dim), v.view(-1, heads.kv, heads.dim), heads)
                for q, k, v in zip(*by_sequence, strict=True)
            ]
        )
