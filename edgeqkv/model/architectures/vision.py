"""The vision transformer (Dosovitskiy et al., *An Image is Worth 16x16 Words*, 2021), on the encoders' trunk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from edgeqkv.model.architectures.encoder import Trunk, TrunkNetwork
from edgeqkv.model.layers import Linear
from edgeqkv.model.ops import Ops

if TYPE_CHECKING:
    from edgeqkv.model.weights import Weight

__all__ = ["VisionTransformer"]

V = TypeVar("V")


@dataclass(frozen=True, eq=False)
class VisionTransformer(TrunkNetwork):
    """Pixels ``[channels, height, width]`` → logits ``[1, classes]`` of the token that is put before the patches.

    ``stem [C, channels·patch²]`` is the convolution of kernel and stride ``patch`` as the matrix that it is;
    ``cls [1, C]``, ``position_table [1 + patches, C]``.
    """

    patch: int
    stem: Linear
    cls: Weight
    position_table: Weight
    trunk: Trunk
    head: Linear

    def outputs(self, ops: Ops[V], inputs: V) -> V:
        """The input → logits."""
        with ops.scope("stem"):
            x = ops.prepend(ops.linear(ops.patches(inputs, self.patch), self.stem), self.cls)
            x = ops.add_positions(x, self.position_table)
        return self.read_out(ops, ops.first(self.trunk.hidden(ops, x)))
