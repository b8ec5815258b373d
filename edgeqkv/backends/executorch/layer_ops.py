"""The operations that every model is made of, as they are traced into an ExecuTorch program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F

from edgeqkv.backends.executorch.quantized import quantized_product
from edgeqkv.model.layers import Linear
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.reference.decoder import TorchLayerOps

__all__ = ["ExecuTorchLayerOps"]

Tensor = torch.Tensor


class ExecuTorchLayerOps(TorchLayerOps):
    """The torch interpreter with weights that a module holds.

    Args:
        parameter: the parameter that holds a weight, or the named part of a quantized one.
    """

    def __init__(self, parameter: Callable[[Weight, str], Tensor]) -> None:
        self._parameter = parameter

    def values(self, weight: Weight) -> Tensor:
        return self._parameter(weight, "")

    def linear(self, x: Tensor, linear: Linear) -> Tensor:
        return self._product(x, linear.weight, self.values(linear.bias) if linear.bias else None)

    def _product(self, x: Tensor, weight: Weight, bias: Tensor | None) -> Tensor:
        if isinstance(weight, QuantizedWeight):
            return quantized_product(x, weight, partial(self._parameter, weight), bias)
        matrix = self.values(weight)
        return F.linear(x.to(matrix.dtype), matrix, bias).float()
