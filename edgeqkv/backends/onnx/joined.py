"""Matrices that multiply the same value, as one: a runtime then reads, rounds and divides it among threads once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from edgeqkv.model.weights import QuantizedWeight, Weight

__all__ = ["joined"]


def joined(weights: Sequence[Weight]) -> QuantizedWeight | None:
    """Matrices ``[rows, columns]`` under each other, or None where they are not all stored in the same way.

    Every row keeps its own codes and scales, so that its product is what it would be alone.
    """
    quantized = [weight for weight in weights if isinstance(weight, QuantizedWeight)]
    if len(quantized) < 2 or len(quantized) < len(weights) or len({weight.scheme for weight in quantized}) > 1:
        return None
    rows, columns = sum(weight.shape[0] for weight in quantized), quantized[0].shape[1]
    return replace(
        quantized[0],
        name=" + ".join(weight.name for weight in quantized),
        tensor=torch.empty(rows, columns, device="meta"),  # what they were made from lies apart
        codes=torch.cat([weight.codes for weight in quantized]),
        scales=torch.cat([weight.scales for weight in quantized]),
    )
