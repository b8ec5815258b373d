"""MIL's compressed constants, each against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mil_packages import tensor

from edgeqkv.mil import PackageError
from edgeqkv.mil.ops import OPS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("scales", [(1, 1), (4, 1), (4, 3), (2, 6)])
@pytest.mark.parametrize("with_offset", [True, False])
def test_blockwise_shift_scale(scales: tuple[int, int], with_offset: bool) -> None:
    codes = RNG.integers(-8, 8, (4, 6)).astype(np.int8)
    scale = RNG.random(scales).astype(np.float32)
    offset = RNG.integers(-8, 8, scales).astype(np.int8) if with_offset else np.zeros(scales, np.int8)
    spread = [np.repeat(np.repeat(each, 4 // scales[0], 0), 6 // scales[1], 1) for each in (scale, offset)]
    given_offset = {"offset": torch.from_numpy(offset)} if with_offset else {}
    result = OPS["constexpr_blockwise_shift_scale"](
        data=torch.from_numpy(codes), scale=torch.from_numpy(scale), **given_offset
    )
    np.testing.assert_array_equal(result, spread[0] * (codes - spread[1].astype(np.float32)))


@pytest.mark.parametrize("scales", [(1, 2), (4, 2), (8, 1)])
@pytest.mark.parametrize("at_once", [1, 7, 12])
def test_some_blocks_at_a_time_make_no_difference(
    monkeypatch: pytest.MonkeyPatch, scales: tuple[int, int], at_once: int
) -> None:
    data = torch.from_numpy(RNG.integers(-8, 8, (8, 6)).astype(np.int8))
    scale, offset = torch.rand(scales).half(), torch.from_numpy(RNG.integers(-8, 8, scales).astype(np.int8))
    whole = OPS["constexpr_blockwise_shift_scale"](data=data, scale=scale, offset=offset)
    monkeypatch.setattr("edgeqkv.mil.ops_constexpr._ELEMENTS_AT_ONCE", at_once)
    parts = OPS["constexpr_blockwise_shift_scale"](data=data, scale=scale, offset=offset)
    assert parts.dtype == torch.float16
    assert torch.equal(parts, whole)


def test_blocks_must_divide_the_weight() -> None:
    with pytest.raises(PackageError, match="do not divide"):
        OPS["constexpr_blockwise_shift_scale"](data=torch.zeros(4, 6), scale=torch.ones(1, 4))


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_affine_dequantize(axis: int) -> None:
    codes = RNG.integers(0, 256, (3, 3)).astype(np.uint8)
    zero, scale = np.array([3, 128, 255], np.uint8), np.array([0.5, 2, 3], np.float32)
    shape = [3, 1] if axis == 0 else [1, 3]
    result = OPS["constexpr_affine_dequantize"](
        quantized_data=torch.from_numpy(codes),
        zero_point=torch.from_numpy(zero),
        scale=torch.from_numpy(scale),
        axis=tensor(axis),
    )
    expected = (codes.astype(np.float32) - zero.reshape(shape)) * scale.reshape(shape)
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("groups", [(1, 1), (2, 1), (2, 3)])
def test_lut_to_dense(groups: tuple[int, int]) -> None:
    codes = RNG.integers(0, 4, (4, 6)).astype(np.uint8)
    lut = RNG.standard_normal((*groups, 4, 1)).astype(np.float32)
    expected = np.array(
        [[lut[i * groups[0] // 4, j * groups[1] // 6, codes[i, j], 0] for j in range(6)] for i in range(4)]
    )
    result = OPS["constexpr_lut_to_dense"](indices=torch.from_numpy(codes), lut=torch.from_numpy(lut))
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_lut_to_dense_with_vectors(axis: int) -> None:
    codes = RNG.integers(0, 4, (4, 6)).astype(np.uint8)
    lut = RNG.standard_normal((1, 1, 4, 2)).astype(np.float32)
    expected = np.stack([lut[0, 0, codes, 0], lut[0, 0, codes, 1]], 1 if axis == 0 else 2).reshape(
        (8, 6) if axis == 0 else (4, 12)
    )
    result = OPS["constexpr_lut_to_dense"](
        indices=torch.from_numpy(codes), lut=torch.from_numpy(lut), vector_axis=tensor(axis)
    )
    np.testing.assert_array_equal(result, expected)


def test_lut_to_dense_with_packed_indices() -> None:
    """The form of iOS16: two-bit indices, the first in the lowest bits."""
    result = OPS["constexpr_lut_to_dense"](
        indices=tensor([0b11100100, 0b00000001], np.uint8),
        lut=tensor([5, 6, 7, 8], np.float32),
        shape=tensor([2, 3], np.uint32),
    )
    np.testing.assert_array_equal(result, [[5, 6, 7], [8, 6, 5]])


def test_constexpr_cast() -> None:
    result = OPS["constexpr_cast"](source_val=torch.ones(2, dtype=torch.float16), output_dtype="fp32")
    assert isinstance(result, torch.Tensor)
    assert result.dtype == torch.float32
