"""MIL's products, convolutions, normalisations and attention (opsets iOS15 to iOS18), on torch tensors."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from edgeqkv.mil.errors import UnsupportedOperation
from edgeqkv.mil.table import OpTable, axes_of, integer, integers, wide

__all__ = ["LINEAR"]

LINEAR = OpTable()

_BLOCK_ELEMENTS = 1 << 19
"""2 MB of fp32: stays in a core's cache. A product with an fp16 weight then reads half the memory that
one with a kept fp32 copy would, and takes no longer for it, so no such copies are kept."""


class _Scratch(threading.local):
    """Where a thread widens blocks. Memory asked for anew would cost more than the widening: the system clears it."""

    def __init__(self) -> None:
        self.numbers = torch.empty(_BLOCK_ELEMENTS)

    def widened(self, block: Tensor) -> Tensor:
        return self.numbers[: block.numel()].view(block.shape).copy_(block)


_SCRATCH = _Scratch()


def _times_rows(x: Tensor, weight: Tensor) -> Tensor:
    """``x @ weight.T`` for a weight ``[out, in]``, which is widened to fp32 a block of rows at a time."""
    rows = _BLOCK_ELEMENTS // weight.shape[1]
    if weight.dtype != torch.float16 or not 0 < rows < len(weight):
        return wide(x) @ wide(weight).mT
    x = wide(x)
    return torch.cat([F.linear(x, _SCRATCH.widened(block)) for block in torch.split(weight, rows)], -1)


@LINEAR.op
def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    product = _times_rows(x, weight)
    return product if bias is None else product + wide(bias)


@LINEAR.op
def matmul(x: Tensor, y: Tensor, transpose_x: Tensor | bool = False, transpose_y: Tensor | bool = False) -> Tensor:
    if transpose_x and x.dim() > 1:
        x = x.mT
    if transpose_y and y.dim() > 1:
        y = y.mT
    if y.dim() == 2:
        return _times_rows(x, y.mT)
    return wide(x) @ wide(y)


@LINEAR.op
def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    return torch.einsum(equation, *map(wide, values))


@LINEAR.op
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: Tensor | None = None,
    pad_type: str = "valid",
    pad: Tensor | None = None,
    dilations: Tensor | None = None,
    groups: Tensor | int = 1,
) -> Tensor:
    """1-D to 3-D. ``x``: [N, C, *spatial], ``weight``: [out, C/groups, *kernel]."""
    rank = weight.dim() - 2
    if not 1 <= rank <= 3:
        raise UnsupportedOperation(f"a convolution over {rank} spatial dimensions")
    stride = [1] * rank if strides is None else integers(strides)
    dilation = [1] * rank if dilations is None else integers(dilations)
    extent = [step * (size - 1) + 1 for step, size in zip(dilation, weight.shape[2:], strict=True)]
    padding = _conv_padding(pad_type, pad, x.shape[2:], extent, stride)
    if not any(padding) and set(stride) == {1} == set(weight.shape[2:]) and integer(groups) == 1:
        result = _times_rows(x.movedim(1, -1), weight.flatten(1)).movedim(-1, 1)
    else:
        convolve = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
        padded = F.pad(wide(x), padding)
        result = convolve(padded, wide(weight), stride=tuple(stride), dilation=tuple(dilation), groups=integer(groups))
    return result if bias is None else result + wide(bias).reshape(-1, *[1] * rank)


def _conv_padding(
    pad_type: str, pad: Tensor | None, sizes: Sequence[int], extent: Sequence[int], stride: Sequence[int]
) -> list[int]:
    """Elements to add, in torch's order: (before, after) of the last dimension first."""
    if pad_type == "valid" or (pad_type == "custom" and pad is None):
        return [0] * (2 * len(sizes))
    if pad_type == "custom":
        given = integers(pad) if pad is not None else []
        return [amount for axis in reversed(range(len(sizes))) for amount in given[2 * axis : 2 * axis + 2]]
    if pad_type not in ("same", "same_lower"):
        raise UnsupportedOperation(f"the padding {pad_type!r} is unknown")
    padding = []
    for size, kernel, step in zip(reversed(sizes), reversed(extent), reversed(stride), strict=True):
        total = max((-(-size // step) - 1) * step + kernel - size, 0)
        before = total // 2 if pad_type == "same" else total - total // 2
        padding += [before, total - before]
    return padding


@LINEAR.op
def layer_norm(
    x: Tensor,
    axes: Tensor | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    values, dims = wide(x), axes_of(axes, x.dim())
    centred = values - values.mean(dims, keepdim=True)
    result = centred * torch.rsqrt(centred.square().mean(dims, keepdim=True) + float(epsilon))
    broadcast = [size if dim in dims else 1 for dim, size in enumerate(x.shape)]
    if gamma is not None:
        result = result * wide(gamma).reshape(broadcast)
    return result if beta is None else result + wide(beta).reshape(broadcast)


@LINEAR.op
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: Tensor | float = 1e-5,
) -> Tensor:
    def per_channel(y: Tensor) -> Tensor:
        return wide(y).reshape(-1, *[1] * (x.dim() - 2))

    result = (wide(x) - per_channel(mean)) * torch.rsqrt(per_channel(variance) + float(epsilon))
    if gamma is not None:
        result = result * per_channel(gamma)
    return result if beta is None else result + per_channel(beta)


def attention_scores(query: Tensor, key: Tensor) -> Tensor:
    """What an attention computes inside, before any mask."""
    return wide(query) @ wide(key).mT / math.sqrt(query.shape[-1])


@LINEAR.op
def scaled_dot_product_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None) -> Tensor:
    """A row that a mask hides entirely is NaN, as the softmax of nothing is."""
    scores = attention_scores(query, key)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + wide(attn_mask)
    return torch.softmax(scores, -1) @ wide(value)
