"""Round to nearest: every value to the closest multiple of its block's scale, or to the closest entry of its table."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeqkv.errors import UnsupportedError
from edgeqkv.model.schemes import Palette, Scheme
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight, some_rows
from edgeqkv.quantize.palettized import to_nearest_entry

__all__ = ["nearest", "quantized", "round_mantissa", "round_to", "rounded", "scales_of"]

# A block of zeros has no scale of its own; any positive one reproduces it. No block of trained weights reaches this.
_TINY = torch.finfo(torch.float32).tiny

_HALF_DIGITS = 11  # binary digits of a float16 number, the hidden one included


def rounded(weight: Weight, way: Scheme | Palette) -> QuantizedWeight | PalettizedWeight:
    """Quantize a matrix in either way."""
    return nearest(weight, way) if isinstance(way, Scheme) else to_nearest_entry(weight, way)


def nearest(weight: Weight, scheme: Scheme) -> QuantizedWeight:
    """Quantize a matrix ``[rows, columns]``; the scheme's block must divide the columns."""
    rows, columns = weight.shape
    codes = torch.empty(rows, columns // scheme.block, scheme.block, dtype=torch.int8)
    scales = torch.empty(codes.shape[:2])
    for some in some_rows(rows, columns):
        blocks = weight.tensor[some].float().reshape(-1, *codes.shape[1:])
        scales[some] = scales_of(blocks.abs().amax(-1), scheme)
        codes[some] = round_to(blocks, scales[some, :, None], scheme)
    return quantized(weight, codes.view(rows, columns), scales, scheme)


def scales_of(largest: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """The least scales of few digits at which the largest magnitudes fall on the highest code or below it."""
    return round_mantissa(largest / scheme.highest, scheme, torch.ceil)


def round_mantissa(
    scales: torch.Tensor, scheme: Scheme, rounding: Callable[[torch.Tensor], torch.Tensor] = torch.round
) -> torch.Tensor:
    """Scales, rounded to so few binary digits that every code times its scale is exact in float16, but for its range.

    Formats that restore weights in float16 and those that do it in float32 then compute with the very same numbers.
    """
    digits = _HALF_DIGITS - (scheme.bits - 1)
    fraction, exponent = torch.frexp(scales.clamp_min(_TINY))
    return torch.ldexp(rounding(fraction * 2**digits) / 2**digits, exponent)


def round_to(values: torch.Tensor, scales: torch.Tensor, scheme: Scheme) -> torch.Tensor:
    """The codes of values, int8."""
    return (values / scales).round().clamp(scheme.lowest, scheme.highest).to(torch.int8)


def quantized(weight: Weight, codes: torch.Tensor, scales: torch.Tensor, scheme: Scheme) -> QuantizedWeight:
    """The weight with these codes and scales.

    Raises:
        UnsupportedError: a value that they restore is beyond float16.
    """
    limit = torch.finfo(torch.float16).max
    stored = QuantizedWeight(weight.name, weight.tensor, scheme.name, codes=codes, scales=scales, scheme=scheme)
    if stored.block_peaks.max() > limit:
        largest = float(weight.tensor.abs().max())
        raise UnsupportedError(
            f"'{weight.name}' reaches {largest:.3g}, beyond float16's largest number {limit:.5g}, in which formats "
            f"restore quantized weights; use weights fp32"
        )
    return stored
