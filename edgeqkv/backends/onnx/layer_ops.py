"""The operations that every model is made of, as ONNX nodes.

Activations are ``[T, C]``. Linear layers are ``Gemm(transB=1)``, so that weights keep the layout they were trained in
and stream from the checkpoint unchanged, byte for byte: pure ``ai.onnx``. Quantized ones are ``MatMulNBits``, and
``GatherBlockQuantized`` for the table, two operators of ONNX Runtime that read the same codes; the standard's blocked
``DequantizeLinear`` would be unpacked to float32, or repacked in memory, by the runtime.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.model.ops import LayerOps
from edgeqkv.model.weights import QuantizedWeight, Weight

if TYPE_CHECKING:
    from edgeqkv.model.layers import Linear, Norm

__all__ = ["OnnxLayerOps"]

Value = ir.Value

# Quantizes activations to int8 as well, which is what makes int4 products fast on CPUs. It is a permission and not an
# order: a session that does not prepack the weights computes in float32, which is how exports are proven.
_ACCURACY_LEVEL = 4


class OnnxLayerOps(LayerOps[Value]):
    """Interprets a model into ``graph``."""

    def __init__(self, graph: GraphBuilder) -> None:
        self._graph = graph
        self._op: Callable[..., Value] = graph.op

    def layer_norm(self, x: Value, norm: Norm) -> Value:
        scale, bias = self._float(norm.scale), self._float(norm.bias)
        return self._op("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def linear(self, x: Value, linear: Linear) -> Value:
        return self._product(x, linear.weight, self._float(linear.bias) if linear.bias is not None else None)

    def gelu(self, x: Value) -> Value:
        return self._op("Gelu", x)

    def add(self, x: Value, y: Value) -> Value:
        return self._op("Add", x, y)

    def _reshape(self, x: Value, *shape: int) -> Value:
        return self._op("Reshape", x, self._graph.constant(shape))

    def _product(self, x: Value, weight: Weight, bias: Value | None) -> Value:
        if isinstance(weight, QuantizedWeight):
            return self._quantized_product(x, weight, bias)
        return self._op("Gemm", x, self._float(weight), *filter(None, [bias]), transB=1)

    def _quantized_product(self, x: Value, weight: QuantizedWeight, bias: Value | None) -> Value:
        rows, columns = weight.shape
        scheme = weight.scheme
        codes = self._graph.codes(weight, rows, columns // scheme.block, scheme.block * scheme.bits // 8)
        return self._op(
            "MatMulNBits",
            x,
            codes,
            self._graph.scales(weight),
            None,  # zero points: half the range, which is where `packed` puts zero
            None,  # group indices
            bias,
            domain="com.microsoft",
            K=columns,
            N=rows,
            bits=scheme.bits,
            block_size=scheme.block,
            accuracy_level=_ACCURACY_LEVEL,
        )

    def _rows(self, table: Weight, index: Value) -> Value:
        if isinstance(table, QuantizedWeight):
            rows, columns = table.shape
            return self._op(
                "GatherBlockQuantized",
                self._graph.codes(table, rows, columns * table.scheme.bits // 8),
                index,
                self._graph.scales(table),
                domain="com.microsoft",
                bits=table.scheme.bits,
                block_size=table.scheme.block,
                gather_axis=0,
                quantize_axis=1,
            )
        # Cast after looking up, so that a runtime does not expand the whole table.
        return self._cast(self._op("Gather", self._graph.weight(table), index), table.precision, "fp32")

    def _float(self, weight: Weight) -> Value:
        return self._cast(self._graph.weight(weight), weight.precision, "fp32")

    def _cast(self, x: Value, from_: str, to: str) -> Value:
        return x if from_ == to else self._op("Cast", x, to=ir.DataType.FLOAT if to == "fp32" else ir.DataType.FLOAT16)
