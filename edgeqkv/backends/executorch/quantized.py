"""Quantized matrices as XNNPACK and ExecuTorch's own kernels take them, with the codes that every format stores.

XNNPACK multiplies int8 activations, quantized while it runs with one scale and zero point a token, by int4 weights
with a scale for every block of 32 columns or a multiple of it, or by int8 weights with one scale a row. It knows both
by the affine operators of torchao around a plain linear.
"""

from __future__ import annotations

from collections.abc import Callable
from inspect import unwrap
from typing import Final

import torch
import torch.nn.functional as F

from edgeqkv.backends.executorch.quiet import third_party_notices_silenced
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.weights import QuantizedWeight

with third_party_notices_silenced():
    import executorch.exir.passes  # noqa: F401  defines the gathering operators
    from torchao.quantization.quant_primitives import (
        MappingType,
        choose_qparams_affine,
        dequantize_affine,
        quantize_affine,
    )

__all__ = ["product_parts", "quantized_parts", "quantized_product", "quantized_rows"]

Tensor = torch.Tensor
Parts = Callable[[str], Tensor]

_INT8: Final = torch.iinfo(torch.int8)

# torchao wraps these in `torch.no_grad`. torch.export, which runs without gradients anyway, cuts its graph wherever
# they are switched, and the time that it takes to put the parts together grows with the square of their number.
_choose_qparams, _quantize = unwrap(choose_qparams_affine), unwrap(quantize_affine)


def quantized_parts(weight: QuantizedWeight, network: Decoder) -> dict[str, Tensor]:
    """The tensors of a quantized matrix, by the names under which `quantized_product` and `quantized_rows` ask.

    A tied table's rows and the head's codes are the same bytes in the file, so that they can be stored once.
    """
    parts: dict[str, Tensor] = {}
    is_table = weight in network.token_tables and (weight is network.token_table or weight is not network.head)
    if not is_table or weight is network.head:
        parts |= product_parts(weight)
    if is_table:
        if weight.scheme.bits == 4:
            # The scales have so few digits that float16 holds them exactly, as bfloat16 does in XNNPACK, which has
            # float32's range; where one is too small for float16's, they are stored in float32.
            half = weight.scales.half()
            fits = torch.equal(half.float(), weight.scales)
            parts |= {"rows": _packed(weight.codes), "row_scales": half if fits else weight.scales}
        else:
            parts |= {"rows": weight.codes, "row_scales": weight.scales}
    return parts


def product_parts(weight: QuantizedWeight) -> dict[str, Tensor]:
    """The tensors for which `quantized_product` asks, by their names."""
    zeros = torch.zeros(weight.scales.shape, dtype=torch.int8)
    return {"codes": weight.codes, "scales": weight.scales, "zeros": zeros}


def quantized_product(x: Tensor, weight: QuantizedWeight, parts: Parts, bias: Tensor | None) -> Tensor:
    """``x [S, columns] · weightᵀ + bias``, with ``x`` rounded to int8 a token at a time."""
    scheme, stored = weight.scheme, (parts("scales"), parts("zeros"), torch.int8)
    matrix = dequantize_affine(parts("codes"), (1, scheme.block), *stored, scheme.lowest, scheme.highest)
    return F.linear(_rounded(x), matrix, bias)


def quantized_rows(tokens: Tensor, weight: QuantizedWeight, parts: Parts) -> Tensor:
    """Rows of a table ``[S, columns]``, restored in float32."""
    scheme, ops = weight.scheme, torch.ops.quantized_decomposed
    gather = ops.embedding_4bit if scheme.bits == 4 else ops.embedding_byte
    rows: Tensor = gather.dtype(
        parts("rows"), parts("row_scales"), None, scheme.lowest, scheme.highest, tokens, dtype=torch.float32
    )
    if scheme.bits == 8:
        return rows
    # The operator takes a byte's high half first, and XNNPACK, whose bytes these are, the low one.
    return rows.view(-1, weight.shape[1] // 2, 2).flip(-1).reshape(-1, weight.shape[1])


def _rounded(x: Tensor) -> Tensor:
    """``x [S, C]`` through int8, with a scale and a zero point a token: what XNNPACK does when it meets this."""
    block = (1, x.shape[1])
    scale, zero = _choose_qparams(
        x, MappingType.ASYMMETRIC, block, torch.int8, _INT8.min, _INT8.max, zero_point_dtype=torch.int8
    )
    codes = _quantize(x, block, scale, zero, torch.int8, _INT8.min, _INT8.max)
    result: Tensor = dequantize_affine(codes, block, scale, zero, torch.int8, _INT8.min, _INT8.max)
    return result


def _packed(codes: Tensor) -> Tensor:
    """Two int4 codes a byte, the first in the low half, as XNNPACK's weights have them."""
    shifted = (codes + 8).view(torch.uint8)
    return shifted[:, ::2] | shifted[:, 1::2] << 4
