"""The operations of a model as a TOSA graph: whole numbers between all of them, in the ranges that were observed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from math import erf, prod
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.ethos.arithmetic import added, normalized, score_scale, softmax
from edgeqkv.backends.ethos.graph import Encoding, TosaGraph, Value, affine, symmetric
from edgeqkv.backends.fixed import FixedOps
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.activations import ActivationRanges, Sites
from edgeqkv.model.layers import Activation, Linear, Norm
from edgeqkv.model.schemes import Scheme
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.quantize.nearest import nearest

__all__ = ["FUNCTIONS", "TosaOps"]

_SUM_BITS: Final = 29

_Array = npt.NDArray[np.float64]


def _gelu(x: _Array) -> _Array:
    found: _Array = x / 2 * (1 + np.array([erf(each) for each in x / np.sqrt(2)]))
    return found


FUNCTIONS: Final[dict[Activation, Callable[[_Array], _Array]]] = {
    "gelu": _gelu,
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
}


class TosaOps(FixedOps[Value]):
    """What decoders and encoders have in common. Values are ``[rows, channels]`` in 16 bits.

    Args:
        graph: what is built.
        ranges: how far each result reaches.
        narrow: whether what enters a product is rounded to 8 bits.
    """

    def __init__(self, graph: TosaGraph, ranges: ActivationRanges, *, narrow: bool) -> None:
        self.graph = graph
        self.ranges = ranges
        self.sites = Sites()
        self._narrow = narrow

    def scope(self, name: str) -> AbstractContextManager[None]:
        return self.graph.scope(name)

    def at(self, site: str) -> Encoding:
        """The encoding of a result."""
        return symmetric(*self.ranges.of[site])

    def operand(self, x: Value) -> Value:
        """A value as it enters a product."""
        return self.graph.rescaled(x, affine(*x.ends)) if self._narrow else x

    def row(self, table: Weight, index: Value) -> Value:
        """Rows of a table, in 16 bits with one scale."""
        numbers = table.values().numpy()
        low, high = float(numbers.min()), float(numbers.max())
        stored = self.graph.stored(numbers, (1, *numbers.shape), symmetric(low, high))
        table.release_pages()
        return self.graph.rows(stored, index)

    def embedding(self, ids: Value, table: Weight) -> Value:
        return self.graph.rescaled(self.row(table, ids), self.at(self.sites.next("embedding")))

    def norm(self, x: Value, norm: Norm) -> Value:
        site = self.sites.next("norm")
        assert norm.kind == "layer", "checked before"
        assert norm.scale is not None, "checked before"
        low, high = self.ranges.of[f"{site}.centred"]
        plain = normalized(self.graph, x, max(-low, high), norm.eps, self.at(f"{site}.plain"))
        grown = self.graph.whole_op("MUL", plain, self._vector(norm.scale, len(x.shape)))
        if norm.bias is not None:
            numbers = norm.bias.values().numpy()
            most = max(32767.0**2 * grown.scale, float(np.abs(numbers).max()))
            grown = self.graph.wide(grown, max(grown.scale, most * 2.0**-_SUM_BITS))
            bias = self.graph.whole(numbers.reshape(*(1,) * (len(x.shape) - 1), -1), grown.scale)
            grown = self.graph.whole_op("ADD", grown, bias)
        return self.graph.rescaled(grown, self.at(site))

    def _vector(self, weight: Weight, rank: int) -> Value:
        numbers = weight.values().numpy()
        shape = (*(1,) * (rank - 1), numbers.size)
        return self.graph.stored(numbers, shape, symmetric(float(numbers.min()), float(numbers.max())))

    def linear(self, x: Value, linear: Linear) -> Value:
        return self._product(x, linear.weight, linear.bias, self.at(self.sites.next("linear")))

    def _product(self, x: Value, weight: Weight, bias: Weight | None, encoding: Encoding) -> Value:
        stored = weight if isinstance(weight, QuantizedWeight) else _in_rows(weight)
        if stored.scales.shape[1] != 1 or stored.scheme.bits != 8:
            raise UnsupportedError(
                f"'{weight.name}' is no int8 matrix with a scale a row, and Ethos-U85 takes no other"
            )
        result = self.graph.product(
            self.operand(x),
            stored.codes.numpy(),
            stored.scales[:, 0].double().numpy(),
            None if bias is None else bias.values().double().numpy(),
            encoding,
        )
        weight.release_pages()
        return result

    def activation(self, x: Value, kind: Activation) -> Value:
        return self.graph.bent(x, FUNCTIONS[kind], self.at(self.sites.next(kind)))

    def add(self, x: Value, y: Value) -> Value:
        return added(self.graph, x, y, self.at(self.sites.next("add")))

    def multiply(self, x: Value, y: Value) -> Value:
        return self.graph.rescaled(self.graph.whole_op("MUL", x, y), self.at(self.sites.next("multiply")))

    def scale(self, x: Value, factor: float) -> Value:
        """The same codes, if it is positive."""
        low, high = sorted(end * factor for end in x.ends)
        if factor > 0:
            return replace(x, scale=x.scale * factor, ends=(low, high))
        constant = self.graph.stored(np.array([factor]), (1,) * len(x.shape), symmetric(factor, 0.0))
        return self.graph.rescaled(self.graph.whole_op("MUL", x, constant), symmetric(low, high))

    def softcap(self, x: Value, cap: float) -> Value:
        return self.graph.bent(x, lambda numbers: cap * np.tanh(numbers / cap), symmetric(-cap, cap))

    def logits(self, x: Value, table: Weight) -> Value:
        return self._product(x, table, None, self.at(self.sites.next("logits")))

    def mixed(self, site: str, q: Value, keys: Value, values: Value, beside: Value | Weight | None) -> Value:
        """``q [KV, n, D]`` among ``keys, values [KV, m, D]`` → ``[KV, n, D]``.

        ``beside`` is what is added to the scores: codes ``[1, n, m]`` that hide some, or the numbers of the position
        term, whose factor queries have by now.
        """
        graph = self.graph
        exact = graph.matmul(self.operand(q), graph.transpose(keys, 0, 2, 1))
        scale = score_scale(*self.ranges.of[f"{site}.scores"])
        if isinstance(beside, Weight):
            beside = graph.whole(beside.values().numpy()[None], scale)
        scores = graph.wide(exact, scale)
        if beside is not None:
            scores = graph.whole_op("ADD", scores, beside)
        return graph.rescaled(graph.matmul(self.operand(softmax(graph, scores)), values), self.at(site))

    # Of encoders, whose ops have them.

    def patches(self, pixels: Value, size: int) -> Value:
        raise NotImplementedError

    def prepend(self, x: Value, row: Weight) -> Value:
        raise NotImplementedError

    def first(self, x: Value) -> Value:
        raise NotImplementedError


def _in_rows(weight: Weight) -> QuantizedWeight:
    """A matrix that no scheme quantized, as int8: nothing else is multiplied by."""
    return nearest(weight, Scheme("int8", bits=8, block=prod(weight.shape[1:]), smallest=1))
