"""The vision transformer (Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2021), on the encoders' trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from edgeqkv.model.architectures.encoder import Trunk
from edgeqkv.model.layers import Linear
from edgeqkv.model.ops import EncoderOps
from edgeqkv.model.weights import Weight

__all__ = ["VisionTransformer"]

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class VisionTransformer:
    """Pixels ``[channels, height, width]`` → logits ``[1, classes]`` of the token that is put before the patches.

    ``projection [C, channels·patch²]`` is the convolution of kernel and stride ``patch`` as the matrix that it is;
    ``cls [1, C]``, ``position_table [1 + patches, C]``.
    """

    patch: int
    projection: Linear
    cls: Weight
    position_table: Weight
    trunk: Trunk
    head: Linear

    @property
    def surroundings(self) -> tuple[Linear, ...]:
        return (self.projection, self.head)

    def outputs(self, ops: EncoderOps[V], inputs: V) -> V:
        x = ops.prepend(ops.linear(ops.patches(inputs, self.patch), self.projection), self.cls)
        x = self.trunk.hidden(ops, ops.add_positions(x, self.position_table))
        return ops.linear(ops.layer_norm(ops.first(x), self.trunk.ln_f), self.head)
