"""What a model keeps between calls, stated once, and how an int8 state rounds it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from edgeqkv.model.layers import Block

if TYPE_CHECKING:
    import torch

__all__ = ["HIGHEST", "StateScales", "StateSpec", "kept_by_layers", "state_of_blocks"]

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


def kept_by_layers(blocks: Iterable[Block]) -> tuple[str, ...]:
    """What the layers keep, in words: those that are alike in one entry; none for encoders."""
    alike: dict[str, list[int]] = {}
    for layer, attention in enumerate(block.attention for block in blocks):
        if attention.source is not None:
            alike.setdefault(f"nothing, they read layer {attention.source}'s", []).append(layer)
        elif attention.causal:
            tensors = "one tensor for keys and values" if attention.merged else "keys and values"
            seen = "every token" if attention.window is None else f"a window of {attention.window:,} tokens"
            shape = f"{attention.heads.kv} × {attention.heads.dim} numbers a token"
            alike.setdefault(f"{tensors}, {shape}, {seen}", []).append(layer)
    return tuple(f"{_ranges(layers)}: {told}" for told, layers in alike.items())


def _ranges(layers: list[int]) -> str:
    """Numbers of layers, those that follow each other as a range.

    >>> _ranges([0, 1, 2, 4, 6, 7])
    'layers 0–2, 4, 6–7'
    """
    runs: list[list[int]] = []
    for layer in layers:
        if runs and runs[-1][-1] == layer - 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    told = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}–{run[-1]}" for run in runs)
    return f"layer {told}" if len(layers) == 1 else f"layers {told}"


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
