"""Networks of shapes alone: what is asked of a model's size, work and memory needs no numbers, and no torch.

A network (`edgeqkv.model.architectures`) is built from a model's dimensions with weights that have a name and a shape,
or taken as it is and given another variant's projections. `edgeqkv.reference.cost` interprets both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast

from edgeqkv.model.layers import MLP, Attention, Block, Heads, Linear, Norm, ScoreTerm
from edgeqkv.model.variants import Sharing, Variant
from edgeqkv.model.walk import map_nodes, map_weights

if TYPE_CHECKING:
    from edgeqkv.model.weights import Weight

__all__ = ["LayerShape", "ShapeWeight", "as_variant", "blocks", "linear", "norm", "of_network", "weight", "with_layers"]

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class ShapeWeight:
    """A weight's name and shape; identity is sharing here too."""

    name: str
    shape: tuple[int, ...]

    def rows(self, start: int, stop: int) -> ShapeWeight:
        """So many of its rows."""
        return replace(self, shape=(stop - start, *self.shape[1:]))


def weight(name: str, *shape: int) -> Weight:
    """A weight without numbers, for whoever asks it for its shape alone."""
    return cast("Weight", ShapeWeight(name, shape))


def linear(name: str, rows: int, columns: int, *, bias: bool = True) -> Linear:
    """A linear layer."""
    return Linear(weight(f"{name}.weight", rows, columns), weight(f"{name}.bias", rows) if bias else None)


def norm(name: str, width: int, eps: float) -> Norm:
    """A layer normalization."""
    return Norm("layer", weight(f"{name}.weight", width), weight(f"{name}.bias", width), eps)


def blocks(
    variant: Variant,
    *,
    layers: int,
    width: int,
    heads: int,
    head_dim: int,
    inner: int,
    eps: float,
    causal: bool,
    tokens: int = 0,
) -> tuple[Block, ...]:
    """A transformer's blocks; ``tokens`` is what the 2-D position term is for, if the variant has one."""

    def block() -> Block:
        q, k, v = _projections(variant, heads, head_dim, width, bias=True)
        attention = Attention(
            q=q,
            k=k,
            v=v,
            out=linear("out", width, heads * head_dim),
            heads=Heads(heads, variant.kv_heads_of(heads), head_dim),
            scale=head_dim**-0.5,
            causal=causal,
            term=ScoreTerm(1.0, weight("term", tokens, tokens)) if variant.position_2d else None,
        )
        mlp = MLP(None, linear("up", inner, width), linear("down", width, inner), "gelu")
        return Block(norm("attention_norm", width, eps), attention, norm("mlp_norm", width, eps), mlp)

    return tuple(block() for _ in range(layers))


def of_network(network: T) -> T:
    """A trained network's shapes, without its numbers."""
    return map_weights(network, lambda trained: weight(trained.name, *trained.shape))


def as_variant(network: T, variant: Variant) -> T:
    """The network with its projections shared as another variant shares them; all else is as it was.

    What has rows of keys and values has heads of the size that those would have apart.
    """

    def changed(attention: Attention) -> Attention:
        (query, _, _), (_, width) = attention.heads, attention.k.weight.shape
        heads = Heads(query, variant.kv_heads_of(query), attention.unshared // (2 * query))
        q, k, v = _projections(variant, query, heads.dim, width, bias=attention.q.bias is not None)
        return replace(attention, q=q, k=k, v=v, heads=heads, rows=None)

    return map_nodes(network, Attention, changed)


class LayerShape(NamedTuple):
    """What a layer's attention keeps: its heads, whether keys and values are one tensor, and what a token sees.

    One with a ``source`` keeps nothing: it reads what that layer keeps.
    """

    heads: Heads
    merged: bool
    window: int | None = None
    source: int | None = None


def with_layers(network: T, layers: Sequence[LayerShape]) -> T:
    """A decoder of shapes with what each of its layers keeps; one that keeps just that stays the object that it is."""
    given = iter(layers)

    def changed(block: Block) -> Block:
        heads, merged, window, source = shape = next(given)
        attention = block.attention
        if (attention.heads, attention.merged, attention.window, attention.source) == shape:
            return block
        (_, width), bias = attention.q.weight.shape, attention.q.bias is not None
        kv = heads.kv * heads.dim
        k = attention.q if attention.k is attention.q else linear("k", kv, width, bias=bias)
        v = k if merged else linear("v", kv, width, bias=bias)
        q = attention.q if k is attention.q else linear("q", heads.query * heads.dim, width, bias=bias)
        out = linear("out", width, heads.query * heads.dim, bias=attention.out.bias is not None)
        attention = replace(attention, q=q, k=k, v=v, out=out, heads=heads, window=window, source=source)
        return replace(block, attention=attention)

    return map_nodes(network, Block, changed)


def _projections(variant: Variant, heads: int, dim: int, width: int, *, bias: bool) -> tuple[Linear, Linear, Linear]:
    """Those of queries, keys and values: one object where they are shared. ``qvv3`` was folded into ``q-k=v``."""
    q = linear("q", heads * dim, width, bias=bias)
    k = q if variant.sharing.ties_queries else linear("k", variant.kv_heads_of(heads) * dim, width, bias=bias)
    merged = variant.sharing in (Sharing.K_IS_V, Sharing.ALL, Sharing.QVV3)
    return q, k, k if merged else linear("v", k.weight.shape[0], width, bias=bias)
