"""The small language in which every model is written, and which every backend interprets.

A model (`edgeqkv.models`) is a plain function over these operations. What a value *is* (a torch tensor, an ONNX
value, a MIL var), how it is laid out, how heads are split, how the state is stored, appended and read, and how
the causal mask is made, are each interpreter's own craft: none of it leaks into the model, and no model structure
is repeated in a backend.

`LayerOps` are the words that every architecture is made of; `DecoderOps` add those of a model that continues a text
and keeps a state, `EncoderOps` those of one that looks at its whole input at once.

One rule carries the whole idea: **identity is sharing.** A layer whose keys and values are one projection passes
*the same value* as ``k`` and ``v``, and an interpreter keeps one state because it sees one value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from edgeqkv.model.layers import Linear, Norm, ScoreTerm
    from edgeqkv.model.weights import Weight

__all__ = ["DecoderOps", "EncoderOps", "Heads", "LayerOps"]

V = TypeVar("V")


class Heads(NamedTuple):
    """How a layer's channels divide into heads: query head ``h`` reads KV head ``h // (query // kv)``."""

    query: int
    kv: int
    dim: int


class LayerOps(Protocol[V]):
    """What every model needs. Shapes are logical: S tokens, C channels."""

    def layer_norm(self, x: V, norm: Norm) -> V:
        """Layer normalization over channels (Ba et al. 2016)."""

    def linear(self, x: V, linear: Linear) -> V:
        """``x · weightᵀ + bias``; the weight is ``[out, in]`` as trained."""

    def gelu(self, x: V) -> V:
        """GELU, the exact (erf) form."""

    def add(self, x: V, y: V) -> V:
        """Element-wise sum."""


class DecoderOps(LayerOps[V], Protocol[V]):
    """What a decoder needs besides. Batch is 1 on a phone."""

    def embed(self, tokens: V, token_table: Weight, position_table: Weight) -> V:
        """``[S]`` token ids → ``[S, C]``: the tokens' rows plus those of the positions they stand at."""

    def attention(self, layer: int, q: V, k: V, v: V, heads: Heads) -> V:
        """Append this step's keys and values to the layer's state; attend causally from ``q`` to all of it.

        ``q`` is ``[S, query·dim]``, ``k`` and ``v`` are ``[S, kv·dim]`` and *the same value* where the layer
        shares them. Scores are scaled by ``1/√dim``.
        """

    def last(self, x: V) -> V:
        """The rows whose logits are wanted: the last token's."""

    def logits(self, x: V, table: Weight) -> V:
        """``[S, C]`` → ``[S, vocabulary]`` against the output table ``[vocabulary, C]``, often the embedding's."""


class EncoderOps(LayerOps[V], Protocol[V]):
    """What an encoder needs besides. Shapes are those of one input; a batch's inputs know nothing of each other."""

    def rows(self, ids: V, table: Weight) -> V:
        """``[S]`` token ids → ``[S, C]``: the table's rows."""

    def patches(self, pixels: V, size: int) -> V:
        """``[channels, height, width]`` → ``[S, channels·size²]``: squares of ``size`` pixels, row by row.

        A patch's numbers are in the order of a convolution's weight: channel, row, column. An image that does not
        divide into patches is padded with zeros on the right and at the bottom.
        """

    def prepend(self, x: V, row: Weight) -> V:
        """``[S, C]`` → ``[1 + S, C]``, the weight ``[1, C]`` before all others."""

    def add_positions(self, x: V, table: Weight) -> V:
        """``x`` plus ``table``, both ``[S, C]``."""

    def attend(self, q: V, k: V, v: V, heads: Heads, term: ScoreTerm | None) -> V:
        """Attend from every token to every token.

        ``q``, ``k``, ``v`` are ``[S, query·dim]``, and *the same value* where the layer shares them; an encoder shares
        no heads. Scores are scaled by ``1/√dim``, and by the layer's `ScoreTerm` if it has one.
        """

    def first(self, x: V) -> V:
        """``[S, C]`` → ``[1, C]``: the first token's row."""
