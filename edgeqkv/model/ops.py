"""The small set of operations over which every model is written, and which every backend interprets.

A model (`edgeqkv.model.architectures`) is a plain function over these operations. What a value *is* (a torch tensor,
an ONNX value, a MIL var), how it is laid out, how heads are split, how the state is stored, appended and read, and how
the causal mask is made, are each interpreter's own craft: none of it leaks into the model, and no model structure
is repeated in a backend.

One rule carries the whole idea: **identity is sharing.** A layer whose keys and values are one projection passes
*the same value* as ``k`` and ``v``, and an interpreter keeps one state because it sees one value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from edgeqkv.model.layers import Activation, Attention, Linear, Norm, Rope
    from edgeqkv.model.weights import Weight

__all__ = ["Ops"]

V = TypeVar("V")


class Ops(Protocol[V]):
    """Shapes are logical and those of one input: S tokens, C channels. A batch's inputs know nothing of each other."""

    def scope(self, name: str) -> AbstractContextManager[None]:
        """What is computed inside is the model's part of this name: ``h.0``, and in it ``attn``.

        For the names in files that people open; interpreters that write none leave it as it is.
        """
        return nullcontext()

    def embedding(self, ids: V, table: Weight) -> V:
        """``[S]`` token ids → ``[S, C]``: the table's rows."""

    def add_positions(self, x: V, table: Weight) -> V:
        """``x [S, C]`` plus the rows of ``table`` that belong to the positions at which its tokens stand."""

    def norm(self, x: V, norm: Norm) -> V:
        """Normalization over channels."""

    def linear(self, x: V, linear: Linear) -> V:
        """``x · weightᵀ + bias``; the weight is ``[out, in]`` as trained."""

    def linears(self, x: V, linears: Mapping[str, Linear]) -> tuple[V, ...]:
        """`linear` of one value with several layers, each the part of its name; an interpreter may multiply them as one
        matrix.
        """
        results = []
        for name, linear in linears.items():
            with self.scope(name):
                results.append(self.linear(x, linear))
        return tuple(results)

    def activation(self, x: V, kind: Activation) -> V:
        """The function between the projections of an MLP."""

    def add(self, x: V, y: V) -> V:
        """Element-wise sum."""

    def multiply(self, x: V, y: V) -> V:
        """Element-wise product."""

    def scale(self, x: V, factor: float) -> V:
        """``x`` times a constant."""

    def softcap(self, x: V, cap: float) -> V:
        """``cap · tanh(x / cap)``."""

    def attention(self, layer: int, q: V, k: V, v: V, attention: Attention) -> V:
        """Attend from every token to those that it sees, as the layer's record says.

        ``q`` is ``[S, query·dim]``, ``k`` and ``v`` are ``[S, kv·dim]`` and *the same value* where the layer shares
        them. A causal layer first appends this step's keys and values to its state, and attends to all of it.

        Keys are normalized and rotated before they are stored. A merged layer stores its one value as it is given;
        there, both are done to the keys as they are read, each row at the position it stands at. Of what was mixed,
        each head's last ``value_dim`` channels come out.

        A layer with a ``source`` is given that layer's ``k`` and ``v``, and attends to what it stored.
        """

    def placed(self, x: V, heads: int, dim: int, norm: Norm | None, rope: Rope | None) -> V:
        """``[S, heads·dim]``: each head normalized, then rotated to where its token stands."""

    def part(self, x: V, heads: int, dim: int, start: int, stop: int) -> V:
        """``[S, heads·dim]`` → ``[S, heads·(stop - start)]``: these channels of each head."""

    def join(self, parts: Sequence[V], heads: int, dims: Sequence[int]) -> V:
        """``[S, heads·dims[i]]`` each → ``[S, heads·Σ dims]``: the channels of each head one part after the other."""

    def pad(self, x: V, heads: int, dim: int, count: int) -> V:
        """``[S, heads·dim]`` → ``[S, heads·(dim + count)]``: so many zeros behind the channels of each head."""

    def patches(self, pixels: V, size: int) -> V:
        """``[channels, height, width]`` → ``[S, channels·size²]``: squares of ``size`` pixels, row by row.

        A patch's numbers are in the order of a convolution's weight: channel, row, column. An image that does not
        divide into patches is padded with zeros on the right and at the bottom.
        """

    def prepend(self, x: V, row: Weight) -> V:
        """``[S, C]`` → ``[1 + S, C]``, the weight ``[1, C]`` before all others."""

    def first(self, x: V) -> V:
        """``[S, C]`` → ``[1, C]``: the first token's row."""

    def last(self, x: V) -> V:
        """The rows whose logits are wanted: the last token's."""

    def logits(self, x: V, table: Weight) -> V:
        """``[S, C]`` → ``[S, vocabulary]`` against the output table ``[vocabulary, C]``, often the embedding's."""
