"""What a model costs: its numbers, its multiply-adds and the memory of what it computes on the way.

One more interpreter, whose values are shapes. It never looks at a number of a weight, so that it takes a network of
shapes alone (`edgeqkv.model.shapes`) as well as a trained one, and needs no torch.

What attention keeps while it is computed is a runtime's own affair: `CostOps` keeps nothing but the result, as a fused
operator does, `ScoresOps` the matrix of scores and what softmax makes of it. A target whose runtime does otherwise has
an interpreter of its own (``backends/<target>/memory.py``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

from edgeqkv.model.layers import Activation, Attention, Block, Linear, Norm, Rope
from edgeqkv.model.ops import Ops
from edgeqkv.model.walk import map_nodes
from edgeqkv.reference.liveness import Step

if TYPE_CHECKING:
    from edgeqkv.model.model import Network
    from edgeqkv.model.weights import Weight

__all__ = ["CostOps", "Costs", "Result", "ScoresOps", "costs", "multiply_adds", "typical"]

Shape = tuple[int, int]


class Result(NamedTuple):
    """A value: the name that it has among the steps, and its shape."""

    name: str
    shape: tuple[int, ...]


class CostOps(Ops[Result]):
    """Interprets a network for one call at a time.

    Args:
        context: positions that are in the state, those of the call included; for a network without one it is nothing.
        element: bytes of a number that is computed on the way.

    Attributes:
        chunk: the most tokens of a call, on which it depends what is kept of a window (`Attention.kept`).
        steps: the operations, for `edgeqkv.reference.liveness.peak`.
        multiply_adds: those of matrix products.
        matrices: the weights that something is multiplied with.
        tables: those whose rows are looked up.
        heads: the matrices that make logits over a vocabulary.
        positions: tables of which a row belongs to each position.
        others: biases, normalizations and the like.
        logits_names: the names of the network's results, if they are logits over a vocabulary.
    """

    chunk: int = 1

    def __init__(self, context: int = 0, element: int = 4) -> None:
        self.context = context
        self.element = element
        self.steps: list[Step] = []
        self.multiply_adds = 0
        # Dictionaries, to have each weight once and in order.
        self.matrices: dict[Weight, None] = {}
        self.tables: dict[Weight, None] = {}
        self.heads: dict[Weight, None] = {}
        self.positions: dict[Weight, None] = {}
        self.others: dict[Weight, None] = {}
        self.logits_names: set[str] = set()

    def given(self, *shape: int) -> Result:
        """An input."""
        return Result("input", shape)

    def made(self, what: str, shape: tuple[int, ...], *inputs: Result, element: int | None = None) -> Result:
        """Note an operation; its result."""
        result = Result(f"{what} {len(self.steps)}", shape)
        size = prod(shape) * (self.element if element is None else element)
        self.steps.append(Step(what, tuple(each.name for each in inputs), {result.name: size}))
        return result

    def made_together(self, what: str, shapes: Sequence[tuple[int, ...]], *inputs: Result) -> tuple[Result, ...]:
        """Note one operation with several results."""
        results = tuple(Result(f"{what} {len(self.steps)}.{index}", shape) for index, shape in enumerate(shapes))
        sizes = {result.name: prod(result.shape) * self.element for result in results}
        self.steps.append(Step(what, tuple(each.name for each in inputs), sizes))
        return results

    def embedding(self, ids: Result, table: Weight) -> Result:
        self.tables[table] = None
        return self.made("embedding", (ids.shape[0], table.shape[1]), ids)

    def add_positions(self, x: Result, table: Weight) -> Result:
        self.positions[table] = None
        return self.made("add", x.shape, x, self.made("positions", x.shape))

    def norm(self, x: Result, norm: Norm) -> Result:
        self._use(norm.scale, norm.bias)
        return self.made("norm", x.shape, x)

    def linear(self, x: Result, linear: Linear) -> Result:
        self._use(linear.bias)
        return self._product(x, linear.weight)

    def activation(self, x: Result, kind: Activation) -> Result:
        return self.made(kind, x.shape, x)

    def add(self, x: Result, y: Result) -> Result:
        return self.made("add", x.shape, x, y)

    def multiply(self, x: Result, y: Result) -> Result:
        return self.made("multiply", x.shape, x, y)

    def scale(self, x: Result, factor: float) -> Result:
        return self.made("scale", x.shape, x)

    def softcap(self, x: Result, cap: float) -> Result:
        return self.made("softcap", x.shape, x)

    def attention(self, layer: int, q: Result, k: Result, v: Result, attention: Attention) -> Result:
        for norm in filter(None, (attention.q_norm, attention.k_norm)):
            self._use(norm.scale, norm.bias)
        if attention.term is not None:
            self._use(attention.term.bias)
        seen = self.seen(k, attention)
        self.multiply_adds += 2 * attention.heads.query * attention.heads.dim * q.shape[0] * seen
        if attention.rope is not None or attention.q_norm is not None:
            q = self.made("placed queries", q.shape, q)
        mixed, heads = self.attend(q, k, v, attention, seen), attention.heads
        return self.part(mixed, heads.query, heads.dim, heads.dim - attention.value_dim, heads.dim)

    def placed(self, x: Result, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> Result:
        if norm is not None:
            self._use(norm.scale, norm.bias)
        return x if norm is None and rope is None else self.made("placed", x.shape, x)

    def part(self, x: Result, heads: int, dim: int, start: int, stop: int) -> Result:
        return x if (start, stop) == (0, dim) else self.made("part", (x.shape[0], heads * (stop - start)), x)

    def join(self, parts: Sequence[Result], heads: int, dims: Sequence[int]) -> Result:
        return self.made("join", (parts[0].shape[0], heads * sum(dims)), *parts)

    def pad(self, x: Result, heads: int, dim: int, count: int) -> Result:
        return self.made("pad", (x.shape[0], heads * (dim + count)), x)

    def seen(self, k: Result, attention: Attention) -> int:
        """The positions that attention reads, at most."""
        return attention.kept(self.context, self.chunk) if attention.causal else k.shape[0]

    def attend(self, q: Result, k: Result, v: Result, attention: Attention, seen: int) -> Result:
        """What attention makes of this call's rows; an interpreter of a target's notes what lives meanwhile."""
        return self.made("attention", q.shape, q, k, v)

    def patches(self, pixels: Result, size: int) -> Result:
        channels, *sides = pixels.shape
        return self.made("patches", (prod(-(-side // size) for side in sides), channels * size * size), pixels)

    def prepend(self, x: Result, row: Weight) -> Result:
        self._use(row)
        return self.made("prepend", (x.shape[0] + 1, x.shape[1]), x)

    def first(self, x: Result) -> Result:
        return self.made("first", (1, x.shape[1]), x)

    def last(self, x: Result) -> Result:
        return self.made("last", (1, x.shape[1]), x)

    def logits(self, x: Result, table: Weight) -> Result:
        self.heads[table] = None
        result = self._product(x, table)
        self.logits_names.add(result.name)
        return result

    def _product(self, x: Result, weight: Weight) -> Result:
        self.matrices[weight] = None
        rows, columns = weight.shape
        self.multiply_adds += x.shape[0] * rows * columns
        return self.made("linear", (x.shape[0], rows), x)

    def _use(self, *weights: Weight | None) -> None:
        self.others.update(dict.fromkeys(weight for weight in weights if weight is not None))


class ScoresOps(CostOps):
    """Keeps scores and what softmax makes of them, a mask, and the rows of the state as they are read."""

    def attend(self, q: Result, k: Result, v: Result, attention: Attention, seen: int) -> Result:
        heads = attention.heads
        rows = [self.read(each, attention, seen) for each in ((k,) if v is k else (k, v))]
        scores = (heads.query, q.shape[0], seen)
        mask = self.made("mask", (q.shape[0], seen))
        multiplied = self.made("scores", scores, q, *rows)
        weights = self.made("softmax", scores, multiplied, mask, *rows)
        return self.made("mixed", q.shape, weights, rows[-1])

    def read(self, new: Result, attention: Attention, seen: int) -> Result:
        """The rows of a state tensor as attention reads them."""
        if not attention.causal:
            return new
        return self.made("state", (attention.heads.kv, seen, attention.heads.dim), new)


@dataclass(frozen=True)
class Costs:
    """A network's weights by what they are for, as shapes; see `CostOps`.

    ``tied`` are tables that are matrices too, ``heads`` the matrix that makes logits where it is none of them, ``body``
    all the others.
    """

    parameters: int
    body: tuple[Shape, ...]
    tables: tuple[Shape, ...]
    tied: tuple[Shape, ...]
    heads: tuple[Shape, ...]
    positions: tuple[Shape, ...]
    others: int

    @property
    def layers(self) -> tuple[Shape, ...]:
        """All matrices that are no tables."""
        return (*self.body, *self.heads)

    @property
    def multiplied(self) -> tuple[Shape, ...]:
        """All matrices that something is multiplied with."""
        return (*self.layers, *self.tied)

    @property
    def looked_up(self) -> tuple[Shape, ...]:
        """All tables whose rows are looked up."""
        return (*self.tables, *self.tied)


def costs(network: Any, *inputs: int) -> Costs:
    """What a network is made of; ``inputs`` is the shape of what it is given, which a decoder's costs do not depend on.

    What is given should be a network of shapes alone, for it is remembered.
    """
    return _costs(network, *inputs)


@lru_cache(maxsize=64)
def _costs(network: Network, *inputs: int) -> Costs:
    ops = CostOps(context=1)
    network.outputs(ops, ops.given(*(inputs or (1,))))
    every = {**ops.matrices, **ops.tables, **ops.positions, **ops.others}
    return Costs(
        parameters=sum(prod(weight.shape) for weight in every),
        body=tuple(_shape(weight) for weight in ops.matrices if weight not in ops.tables | ops.heads),
        tables=tuple(_shape(weight) for weight in ops.tables if weight not in ops.matrices),
        tied=tuple(_shape(weight) for weight in ops.tables if weight in ops.matrices),
        heads=tuple(_shape(weight) for weight in ops.heads if weight not in ops.tables),
        positions=tuple(_shape(weight) for weight in ops.positions),
        others=sum(prod(weight.shape) for weight in ops.others),
    )


def _shape(weight: Weight) -> Shape:
    rows, columns = weight.shape
    return rows, columns


def multiply_adds(network: Network, *inputs: int, context: int = 0) -> int:
    """Multiply-adds of matrix products for one input of the given shape, with so many positions in the state."""
    ops = CostOps(context)
    network.outputs(ops, ops.given(*inputs))
    return ops.multiply_adds


def typical(network: Any) -> Any:
    """The network without the third and further ones of neighbouring blocks that are alike.

    What lives at once in it is what lives at once in the whole, and is worked out sooner. It is remembered too.
    """
    return _typical(network)


@lru_cache(maxsize=64)
def _typical(network: Any) -> Any:

    def shortened(blocks: tuple[Any, ...]) -> tuple[Any, ...]:
        if not blocks or not all(isinstance(block, Block) for block in blocks):
            return blocks
        kinds = [_kind(block, {}) for block in blocks]
        return tuple(b for i, b in enumerate(blocks) if i < 2 or not kinds[i] == kinds[i - 1] == kinds[i - 2])

    return map_nodes(network, tuple, shortened)


def _kind(node: object, seen: dict[int, int]) -> object:
    """What two nodes have in common that cost the same: shapes, settings, and what is shared."""
    shape = getattr(node, "shape", None)
    if shape is not None:
        return seen.setdefault(id(node), len(seen)), tuple(shape)
    if dataclasses.is_dataclass(node):
        return type(node), tuple(_kind(getattr(node, field.name), seen) for field in dataclasses.fields(node))
    return node if isinstance(node, str | int | float | bool | Sequence) else None
