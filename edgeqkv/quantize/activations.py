"""What a runtime rounds while it runs: the inputs of its products with quantized matrices."""

from __future__ import annotations

import torch

from edgeqkv.model.schemes import Palette, Scheme
from edgeqkv.model.weights import QuantizedWeight, Weight

__all__ = ["as_multiplied", "scheme_of"]

Tensor = torch.Tensor

_TINY = torch.finfo(torch.float32).tiny


def scheme_of(weight: Weight) -> Scheme | None:
    """How a matrix is stored, if in quantized blocks."""
    return weight.scheme if isinstance(weight, QuantizedWeight) else None


def as_multiplied(x: Tensor, scheme: Scheme | Palette | str | None) -> Tensor:
    """Inputs ``[…, C]`` as the runtime multiplies them by a matrix that is stored so, each token rounded by itself.

    A token's step is the range of its numbers, zero among them, through the number of codes, as torchao and XNNPACK
    choose it. Gradients pass as if nothing were rounded.
    """
    if not isinstance(scheme, Scheme) or not scheme.activations:
        return x
    lowest, highest = -(1 << (scheme.activations - 1)), (1 << (scheme.activations - 1)) - 1
    with torch.no_grad():
        low, high = x.amin(-1, keepdim=True).clamp(max=0.0), x.amax(-1, keepdim=True).clamp(min=0.0)
        step = ((high - low) / (highest - lowest)).clamp(min=_TINY)
        zero = (lowest - (low / step).round()).clamp(lowest, highest)
        moved = (((x / step).round() + zero).clamp(lowest, highest) - zero) * step - x
    return x + moved
