"""The operations that every model is made of, in fp16, as operations of a Core ML program (opset iOS 18)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from edgeqkv.backends.coreml.layouts import Layout
from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.model.ops import LayerOps

if TYPE_CHECKING:
    from edgeqkv.model.layers import Linear, Norm

__all__ = ["MilLayerOps"]


class MilLayerOps(LayerOps[Var]):
    """Interprets a model into the function that is being built.

    Args:
        weights: where constants come from.
        layout: how activations lie.
    """

    def __init__(self, weights: WeightPool, layout: Layout) -> None:
        self._weights = weights
        self._layout = layout

    def layer_norm(self, x: Var, norm: Norm) -> Var:
        return mb.layer_norm(
            x=x,
            axes=[self._layout.channel_axis],
            gamma=self._weights.constant(norm.scale, 1),
            beta=self._weights.constant(norm.bias, 1),
            epsilon=np.float16(norm.eps),
        )

    def linear(self, x: Var, linear: Linear) -> Var:
        return self._layout.linear(x, linear)

    def gelu(self, x: Var) -> Var:
        return mb.gelu(x=x, mode="EXACT")

    def add(self, x: Var, y: Var) -> Var:
        return mb.add(x=x, y=y)
