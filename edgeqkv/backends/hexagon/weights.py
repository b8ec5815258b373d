"""Matrices as the compiler takes them: int8 with a scale a row, or int4 with a scale a block ("LPBQ").

LPBQ (low-power blockwise quantization) stores a block's scale as a whole multiple, 1 to 15, of a scale of its row, so
that a product needs one multiplication a row. In a QDQ graph it is two ``DequantizeLinear``, one into the other.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.hexagon.encodings import ACTIVATION, Encoding
from edgeqkv.backends.hexagon.graph import QdqGraph, Value
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.schemes import Scheme
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.quantize.nearest import nearest

__all__ = ["product"]

_FAR = 2**31 - 1


def product(graph: QdqGraph, x: Value, weight: Weight, bias: Weight | None, encoding: Encoding) -> Value:
    """``x [n, in] · weightᵀ + bias``, ``[n, out]`` in the given encoding."""
    stored = weight if isinstance(weight, QuantizedWeight) else _in_rows(weight)
    shape = (*x.shape[:-1], stored.shape[0])
    result = (_blocks if stored.scheme.multiples else _rows)(graph, x, stored, bias, encoding, shape)
    weight.release_pages()
    return result


def _in_rows(weight: Weight) -> QuantizedWeight:
    """A matrix that no scheme quantized, as int8: the compiler multiplies by nothing else."""
    return nearest(weight, Scheme("int8", bits=8, block=weight.shape[1], smallest=1))


def _rows(
    graph: QdqGraph,
    x: Value,
    weight: QuantizedWeight,
    bias: Weight | None,
    encoding: Encoding,
    shape: tuple[int, ...],
) -> Value:
    if weight.scales.shape[1] != 1 or weight.scheme.bits != 8:
        raise UnsupportedError(f"'{weight.name}' is no int8 matrix with a scale a row, and Hexagon takes no other")
    scales: npt.NDArray[np.float32] = weight.scales[:, 0].numpy()
    zeros = graph.constant(np.zeros(len(scales), np.int8))
    codes = graph.constant(weight.codes.numpy(), f"{weight.name}.int8")
    matrix = graph.node("DequantizeLinear", codes, graph.constant(scales, f"{weight.name}.scales"), zeros, axis=0)
    inputs = [graph.real(x), matrix]
    if bias is not None:
        inputs.append(_wide_bias(graph, bias, np.float32(x.encoding.scale) * scales))
    return graph.quantized(graph.node("Gemm", *inputs, transB=1), shape, encoding)


def _blocks(
    graph: QdqGraph,
    x: Value,
    weight: QuantizedWeight,
    bias: Weight | None,
    encoding: Encoding,
    shape: tuple[int, ...],
) -> Value:
    """As ``MatMul`` and ``Add``: fused into a ``Gemm``, onnxruntime-qnn 2.7 gives wrong numbers, and says nothing."""
    assert weight.row_scales is not None, "a scheme with multiples has scales of rows"
    rows: npt.NDArray[np.float32] = weight.row_scales.numpy()
    multiples = (weight.scales / weight.row_scales[:, None]).round().to(torch.uint8).numpy()
    scale = graph.node(
        "DequantizeLinear",
        graph.constant(multiples.T, f"{weight.name}.multiples"),
        graph.constant(rows, f"{weight.name}.scales"),
        graph.constant(np.zeros(len(rows), np.uint8)),
        axis=1,
    )
    # [in, out], which is how QNN's own form of these codes lies.
    codes = graph.constant_int4(weight.codes.numpy().T, f"{weight.name}.int4")
    zeros = graph.constant_int4(np.zeros(multiples.T.shape, np.int8), f"{weight.name}.zeros")
    matrix = graph.node("DequantizeLinear", codes, scale, zeros, axis=0, block_size=weight.scheme.block)
    multiplied = graph.node("MatMul", graph.real(x), matrix)
    if bias is None:
        return graph.quantized(multiplied, shape, encoding)
    numbers = bias.values().numpy()
    low, high = encoding.ends
    before = Encoding.of(low - max(0.0, numbers.max()), high - min(0.0, numbers.min()))
    added = graph.stored(f"{bias.name}.{ACTIVATION}", numbers, Encoding.of(numbers.min(), numbers.max()))
    summand = graph.quantized(multiplied, shape, before)
    return graph.quantized(graph.node("Add", graph.real(summand), graph.real(added)), shape, encoding)


def _wide_bias(graph: QdqGraph, bias: Weight, scales: npt.NDArray[np.float32]) -> str:
    """A bias in int32, whose steps are the products of those of what is multiplied: it is added before any rounding."""
    codes = np.rint(bias.values().numpy().astype(np.float64) / scales.astype(np.float64)).clip(-_FAR, _FAR)
    zeros = np.zeros(scales.shape, np.int32)
    inputs = graph.constant(codes.astype(np.int32)), graph.constant(scales), graph.constant(zeros)
    return graph.node("DequantizeLinear", *inputs, axis=0)
