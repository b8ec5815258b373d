"""The ONNX interpreter: the model's operations as ONNX nodes, but for attention, in which the forms differ.

Activations are ``[T, C]``. Linear layers are ``Gemm(transB=1)``, so that weights keep the layout they were trained in
and stream from the checkpoint unchanged, byte for byte: pure ``ai.onnx``. Quantized ones are ``MatMulNBits``, and
``GatherBlockQuantized`` for the table, two operators of ONNX Runtime that read the same codes; the standard's blocked
``DequantizeLinear`` would be unpacked to float32, or repacked in memory, by the runtime.

A state tensor is ``[1, kv_heads, context, head_dim]``, a graph input and output that the caller binds to the same
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeqkv.artifact import StateTensor
from edgeqkv.backends.onnx.graph import GraphBuilder
from edgeqkv.ops import Heads, Ops
from edgeqkv.weights import QuantizedWeight, Weight

if TYPE_CHECKING:
    from edgeqkv.models.layers import Linear, Norm

__all__ = ["OnnxOps"]

Value = ir.Value

# Quantizes activations to int8 as well, which is what makes int4 products fast on CPUs. It is a permission and not an
# order: a session that does not prepack the weights computes in float32, which is how exports are proven.
_ACCURACY_LEVEL = 4


class OnnxOps(Ops[Value]):
    """Interprets a decoder into a graph; a subclass says what attention is.

    Args:
        graph: where the nodes go.
        context: positions that the state has room for.
        state: precision in which the state is stored; arithmetic is float32.
        tokens: tokens a call takes; None: any number (``T``).
    """

    def __init__(self, graph: GraphBuilder, *, context: int, state: str, tokens: int | None) -> None:
        self._graph = graph
        self._op: Callable[..., Value] = graph.op
        self._context = context
        self._state = state
        self.tokens = graph.input("input_ids", "int64", [1, tokens or "T"])
        position_ids = graph.input("position_ids", "int64", [1, tokens or "T"])
        self._logit_index = graph.input("logit_index", "int64", [1])
        self._positions = self._op("Squeeze", position_ids, graph.constant([0]))
        self._presents: list[tuple[StateTensor, tuple[Value, ...]]] = []

    def finish(self, logits: Value, vocab_size: int) -> tuple[StateTensor, ...]:
        """Declare the outputs and return the state that the graph keeps."""
        self._graph.output(logits, "logits", "fp32", [1, vocab_size])
        for tensor, values in self._presents:
            for value, name in zip(values, (str(tensor.output), *tensor.aliases), strict=True):
                self._graph.output(value, name, tensor.dtype, tensor.shape)
        return tuple(tensor for tensor, _ in self._presents)

    def embed(self, tokens: Value, token_table: Weight, position_table: Weight) -> Value:
        ids = self._op("Squeeze", tokens, self._graph.constant([0]))
        return self._op("Add", self._rows(token_table, ids), self._rows(position_table, self._positions))

    def layer_norm(self, x: Value, norm: Norm) -> Value:
        scale, bias = self._float(norm.scale), self._float(norm.bias)
        return self._op("LayerNormalization", x, scale, bias, axis=-1, epsilon=norm.eps)

    def linear(self, x: Value, linear: Linear) -> Value:
        return self._product(x, linear.weight, self._float(linear.bias) if linear.bias is not None else None)

    def gelu(self, x: Value) -> Value:
        return self._op("Gelu", x)

    def add(self, x: Value, y: Value) -> Value:
        return self._op("Add", x, y)

    def last(self, x: Value) -> Value:
        return self._op("Gather", x, self._logit_index)

    def logits(self, x: Value, table: Weight) -> Value:
        return self._product(x, table, None)

    def attention(self, layer: int, q: Value, k: Value, v: Value, heads: Heads) -> Value:
        raise NotImplementedError

    def _past(self, layer: int, role: str, heads: Heads, aliases: tuple[str, ...] = ()) -> tuple[Value, StateTensor]:
        """Declare a state tensor: the input that holds it, and its description."""
        tensor = StateTensor(
            name=f"{role}_{layer}",
            role=role,
            layer=layer,
            dtype=self._state,
            shape=(1, heads.kv, self._context, heads.dim),
            input=f"past_{role}_{layer}",
            output=f"present_{role}_{layer}",
            aliases=aliases,
        )
        return self._graph.input(str(tensor.input), tensor.dtype, tensor.shape), tensor

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
