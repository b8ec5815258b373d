"""How the activations of S tokens and C channels lie in a tensor, and what depends on that.

``LinearLayout`` is ``[B, S, C]``, the natural one for the GPU and the CPU. ``ConvLayout`` is ``[B, C, 1, S]``
with every matrix as a 1×1 convolution and every table in parts, the form that the Neural Engine is built for
(Apple, "Deploying Transformers on the Apple Neural Engine", 2022). A decoder's batch B is 1.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.weights import WeightPool
from edgeqkv.model.layers import Linear
from edgeqkv.model.weights import Weight

__all__ = ["ConvLayout", "Layout", "LinearLayout", "gathered", "part_along", "scaled"]


class Layout(Protocol):
    """One way to lay out activations."""

    channel_axis: int
    token_axis: int

    def rows(self, table: Weight, index: Var) -> Var:
        """Activations of the table's rows at ``index [S]``; the batch is 1."""

    def whole(self, table: Weight) -> Var:
        """Activations of all of a table's rows, as a constant; the batch is 1."""

    def from_rows(self, x: Var) -> Var:
        """Activations of ``[B, S, C]``."""

    def to_rows(self, x: Var) -> Var:
        """The inverse of `from_rows`."""

    def linear(self, x: Var, linear: Linear) -> Var:
        """``x · weightᵀ + bias``."""

    def first(self, x: Var) -> Var:
        """Activations of the first token alone."""

    def last(self, x: Var) -> Var:
        """Activations of the last token alone."""

    def logits(self, x: Var, table: Weight) -> Var:
        """``[S, vocabulary]``."""

    def split_heads(self, x: Var, heads: int, dim: int) -> Var:
        """``[B, heads, S, dim]``."""

    def merge_heads(self, x: Var) -> Var:
        """The inverse of `split_heads`."""


def gathered(weights: WeightPool, table: Weight, rank: int, index: Var) -> Var:
    """The table's rows at an index, the table a constant of ``rank`` dimensions."""
    found = mb.gather(x=weights.constant(table, rank), indices=index, axis=0, validate_indices=False)
    for factor in weights.factors(table, (table.shape[0], *[1] * (rank - 1))):
        found = mb.mul(x=found, y=mb.gather(x=factor, indices=index, axis=0, validate_indices=False))
    return found


def scaled(x: Var, factors: list[Var]) -> Var:
    """The product with each of the factors (`WeightPool.factors`)."""
    for factor in factors:
        x = mb.mul(x=x, y=factor)
    return x


class LinearLayout:
    """``[B, S, C]``."""

    channel_axis = 2
    token_axis = 1

    def __init__(self, weights: WeightPool) -> None:
        self._weights = weights

    def rows(self, table: Weight, index: Var) -> Var:
        return mb.expand_dims(x=gathered(self._weights, table, 2, index), axes=[0])

    def whole(self, table: Weight) -> Var:
        return self._weights.arranged(table, (1, *table.shape))

    def from_rows(self, x: Var) -> Var:
        return x

    def to_rows(self, x: Var) -> Var:
        return x

    def linear(self, x: Var, linear: Linear) -> Var:
        return self._product(x, linear.weight, linear.bias)

    def first(self, x: Var) -> Var:
        return _one_along(x, self.token_axis, 0)

    def last(self, x: Var) -> Var:
        return _one_along(x, self.token_axis, x.shape[self.token_axis] - 1)

    def logits(self, x: Var, table: Weight) -> Var:
        return mb.squeeze(x=self._product(x, table, None), axes=[0])

    def split_heads(self, x: Var, heads: int, dim: int) -> Var:
        return mb.transpose(x=mb.reshape(x=x, shape=[x.shape[0], -1, heads, dim]), perm=[0, 2, 1, 3])

    def merge_heads(self, x: Var) -> Var:
        batch, heads, _, dim = x.shape
        return mb.reshape(x=mb.transpose(x=x, perm=[0, 2, 1, 3]), shape=[batch, -1, heads * dim])

    def _product(self, x: Var, weight: Weight, bias: Weight | None) -> Var:
        matrix, factors = self._weights.constant(weight, 2), self._weights.factors(weight, (weight.shape[0],))
        if factors:
            product = scaled(mb.linear(x=x, weight=matrix, bias=self._weights.zeros(weight.shape[0])), factors)
            return product if bias is None else mb.add(x=product, y=self._weights.constant(bias, 1))
        added = self._weights.zeros(weight.shape[0]) if bias is None else self._weights.constant(bias, 1)
        return mb.linear(x=x, weight=matrix, bias=added)


