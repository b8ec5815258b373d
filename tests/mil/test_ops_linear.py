"""MIL's products, convolutions and normalizations, each against its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mil_packages import tensor

from edgeqkv.mil.ops import OPS

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 3, 4)).astype(np.float32)
Y = RNG.standard_normal((3, 4)).astype(np.float32)


def _convolved(x: np.ndarray, weight: np.ndarray, stride: int, groups: int) -> np.ndarray:
    """2-D convolution by its definition, without padding, in float64."""
    channels, height, width = weight.shape[1:]
    rows, columns = (x.shape[2] - height) // stride + 1, (x.shape[3] - width) // stride + 1
    result = np.zeros((x.shape[0], weight.shape[0], rows, columns))
    for out in range(weight.shape[0]):
        first = out // (weight.shape[0] // groups) * channels
        for i in range(rows):
            for j in range(columns):
                patch = x[:, first : first + channels, i * stride :, j * stride :][..., :height, :width]
                result[:, out, i, j] = (patch * weight[out]).sum((1, 2, 3))
    return result


@pytest.mark.parametrize(
    ("kernel", "stride", "groups", "pad"),
    [(1, 1, 1, None), (1, 2, 1, None), (3, 1, 1, [1, 1, 1, 1]), (3, 2, 2, [0, 1, 2, 3]), (2, 1, 4, None)],
)
def test_conv(kernel: int, stride: int, groups: int, pad: list[int] | None) -> None:
    x = RNG.standard_normal((2, 4, 6, 5)).astype(np.float32)
    weight = RNG.standard_normal((8, 4 // groups, kernel, kernel)).astype(np.float32)
    bias = RNG.standard_normal(8).astype(np.float32)
    amounts = pad or [0, 0, 0, 0]
    padded = np.pad(x, ((0, 0), (0, 0), amounts[:2], amounts[2:])).astype(np.float64)
    result = OPS["conv"](
        x=tensor(x, np.float32),
        weight=tensor(weight, np.float32),
        bias=tensor(bias, np.float32),
        strides=tensor([stride, stride]),
        pad_type="custom" if pad else "valid",
        pad=tensor(amounts),
        dilations=tensor([1, 1]),
        groups=tensor(groups),
    )
    # Sums of at most 36 products of size 1 in fp32.
    expected = _convolved(padded, weight, stride, groups) + bias[:, None, None]
    np.testing.assert_allclose(result, expected, atol=5e-6)


@pytest.mark.parametrize("pad_type", ["same", "same_lower"])
def test_conv_with_padding_to_the_same_size(pad_type: str) -> None:
    x, weight = tensor([[[1, 2, 3]]], np.float32), tensor([[[1, 10]]], np.float32)
    expected = [21, 32, 3] if pad_type == "same" else [10, 21, 32]
    np.testing.assert_array_equal(OPS["conv"](x=x, weight=weight, pad_type=pad_type), [[expected]])


def test_batch_norm() -> None:
    mean, variance, gamma, beta = Y[:, 0], np.abs(Y[:, 1]), Y[:, 2], Y[:, 3]
    result = OPS["batch_norm"](
        x=tensor(X, np.float32),
        **{
            name: tensor(value, np.float32)
            for name, value in {"mean": mean, "variance": variance, "gamma": gamma, "beta": beta}.items()
        },
        epsilon=tensor(1e-3, np.float32),
    )
    each = [value[:, None] for value in (mean, variance, gamma, beta)]
    np.testing.assert_allclose(
        result, (X - each[0]) / np.sqrt(each[1] + 1e-3) * each[2] + each[3], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("rows", [3, 2000])
def test_products_with_fp16_weights_are_exact_in_the_weights(rows: int) -> None:
    """Large weights are widened in blocks: the result is that of the whole weight widened."""
    weight = torch.randn(rows, 700, dtype=torch.float16)
    x = torch.randn(2, 5, 700)
    expected = x.double() @ weight.double().mT
    for result in (
        OPS["linear"](x=x, weight=weight),
        OPS["matmul"](x=x, y=weight, transpose_y=tensor(True, bool)),
        OPS["matmul"](x=x, y=weight.mT.contiguous()),
        OPS["conv"](x=x.mT, weight=weight[..., None]),
    ):
        assert isinstance(result, torch.Tensor)
        laid_out = result if result.shape[-1] == rows else result.mT
        # fp32 sums of 700 products of size 1: far below the 0.02 that rounding to fp16 would cause.
        torch.testing.assert_close(laid_out.double(), expected, rtol=0, atol=2e-4)
