"""Round to nearest: every value to the closest multiple of its block's scale, or to the closest entry of its table."""

from __future__ import annotations

from collections.abc import Callable

import torch

from edgeqkv.errors import UnsupportedError
from edgeqkv.model.schemes import Palette, Scheme
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight, some_rows
from edgeqkv.quantize.palettized import to_nearest_entry

__all__ = ["nearest", "quantized", "representable", "round_mantissa", "round_to", "rounded", "row_scales", "scales_of"]

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
    of_rows = row_scales(weight.tensor, scheme)
    for some in some_rows(rows, columns):
        blocks = weight.tensor[some].float().reshape(-1, *codes.shape[1:])
        of_some = None if of_rows is None else of_rows[some, None]
        scales[some] = scales_of(blocks.abs().amax(-1), scheme, of_some)
        codes[some] = round_to(blocks, scales[some, :, None], scheme)
    return quantized(weight, codes.view(rows, columns), scales, scheme, of_rows)


def row_scales(matrix: torch.Tensor, scheme: Scheme) -> torch.Tensor | None:
    """What the scales of each row's blocks are multiples of, ``[rows]``; None where the scheme has no multiples.

    The highest multiple of it is the scale that the row's largest magnitude needs.
    """
    if not scheme.multiples:
        return None
    rows, columns = matrix.shape
    largest = torch.empty(rows)
    for some in some_rows(rows, columns):
        largest[some] = matrix[some].float().abs().amax(-1)
    return largest.clamp_min(_TINY * scheme.highest * scheme.multiples) / scheme.highest / scheme.multiples


def scales_of(largest: torch.Tensor, scheme: Scheme, of_rows: torch.Tensor | None = None) -> torch.Tensor:
    """The least scales that can be stored at which the largest magnitudes fall on the highest code or below it.

    ``of_rows`` is what they are multiples of, where the scheme has multiples, in a shape that broadcasts.
    """
    # A hair less, so that the row's largest magnitude gets the highest multiple and not the one after.
    nudge = 1.0 if of_rows is None else 1 - 1e-6
    return representable(largest / scheme.highest * nudge, scheme, of_rows, torch.ceil)


def representable(
    scales: torch.Tensor,
    scheme: Scheme,
    of_rows: torch.Tensor | None = None,
    rounding: Callable[[torch.Tensor], torch.Tensor] = torch.round,
) -> torch.Tensor:
    """Scales as the scheme stores them: of few digits, or multiples of their row's."""
    if of_rows is None:
        return round_mantissa(scales, scheme, rounding)
    return rounding(scales / of_rows).clamp(1, scheme.multiples) * of_rows


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


def quantized(
    weight: Weight, codes: torch.Tensor, scales: torch.Tensor, scheme: Scheme, of_rows: torch.Tensor | None = None
) -> QuantizedWeight:
    """The weight with these codes and scales, and what the scales are multiples of.

    Raises:
        UnsupportedError: a value that they restore is beyond float16.
    """
    limit = torch.finfo(torch.float16).max
    stored = QuantizedWeight(
        weight.name, weight.tensor, scheme.name, codes=codes, scales=scales, scheme=scheme, row_scales=of_rows
    )
    if stored.block_peaks.max() > limit:
        largest = float(weight.tensor.abs().max())
        raise UnsupportedError(
            f"'{weight.name}' reaches {largest:.3g}, beyond float16's largest number {limit:.5g}, in which formats "
            f"restore quantized weights; use weights fp32"
        )
    return stored
