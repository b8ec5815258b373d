"""The ONNX interpreter: a model's operations as ONNX nodes.

Activations are ``[batch·S, C]``; only attention, and what puts tokens together, sees that there is a batch. Linear
layers are ``Gemm(transB=1)``, so that weights keep the layout they were trained in and stream from the checkpoint
unchanged, byte for byte: pure ``ai.onnx``. Quantized ones are ``MatMulNBits``, one for all that multiply the same
value, and ``GatherBlockQuantized`` for the table, two operators of ONNX Runtime that read the same codes; the
standard's blocked ``DequantizeLinear`` would be unpacked to float32, or repacked in memory, by the runtime.

`OnnxOps` is all that a model without a state needs; `StatefulOps` is what decoders have in common, but for attention,
in which the forms differ. A state tensor is ``[1, kv_heads, length, head_dim]``, a graph input and output that the
caller binds to the same memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import onnx_ir as ir

from edgeqkv.backends.onnx.graph import DTYPES, GraphBuilder
from edgeqkv.backends.onnx.joined import joined
from edgeqkv.model.ops import Ops
from edgeqkv.model.weights import QuantizedWeight, Weight

if TYPE_CHECKING:
    from edgeqkv.backends.onnx.signatures import GraphSignature
    from edgeqkv.model.layers import Activation, Attention, Heads, Linear, Norm, Rope

__all__ = ["OnnxOps", "StatefulOps"]

Value = ir.Value

# Quantizes activations to int8 as well, which is what makes int4 products fast on CPUs. It is a permission and not an
# order: a session that does not prepack the weights computes in float32, which is how exports are proven.
_ACCURACY_LEVEL = 4


class OnnxOps(Ops[Value]):
    """Interprets a model into ``graph``, for so many inputs at once and so many ``channels``."""

    def __init__(self, graph: GraphBuilder, *, batch: int = 1, channels: int = 0) -> None:
        self._graph = graph
        self._op: Callable[..., Value] = graph.op
        self._batch = batch
        self._channels = channels

    def scope(self, name: str) -> AbstractContextManager[None]:
        return self._graph.scope(name)

    def embedding(self, ids: Value, table: Weight) -> Value:
        return self._rows(table, self._reshape(ids, -1))

    def add_positions(self, x: Value, table: Weight) -> Value:
        return self._reshape(self._op("Add", self._by_input(x), self._float(table)), -1, self._channels)

    def norm(self, x: Value, norm: Norm) -> Value:
        if norm.scale is None:
            return self._plain_norm(x, norm)
        scale = self._float(norm.scale)
        if norm.offset:
            scale = self._op("Add", scale, self._graph.constant(norm.offset, "fp32"))
        bias = [] if norm.bias is None else [self._float(norm.bias)]
        if norm.kind == "layer":
            return self._op("LayerNormalization", x, scale, *bias, axis=-1, epsilon=norm.eps)
        normed = self._op("RMSNormalization", x, scale, axis=-1, epsilon=norm.eps)
        return self._op("Add", normed, *bias) if bias else normed

    def _plain_norm(self, x: Value, norm: Norm) -> Value:
        """What has no scale; the standard's operators ask for one of the input's width."""
        last = self._graph.constant([-1])
        if norm.kind == "layer":
            x = self._op("Sub", x, self._op("ReduceMean", x, last))
        mean = self._op("ReduceMean", self._op("Mul", x, x), last)
        return self._op("Div", x, self._op("Sqrt", self._op("Add", mean, self._graph.constant(norm.eps, "fp32"))))

    def linear(self, x: Value, linear: Linear) -> Value:
        return self._product(x, linear.weight, self._float(linear.bias) if linear.bias is not None else None)

    def linears(self, x: Value, linears: Mapping[str, Linear]) -> tuple[Value, ...]:
        layers = linears.values()
        weight = joined([linear.weight for linear in layers])
        biases = [linear.bias for linear in layers if linear.bias is not None]
        if weight is None or len(biases) not in (0, len(layers)):
            return super().linears(x, linears)
        with self.scope("+".join(linears)):
            # Of constants alone, so that the runtime puts the biases together once.
            bias = self._op("Concat", *map(self._float, biases), axis=0) if biases else None
            product = self._quantized_product(x, weight, bias)
            rows = self._graph.constant([linear.weight.shape[0] for linear in layers])
            return self._graph.ops("Split", product, rows, outputs=len(layers), axis=-1)

    def activation(self, x: Value, kind: Activation) -> Value:
        match kind:
            case "gelu":
                return self._op("Gelu", x)
            case "gelu_tanh":
                return self._op("Gelu", x, approximate="tanh")
            case "silu":
                return self._op("Mul", x, self._op("Sigmoid", x))
            case "relu":
                return self._op("Relu", x)

    def add(self, x: Value, y: Value) -> Value:
        return self._op("Add", x, y)

    def multiply(self, x: Value, y: Value) -> Value:
        return self._op("Mul", x, y)

    def scale(self, x: Value, factor: float) -> Value:
        # Next to a product, ONNX Runtime makes it a part of that.
        return x if factor == 1.0 else self._op("Mul", x, self._graph.constant(factor, "fp32"))

    def softcap(self, x: Value, cap: float) -> Value:
        return self.scale(self._op("Tanh", self.scale(x, 1 / cap)), cap)

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        heads, term = attention.heads, attention.term
        queries = self._split(q, heads, [0, 2, 1, 3])
        keys = self._split(k, heads, [0, 2, 3, 1])
        values = self._split(v, heads, [0, 2, 1, 3])
        scale = attention.scale * (1.0 if term is None else term.scale)
        with self.scope("scores"):
            scores = self._op("MatMul", self._op("Mul", queries, self._graph.constant(scale, "fp32")), keys)
            if term is not None:
                scores = self._op("Add", scores, self._float(term.bias))
        with self.scope("mix"):
            mixed = self._op("MatMul", self._op("Softmax", scores, axis=-1), values)
        return self._reshape(self._op("Transpose", mixed, perm=[0, 2, 1, 3]), -1, heads.query * heads.dim)

    def placed(self, x: Value, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Value:
        assert rope is None, "only what keeps a state knows positions"
        if norm is None:
            return x
        return self._reshape(self.norm(self._reshape(x, -1, heads, dim), norm), -1, heads * dim)

    def part(self, x: Value, heads: int, dim: int, start: int, stop: int) -> Value:
        if (start, stop) == (0, dim):
            return x
        if heads == 1:
            return self._channels_of(x, start, stop, 1)
        split = self._channels_of(self._reshape(x, -1, heads, dim), start, stop, 1)
        return self._reshape(split, -1, heads * (stop - start))

    def join(self, parts: Sequence[Value], heads: int, dims: Sequence[int]) -> Value:
        if heads == 1:
            return self._op("Concat", *parts, axis=-1)
        split = [self._reshape(each, -1, heads, dim) for each, dim in zip(parts, dims, strict=True)]
        return self._reshape(self._op("Concat", *split, axis=-1), -1, heads * sum(dims))

    def pad(self, x: Value, heads: int, dim: int, count: int) -> Value:
        padded = self._op("Pad", self._reshape(x, -1, heads, dim), self._graph.constant([0, 0, 0, 0, 0, count]))
        return self._reshape(padded, -1, heads * (dim + count))

    def patches(self, pixels: Value, size: int) -> Value:
        assert pixels.shape is not None, "it is an input"
        _, channels, height, width = pixels.shape.numpy()
        right, bottom = -width % size, -height % size
        if right or bottom:
            pixels = self._op("Pad", pixels, self._graph.constant([0, 0, 0, 0, 0, 0, bottom, right]))
        down, across = (height + bottom) // size, (width + right) // size
        squares = self._reshape(pixels, self._batch, channels, down, size, across, size)
        by_patch = self._op("Transpose", squares, perm=[0, 2, 4, 1, 3, 5])
        return self._reshape(by_patch, self._batch * down * across, channels * size * size)

    def prepend(self, x: Value, row: Weight) -> Value:
        shape = self._graph.constant([self._batch, 1, self._channels])
        first = self._op("Expand", self._float(row), shape)
        return self._reshape(self._op("Concat", first, self._by_input(x), axis=1), -1, self._channels)

    def first(self, x: Value) -> Value:
        return self._op("Gather", self._by_input(x), self._graph.constant(0), axis=1)

    def last(self, x: Value) -> Value:
        return x

    def logits(self, x: Value, table: Weight) -> Value:
        return self._product(x, table, None)

    def _by_input(self, x: Value) -> Value:
        return self._reshape(x, self._batch, -1, self._channels)

    def _split(self, x: Value, heads: Heads, order: list[int]) -> Value:
        return self._op("Transpose", self._reshape(x, self._batch, -1, heads.query, heads.dim), perm=order)

    def _channels_of(self, x: Value, start: int, stop: int, step: int) -> Value:
        bounds = (self._graph.constant([each]) for each in (start, stop, -1, step))
        return self._op("Slice", x, *bounds)

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


class StatefulOps(OnnxOps):
    """Interprets a decoder into a graph; a subclass says what attention is.

    Args:
        graph: where the nodes go.
        signature: how the graph is called, which also says how the state is stored; arithmetic is float32.
    """

    def __init__(self, graph: GraphBuilder, signature: GraphSignature) -> None:
        super().__init__(graph)
        self._signature = signature
        self._turns: dict[tuple[Rope, Value], tuple[Value, Value]] = {}
        self._rows_stand: Value | None = None

    def embedding(self, ids: Value, table: Weight) -> Value:
        return self._rows(table, self._op("Squeeze", ids, self._graph.constant([0])))

    def add_positions(self, x: Value, table: Weight) -> Value:
        return self._op("Add", x, self._rows(table, self._signature.positions))

    def last(self, x: Value) -> Value:
        return self._op("Gather", x, self._signature.last_row)

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        raise NotImplementedError

    def placed(self, x: Value, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Value:
        if rope is None:
            return super().placed(x, heads, dim, norm, None)
        split = self._reshape(x, -1, heads, dim)
        if norm is not None:
            split = self.norm(split, norm)
        if self._rows_stand is None:
            with self.scope("/rope"):
                self._rows_stand = self._reshape(self._signature.positions, -1, 1, 1)
        return self._reshape(self._rotated(split, rope, dim, self._rows_stand), -1, heads * dim)

    def _values_of(self, mixed: Value, attention: Attention) -> Value:
        """Of what each head mixed of rows ``[T, heads·dim]``, the values."""
        heads = attention.heads
        return self.part(mixed, heads.query, heads.dim, heads.dim - attention.value_dim, heads.dim)

    def _rotated(self, x: Value, rope: Rope, dim: int, positions: Value) -> Value:
        """``x [..., dim]`` at the positions, which have as many dimensions and a last one of 1."""
        cos, sin = self._turn(rope, positions)
        half = rope.dims // 2
        places = ((0, rope.dims, 2), (1, rope.dims, 2)) if rope.interleaved else ((0, half, 1), (half, rope.dims, 1))
        first, second = (self._channels_of(x, *place) for place in places)
        turned = [
            self._op("Sub", self._op("Mul", first, cos), self._op("Mul", second, sin)),
            self._op("Add", self._op("Mul", second, cos), self._op("Mul", first, sin)),
        ]
        if rope.interleaved:
            last = self._graph.constant([-1])
            pairs = self._op("Concat", *(self._op("Unsqueeze", each, last) for each in turned), axis=-1)
            shape = self._op("Concat", self._op("Shape", first, end=-1), self._graph.constant([rope.dims]), axis=0)
            turned = [self._op("Reshape", pairs, shape)]
        rest = [self._channels_of(x, rope.dims, dim, 1)] if rope.dims < dim else []
        return self._op("Concat", *turned, *rest, axis=-1)

    def _turn(self, rope: Rope, positions: Value) -> tuple[Value, Value]:
        """Cosine and sine of every pair's angle ``[..., dims / 2]``; the same ones for all layers."""
        if (rope, positions) not in self._turns:
            frequencies = self._graph.constant(rope.inverse_frequencies, "fp32")
            with self.scope("/rope"):
                angles = self._op("Mul", self._op("Cast", positions, to=DTYPES["fp32"]), frequencies)
                cos, sin = (self.scale(self._op(kind, angles), rope.attention_factor) for kind in ("Cos", "Sin"))
            self._turns[rope, positions] = cos, sin
        return self._turns[rope, positions]
