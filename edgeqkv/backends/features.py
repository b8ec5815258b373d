"""What a network asks of whoever computes it, read off its records, and the check that a target has it."""

from __future__ import annotations

from collections.abc import Iterator

from edgeqkv.errors import UnsupportedError
from edgeqkv.model.layers import Attention, Block, Norm
from edgeqkv.model.model import Network
from edgeqkv.model.walk import norms

__all__ = ["check_features", "features"]


def features(network: Network) -> frozenset[str]:
    """Names of what this network has beyond plain attention, layer normalization, GELU and learned positions."""
    return frozenset(_features(network))


def check_features(network: Network, title: str, allowed: frozenset[str]) -> None:
    """Refuse a network before anything is written.

    Args:
        network: what is to be exported.
        title: the target's name for people.
        allowed: what of `features` the target can express.

    Raises:
        UnsupportedError: it has more; the message names it.
    """
    if missing := sorted(features(network) - allowed):
        raise UnsupportedError(f"this model has {', '.join(missing)}, which {title} exports cannot express yet")


def _features(network: Network) -> Iterator[str]:
    for norm in norms(network):
        yield from _of_norm(norm)
    for block in network.blocks:
        yield from _of_block(block)
    if len({block.attention.heads for block in network.blocks}) > 1:
        yield "layers with different heads"
    if len({block.attention.merged for block in network.blocks}) > 1:
        yield "layers that share differently"
    if getattr(network, "logit_softcap", None) is not None:
        yield "a logit softcap"


def _of_norm(norm: Norm) -> Iterator[str]:
    if norm.kind == "rms":
        yield "rms normalization"
    if norm.offset:
        yield "normalization scales with an offset"
    if norm.scale is None:
        yield "normalization without scale"


def _of_block(block: Block) -> Iterator[str]:
    if block.mlp.activation != "gelu":
        yield f"the activation {block.mlp.activation}"
    if block.input is not None:
        yield "layers with inputs of their own"
    yield from _of_attention(block.attention)


def _of_attention(attention: Attention) -> Iterator[str]:
    found = {
        "rotary positions": attention.rope,
        "an attention window": attention.window,
        "an attention softcap": attention.softcap,
        "query or key normalization": attention.q_norm or attention.k_norm,
        "value normalization": attention.v_norm,
        "rows that are keys and values": attention.rows,
        "layers that read another layer's state": attention.source,
        "a position term in causal attention": attention.term if attention.causal else None,
        "normalized or rotated keys of a merged state": (attention.rope or attention.k_norm)
        if attention.causal and attention.merged
        else None,
        "attention among fewer KV heads without a state": None
        if attention.causal or attention.heads.query == attention.heads.kv
        else attention.heads,
    }
    yield from (name for name, value in found.items() if value is not None)
