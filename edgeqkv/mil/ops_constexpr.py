"""MIL's compressed constants (opsets iOS16 and iOS18): what Core ML expands when it loads a model.

What they compute in is fp32; the declared type, to which it is rounded, is that of the scales or of the table.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from edgeqkv.mil.errors import PackageError
from edgeqkv.mil.table import OpTable, integer, integers, wide
from edgeqkv.mil.weight_file import unpack_bits

__all__ = ["CONSTEXPR"]

CONSTEXPR = OpTable()

_ELEMENTS_AT_ONCE = 1 << 22


@CONSTEXPR.op
def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """``scale * (data - offset)``, with one scale and offset for each block of the data."""
    blocks = [size for length, count in zip(data.shape, scale.shape, strict=True) for size in (count, length // count)]
    per_block = [size for count in scale.shape for size in (count, 1)]
    if math.prod(blocks) != data.numel():
        raise PackageError(f"scales {list(scale.shape)} do not divide the data {list(data.shape)}")
    result = torch.empty(blocks, dtype=scale.dtype)
    codes, scales = data.reshape(blocks), scale.reshape(per_block)
    offsets = None if offset is None else offset.reshape(per_block)
    # Some of the blocks along the first dimension at a time: whole tensors of fp32 would take eight times the codes.
    step = max(1, _ELEMENTS_AT_ONCE * blocks[0] // max(1, data.numel()))
    for start in range(0, blocks[0], step):
        some = slice(start, start + step)
        values = codes[some].float()
        if offsets is not None:
            values -= offsets[some].float()
        result[some] = values * scales[some].float()
    return result.reshape(data.shape)


@CONSTEXPR.op
def constexpr_affine_dequantize(quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: Tensor) -> Tensor:
    """``scale * (data - zero_point)``, each a scalar or one per position along the axis."""
    shape = [1] * quantized_data.dim()
    shape[integer(axis)] = -1
    return (quantized_data.float() - zero_point.float().reshape(shape)) * scale.float().reshape(shape)


@CONSTEXPR.op
def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, vector_axis: Tensor | None = None, shape: Tensor | None = None
) -> Tensor:
    """Table entries by index.

    iOS16: one table ``[entries]``, and the indices packed into bytes, for a result of ``shape``.
    iOS18: tables ``[*groups, entries, vector]``, each serving a block of the indices; a vector's elements
    lie side by side along ``vector_axis``.
    """
    if shape is not None:
        sizes = integers(shape)
        codes = unpack_bits(indices.numpy(), int(math.log2(lut.numel())), math.prod(sizes))
        return wide(lut)[torch.from_numpy(codes).int()].reshape(sizes)
    entries, vector = lut.shape[-2:]
    table = torch.zeros([], dtype=torch.int32)
    for axis, (length, count) in enumerate(zip(indices.shape, lut.shape[:-2], strict=True)):
        along = [1] * indices.dim()
        along[axis] = length
        group = torch.arange(length, dtype=torch.int32) // (length // count)
        table = table * count + group.reshape(along)
    found = wide(lut).reshape(-1, vector)[(table * entries + indices.int()).reshape(-1)]
    if vector_axis is None:
        return found.reshape(indices.shape)
    axis = integer(vector_axis) % indices.dim()
    return found.reshape(*indices.shape, vector).movedim(-1, axis + 1).flatten(axis, axis + 1)


@CONSTEXPR.op
def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """To fp32, the only target there is."""
    return wide(source_val)
