"""The small language in which every model is written, and which every backend interprets.

A model (`edgeqkv.models`) is a plain function over these operations. What a value *is* (a torch tensor, an ONNX
value, a MIL var), how it is laid out, how heads are split, how the state is stored, appended and read, and how
the causal mask is made, are each interpreter's own craft: none of it leaks into the model, and no model structure
is repeated in a backend.

One rule carries the whole idea: **identity is sharing.** A layer whose keys and values are one projection passes
*the same value* as ``k`` and ``v``, and an interpreter keeps one state because it sees one value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from edgeqkv.models.layers import Linear, Norm
    from edgeqkv.weights import Weight

__all__ = ["Heads", "Ops"]

V = TypeVar("V")


class Heads(NamedTuple):
    """How a layer's channels divide into heads: query head ``h`` reads KV head ``h // (query // kv)``."""

    query: int
    kv: int
    dim: int


class Ops(Protocol[V]):
    """What a backend implements. Shapes are logical: S tokens, C channels; batch is 1 on a phone."""

    def embed(self, tokens: V, token_table: Weight, position_table: Weight) -> V:
        """``[S]`` token ids → ``[S, C]``: the tokens' rows plus those of the positions they stand at."""

    def layer_norm(self, x: V, norm: Norm) -> V:
        """Layer normalization over channels (Ba et al. 2016)."""

    def linear(self, x: V, linear: Linear) -> V:
        """``x · weightᵀ + bias``; the weight is ``[out, in]`` as trained."""

    def gelu(self, x: V) -> V:
        """GELU, the exact (erf) form."""

    def add(self, x: V, y: V) -> V:
        """Element-wise sum."""

    def attention(self, layer: int, q: V, k: V, v: V, heads: Heads) -> V:
        """Append this step's keys and values to the layer's state; attend causally from ``q`` to all of it.

        ``q`` is ``[S, query·dim]``, ``k`` and ``v`` are ``[S, kv·dim]`` and *the same value* where the layer
        shares them. Scores are scaled by ``1/√dim``.
        """

    def last(self, x: V) -> V:
        """The rows whose logits are wanted: the last token's."""

    def logits(self, x: V, table: Weight) -> V:
        """``[S, C]`` → ``[S, vocabulary]`` against the output table ``[vocabulary, C]``, often the embedding's."""
