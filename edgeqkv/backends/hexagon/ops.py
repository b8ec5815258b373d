"""The operations of a model as a QDQ graph: integers between all of them, in the ranges that were observed."""

from __future__ import annotations

from math import prod

import numpy as np

from edgeqkv.backends.fixed import FixedOps
from edgeqkv.backends.hexagon.encodings import ACTIVATION, Encoding
from edgeqkv.backends.hexagon.graph import QdqGraph, Value
from edgeqkv.backends.hexagon.weights import product
from edgeqkv.model.activations import ActivationRanges, Sites
from edgeqkv.model.layers import Activation, Attention, Linear, Norm
from edgeqkv.model.weights import Weight

__all__ = ["EncoderOps", "QdqOps", "token_ids"]


def token_ids(name: str, shape: tuple[int, ...]) -> Value:
    """An input of token ids, which are no codes of numbers."""
    return Value(name, shape, Encoding("uint8", 1.0, 0))


class QdqOps(FixedOps[Value]):
    """What decoders and encoders have in common. Values are ``[rows, channels]``: a batch's tokens one below the other.

    Args:
        graph: what is built.
        ranges: how far each result reaches.
        batch: whole inputs of a call.
    """

    def __init__(self, graph: QdqGraph, ranges: ActivationRanges, batch: int = 1) -> None:
        self.graph = graph
        self.ranges = ranges
        self._batch = batch
        self.sites = Sites()

    def at(self, site: str) -> Encoding:
        """The encoding of a result."""
        return Encoding.of(*self.ranges.of[site])

    def embedding(self, ids: Value, table: Weight) -> Value:
        site = self.sites.next("embedding")
        return self.graph.again(self.row(table, ids.name, ids.shape), self.at(site))

    def row(self, table: Weight, index: str, rows: tuple[int, ...]) -> Value:
        """Rows of a table, which has one scale: the compiler looks up no others."""
        numbers = table.values().numpy()
        stored = self.graph.stored(
            f"{table.name}.{ACTIVATION}", numbers, Encoding.of(float(numbers.min()), float(numbers.max()))
        )
        table.release_pages()
        found = self.graph.op("Gather", stored, (*rows, stored.shape[1]), index, axis=0)
        return self.graph.reshape(found, prod(rows), stored.shape[1])

    def norm(self, x: Value, norm: Norm) -> Value:
        site = self.sites.next("norm")
        assert norm.kind == "layer", "checked before"
        assert norm.scale is not None, "checked before"
        channels = x.shape[-1]
        # The operator's own scale has 8 bits (uint16: QNN's error 3110): it stays 1, and theirs comes after.
        one = self.graph.stored(f"ones_{channels}", np.ones(channels, np.float32), Encoding.of(0.0, 1.0, "uint8"))
        plain = self.graph.node(
            "LayerNormalization", self.graph.real(x), self.graph.real(one), axis=-1, epsilon=norm.eps
        )
        result = self.graph.quantized(plain, x.shape, self.at(f"{site}.plain"))
        encoding = self.at(site)
        if norm.bias is None:
            return self.of_two("Mul", result, self._vector(norm.scale), encoding)
        bias = self._vector(norm.bias)
        (low, high), (least, most) = encoding.ends, bias.encoding.ends
        grown = self.of_two("Mul", result, self._vector(norm.scale), Encoding.of(low - most, high - least))
        return self.of_two("Add", grown, bias, encoding)

    def _vector(self, weight: Weight) -> Value:
        numbers = weight.values().numpy()
        return self.graph.stored(
            f"{weight.name}.{ACTIVATION}", numbers, Encoding.of(float(numbers.min()), float(numbers.max()))
        )

    def linear(self, x: Value, linear: Linear) -> Value:
        return product(self.graph, x, linear.weight, linear.bias, self.at(self.sites.next("linear")))

    def activation(self, x: Value, kind: Activation) -> Value:
        encoding = self.at(self.sites.next(kind))
        match kind:
            case "gelu":
                return self.graph.op("Gelu", x, x.shape, encoding=encoding)
            case "gelu_tanh":
                return self.graph.op("Gelu", x, x.shape, encoding=encoding, approximate="tanh")
            case "relu":
                return self.graph.op("Relu", x, x.shape, encoding=encoding)
            case "silu":
                gate = self.graph.op("Sigmoid", x, x.shape, encoding=Encoding.of(0.0, 1.0))
                result = self.graph.node("Mul", self.graph.real(x), self.graph.real(gate))
                return self.graph.quantized(result, x.shape, encoding)

    def add(self, x: Value, y: Value) -> Value:
        return self.of_two("Add", x, y, self.at(self.sites.next("add")))

    def multiply(self, x: Value, y: Value) -> Value:
        return self.of_two("Mul", x, y, self.at(self.sites.next("multiply")))

    def of_two(self, kind: str, x: Value, y: Value, encoding: Encoding) -> Value:
        result = self.graph.node(kind, self.graph.real(x), self.graph.real(y))
        return self.graph.quantized(result, x.shape, encoding)

    def scale(self, x: Value, factor: float) -> Value:
        return self.scaled(x, factor, x.encoding.times(abs(factor)))

    def scaled(self, x: Value, factor: float, encoding: Encoding) -> Value:
        """A value times a constant."""
        number = np.array(factor, np.float32)
        constant = self.graph.stored(f"factor_{factor!r}", number, Encoding.of(factor, factor))
        return self.graph.op("Mul", x, x.shape, self.graph.real(constant), encoding=encoding)

    def softcap(self, x: Value, cap: float) -> Value:
        inside = self.scaled(x, 1 / cap, x.encoding.times(1 / cap))
        bent = self.graph.op("Tanh", inside, x.shape, encoding=Encoding.of(-1.0, 1.0))
        return self.scaled(bent, cap, bent.encoding.times(cap))

    def patches(self, pixels: Value, size: int) -> Value:
        batch, channels, height, width = pixels.shape
        pixels = self._padded(self._padded(pixels, 2, -height % size), 3, -width % size)
        rows, columns = pixels.shape[2] // size, pixels.shape[3] // size
        # In two steps, because the compiler takes five dimensions at most.
        apart = self.graph.reshape(pixels, batch * channels, rows, size, columns, size)
        squares = self.graph.transpose(apart, 0, 1, 3, 2, 4)
        grouped = self.graph.reshape(squares, batch, channels, rows * columns, size * size)
        each = self.graph.transpose(grouped, 0, 2, 1, 3)
        return self.graph.reshape(each, batch * rows * columns, channels * size * size)

    def _padded(self, x: Value, axis: int, count: int) -> Value:
        """With zeros behind it; joined, because a ``Pad`` is compiled to codes of 0 (onnxruntime-qnn 2.7)."""
        if not count:
            return x
        shape = [count if each == axis else size for each, size in enumerate(x.shape)]
        zeros = self.graph.stored(f"zeros_{axis}_{count}", np.zeros(shape, np.float32), x.encoding)
        joined = self.graph.node("Concat", self.graph.real(x), self.graph.real(zeros), axis=axis)
        whole = [size + count if each == axis else size for each, size in enumerate(x.shape)]
        return self.graph.quantized(joined, whole, x.encoding)

    def prepend(self, x: Value, row: Weight) -> Value:
        encoding = self.at(self.sites.next("prepend"))
        channels = x.shape[1]
        inputs = self.graph.again(self.graph.reshape(x, self._batch, x.shape[0] // self._batch, channels), encoding)
        numbers = np.tile(row.values().numpy().reshape(1, 1, channels), (self._batch, 1, 1))
        first = self.graph.stored(f"{row.name}.{ACTIVATION}", numbers, encoding)
        joined = self.graph.node("Concat", self.graph.real(first), self.graph.real(inputs), axis=1)
        tokens = inputs.shape[1] + 1
        whole = self.graph.quantized(joined, (self._batch, tokens, channels), encoding)
        return self.graph.reshape(whole, self._batch * tokens, channels)

    def first(self, x: Value) -> Value:
        tokens, channels = x.shape[0] // self._batch, x.shape[1]
        apart = self.graph.reshape(x, self._batch, tokens, channels)
        zero = self.graph.constant(np.array(0, np.int32))
        return self.graph.op("Gather", apart, (self._batch, channels), zero, axis=1)

    def logits(self, x: Value, table: Weight) -> Value:
        return product(self.graph, x, table, None, self.at(self.sites.next("logits")))

    def operand(self, site: str) -> Encoding:
        """The encoding of the second operand of a product of two activations."""
        low, high = self.ranges.of[site]
        return Encoding.symmetric(max(-low, high))


class EncoderOps(QdqOps):
    """Interprets an encoder, for ``batch`` whole inputs at once."""

    def given(self, x: str, shape: tuple[int, ...]) -> Value:
        """An input of real numbers as a value."""
        return self.graph.quantized(x, shape, self.at("input"))

    def linear(self, x: Value, linear: Linear) -> Value:
        return super().linear(self.graph.reshape(x, prod(x.shape[:-1]), x.shape[-1]), linear)

    def add_positions(self, x: Value, table: Weight) -> Value:
        """Of whole inputs: every row of the table, for each of them."""
        site = self.sites.next("add_positions")
        numbers = table.values().numpy()
        encoding = Encoding.of(float(numbers.min()), float(numbers.max()))
        rows = self.graph.stored(f"{table.name}.{ACTIVATION}", np.tile(numbers, (self._batch, 1)), encoding)
        return self.of_two("Add", x, rows, self.at(site))

    def last(self, x: Value) -> Value:
        return x

    def attention(self, layer: int, q: Value, k: Value, v: Value, attention: Attention) -> Value:
        site = self.sites.next("attention")
        heads, batch, tokens = attention.heads, self._batch, q.shape[0] // self._batch
        scaled = self.scaled(q, attention.scale, self.at(f"{site}.queries"))
        queries = self._split(scaled, tokens, heads.query)
        keys = self._split(self.graph.again(k, self.operand(f"{site}.keys")), tokens, heads.kv)
        values = keys if v is k else self._split(self.graph.again(v, self.operand(f"{site}.values")), tokens, heads.kv)
        shape = (batch, heads.query, tokens, tokens)
        products = self.graph.node(
            "FusedMatMul", self.graph.real(queries), self.graph.real(keys), domain="com.microsoft", transB=1
        )
        scores = self.graph.quantized(products, shape, self.at(f"{site}.products"))
        if attention.term is not None:
            scores = self._with_term(site, scores, attention)
        weights = self.graph.op("Softmax", scores, shape, encoding=Encoding.of(0.0, 1.0), axis=-1)
        mixed = self.graph.node("MatMul", self.graph.real(weights), self.graph.real(values))
        apart = self.graph.quantized(mixed, (batch, heads.query, tokens, heads.dim), self.at(site))
        return self.graph.reshape(self.graph.transpose(apart, 0, 2, 1, 3), batch * tokens, heads.query * heads.dim)

    def _with_term(self, site: str, scores: Value, attention: Attention) -> Value:
        """The 2-D position term: a factor, and a number for every pair."""
        assert attention.term is not None
        grown = self.scaled(scores, attention.term.scale, scores.encoding.times(abs(attention.term.scale)))
        bias = attention.term.bias
        numbers = bias.values().numpy()[None, None]
        added = self.graph.stored(
            f"{bias.name}.{ACTIVATION}", numbers, Encoding.of(float(numbers.min()), float(numbers.max()))
        )
        return self.of_two("Add", grown, added, self.at(f"{site}.scores"))

    def _split(self, x: Value, tokens: int, heads: int) -> Value:
        """``[B, heads, S, D]``"""
        return self.graph.transpose(self.graph.reshape(x, self._batch, tokens, heads, x.shape[1] // heads), 0, 2, 1, 3)
