"""What a model keeps between calls, stated once, and how an int8 state rounds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeqkv.model.layers import Block

if TYPE_CHECKING:
    import torch

__all__ = ["HIGHEST", "StateScales", "StateSpec", "state_of_blocks"]

HIGHEST: Final = 127
"""The code of the largest magnitude that was seen in calibration; what is larger is cut off there."""


@dataclass(frozen=True)
class StateSpec:
    """One tensor of the KV state (the "KV cache"): keys, values, or both at once.

    Attributes:
        layer: whose it is.
        role: ``kv`` where keys and values are one tensor, else ``k`` or ``v``.
        kv_heads, dim: heads, and numbers in each.
        length: positions that it has room for: the context, or as many as the layer sees of it in a call. Where they
            are fewer than the context, it is a ring: the row of position p is at p modulo the length.
    """

    layer: int
    role: str
    kv_heads: int
    dim: int
    length: int

    @property
    def name(self) -> str:
        return f"{self.role}_{self.layer}"

    @property
    def numbers(self) -> int:
        """How many numbers it holds."""
        return self.kv_heads * self.dim * self.length


def state_of_blocks(blocks: Iterable[Block], context: int, chunk: int = 1) -> tuple[StateSpec, ...]:
    """What the blocks store for ``context`` positions; nothing, unless their attention is causal.

    ``chunk`` is the most tokens of a call that writes its rows before it attends to them: a ring has room for what its
    first token still sees. With the context as the chunk, no tensor is a ring.
    """
    causal = ((layer, block.attention) for layer, block in enumerate(blocks) if block.attention.causal)
    return tuple(
        StateSpec(layer, role, attention.heads.kv, attention.heads.dim, attention.kept(context, chunk))
        for layer, attention in causal
        for role in attention.roles
    )


@dataclass(frozen=True, eq=False)
class StateScales:
    """One symmetric scale for every state tensor.

    A merged tensor has one, because it is one tensor: its keys and values cannot be rounded differently.

    Attributes:
        of: a state tensor's name (``kv_3``, ``k_3``, ``v_3``) → its scale, a float32 number.
    """

    of: Mapping[str, float]

    def rounded(self, name: str, rows: torch.Tensor) -> torch.Tensor:
        """What a state tensor gives back of rows that were stored in it."""
        scale = self.of[name]
        return (rows / scale).round().clamp(-HIGHEST - 1, HIGHEST) * scale