class ConvLayout:
    """``[B, C, 1, S]``. Weights are ``[out, in, 1, 1]``: the same bytes as ``[out, in]``."""

    channel_axis = 1
    token_axis = 3

    def __init__(self, weights: WeightPool) -> None:
        self._weights = weights

    def rows(self, table: Weight, index: Var) -> Var:
        """Looks in every part, and keeps what was found in the part that holds the row."""
        found, start = None, 0
        for part in self._weights.parts(table):
            size = part.shape[0]
            local = index if len(self._weights.parts(table)) == 1 else _clamped(index, start, size)
            here = gathered(self._weights, part, 4, local)
            if found is None:
                found = here
            else:
                beyond = mb.greater_equal(x=index, y=np.int32(start))
                found = mb.select(cond=mb.reshape(x=beyond, shape=[-1, 1, 1, 1]), a=here, b=found)
            start += size
        return mb.transpose(x=found, perm=[3, 1, 2, 0])

    def whole(self, table: Weight) -> Var:
        rows, columns = table.shape
        return self._weights.arranged(table, (1, columns, 1, rows), transposed=True)

    def from_rows(self, x: Var) -> Var:
        return mb.expand_dims(x=mb.transpose(x=x, perm=[0, 2, 1]), axes=[2])

    def to_rows(self, x: Var) -> Var:
        return mb.transpose(x=mb.squeeze(x=x, axes=[2]), perm=[0, 2, 1])

    def linear(self, x: Var, linear: Linear) -> Var:
        rows = linear.weight.shape[0]
        factors = self._factors(linear.weight)
        bias = {"bias": self._weights.constant(linear.bias, 1)} if linear.bias is not None and not factors else {}
        product = scaled(mb.conv(x=x, weight=self._weights.constant(linear.weight, 4), **bias), factors)
        if linear.bias is None or bias:
            return product
        return mb.add(x=product, y=self._weights.arranged(linear.bias, (1, rows, 1, 1)))

    def first(self, x: Var) -> Var:
        return _one_along(x, self.token_axis, 0)

    def last(self, x: Var) -> Var:
        return _one_along(x, self.token_axis, x.shape[self.token_axis] - 1)

    def logits(self, x: Var, table: Weight) -> Var:
        parts = [
            scaled(mb.conv(x=x, weight=self._weights.constant(part, 4)), self._factors(part))
            for part in self._weights.parts(table)
        ]
        whole = mb.concat(values=parts, axis=1) if len(parts) > 1 else parts[0]
        return mb.transpose(x=mb.squeeze(x=whole, axes=[0, 2]), perm=[1, 0])

    def _factors(self, weight: Weight) -> list[Var]:
        return self._weights.factors(weight, (1, weight.shape[0], 1, 1))

    def split_heads(self, x: Var, heads: int, dim: int) -> Var:
        return mb.transpose(x=mb.reshape(x=x, shape=[x.shape[0], heads, dim, -1]), perm=[0, 1, 3, 2])

    def merge_heads(self, x: Var) -> Var:
        batch, heads, _, dim = x.shape
        return mb.reshape(x=mb.transpose(x=x, perm=[0, 1, 3, 2]), shape=[batch, heads * dim, 1, -1])


def _clamped(index: Var, start: int, size: int) -> Var:
    """Where the rows are in a part that begins at ``start``; some row of the part for those that it lacks."""
    local = mb.sub(x=index, y=np.int32(start))
    return mb.minimum(x=mb.maximum(x=local, y=np.int32(0)), y=np.int32(size - 1))


def _one_along(x: Var, axis: int, index: int) -> Var:
    return part_along(x, axis, index, index + 1)


def part_along(x: Var, axis: int, start: int, stop: int, step: int = 1) -> Var:
    """``x[start:stop:step]`` of one axis; other sizes need not be known."""
    if (start, stop, step) == (0, x.shape[axis], 1):
        return x
    others = [dim != axis for dim in range(len(x.shape))]
    begin, end = ([0 if other else bound for other in others] for bound in (start, stop))
    stride = [1 if other else step for other in others]
    return mb.slice_by_index(x=x, begin=begin, end=end, stride=stride, begin_mask=others, end_mask=others)
