"""Which conversions there are: what a change of basis can reach, and why it cannot reach the rest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgeqkv.errors import InputError, UnsupportedError
from edgeqkv.model.model import language_model
from edgeqkv.model.variants import Sharing, Variant

if TYPE_CHECKING:
    from edgeqkv.model.layers import Attention
    from edgeqkv.model.model import Model

__all__ = ["check_reachable", "smaller_layers", "target_of"]

_REACHABLE = (Sharing.QKV, Sharing.K_IS_V)


def target_of(model: Model, variant: str | Variant, layers: Sequence[int] | None = None) -> Variant:
    """The variant that layers of a model are to become, in its shortest name.

    ``layers`` are those that are to be converted; None: all that would store less.

    Raises:
        InputError: the model is an encoder, or a layer would store no less than it does, or is none.
        UnsupportedError: no conversion leads there, or none leaves a layer.
        VariantError: the name is unknown, or the heads do not divide so.
    """
    language_model(model, "conversion")
    wanted = variant if isinstance(variant, Variant) else Variant.parse(variant)
    wanted = wanted.for_heads(model.config.heads)
    if wanted.sharing not in _REACHABLE or wanted.position_2d:
        raise UnsupportedError(f"nothing converts to {wanted}: {_why_not(wanted)}")
    blocks, smaller = model.network.blocks, smaller_layers(model, wanted)
    for layer in range(len(blocks)) if layers is None else layers:
        if not 0 <= layer < len(blocks):
            raise InputError(
                f"there is no layer {layer} in {model.source.path.name}: its layers are 0 to {len(blocks) - 1}"
            )
        check_reachable(blocks[layer].attention, f"layer {layer} of {model.source.path.name}")
        if layers is not None and layer not in smaller:
            raise InputError(
                f"layer {layer} of {model.source.path.name} is {blocks[layer].attention.variant}, and {wanted} would "
                f"store no less; leave it out"
            )
    if not smaller or (layers is not None and not layers):
        raise InputError(
            f"{model.source.path.name} is {model.described}, and {wanted} would store no less; choose a variant with a "
            f"smaller state, such as {Variant(Sharing.K_IS_V, _half(model))}"
        )
    return wanted


def smaller_layers(model: Model, variant: Variant) -> tuple[int, ...]:
    """The layers that would store less as this variant."""
    attentions = enumerate(block.attention for block in model.network.blocks)
    return tuple(
        layer
        for layer, attention in attentions
        if variant.kv_heads_of(attention.heads.query) * variant.sharing.tensors
        < attention.heads.kv * len(attention.roles)
    )


def check_reachable(attention: Attention, where: str) -> None:
    """Raise `UnsupportedError` if something stands between the projections and the scores that no map passes."""
    if attention.rows is not None or attention.source is not None:
        what = "has one row for keys and values already" if attention.source is None else "reads another layer's state"
        raise UnsupportedError(f"{where} {what}: there is nothing to convert in it")
    if attention.rope is not None:
        raise UnsupportedError(
            f"{where} rotates queries and keys (rotary positions), and a change of basis can only move from the keys "
            f"into the queries if it commutes with every rotation. Ways that exist retrain the model: with some "
            f"channels left unrotated (MHA2MLA, TransMLA), or with shared projections from the start"
        )
    if attention.q_norm is not None or attention.k_norm is not None:
        raise UnsupportedError(
            f"{where} normalizes its queries or keys, and a change of basis does not pass through a normalization; "
            f"such a model is to be trained with shared projections"
        )
    if attention.softcap is not None or attention.term is not None:
        what = "caps its scores" if attention.term is None else "adds the 2-D position term to its scores"
        raise UnsupportedError(f"{where} {what}, which conversion does not know; train it with shared projections")

    if attention.v.bias is not None and attention.out.bias is None:
        raise UnsupportedError(
            f"{where} has a bias on its values and none on its output, which would have to take it up; give the output "
            f"a bias of zeros"
        )


def _why_not(variant: Variant) -> str:
    instead = "what can be reached is q-k=v and qkv, each with +gqaN or +mqa"
    if variant.position_2d:
        return f"the 2-D position term is trained into a model; {instead}"
    if variant.sharing is Sharing.QVV3:
        return f"it computes what q-k=v does, through one more matrix; {instead}"
    return (
        f"a change of basis can make keys and values one tensor, because queries and output take up what differs, but "
        f"nothing takes up a difference of queries and keys. Such a model has to be trained; {instead}"
    )


def _half(model: Model) -> int | None:
    kv_heads = model.variant.kv_heads_of(model.config.heads)
    return kv_heads if model.variant.sharing.tensors > 1 else max(1, kv_heads // 2)
