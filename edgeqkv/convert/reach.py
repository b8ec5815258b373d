"""Which conversions there are: what a change of basis can reach, and why it cannot reach the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeqkv.errors import InputError, UnsupportedError
from edgeqkv.model.model import language_model
from edgeqkv.model.variants import Sharing, Variant

if TYPE_CHECKING:
    from edgeqkv.model.layers import Attention
    from edgeqkv.model.model import Model

__all__ = ["check_reachable", "target_of"]

_REACHABLE = (Sharing.QKV, Sharing.K_IS_V)


def target_of(model: Model, variant: str | Variant) -> Variant:
    """The variant that a model is to become, in its shortest name.

    Raises:
        InputError: the model is an encoder, or would store no less than it does.
        UnsupportedError: no conversion leads there, or none leaves this model.
        VariantError: the name is unknown, or the heads do not divide so.
    """
    language_model(model, "conversion")
    wanted = variant if isinstance(variant, Variant) else Variant.parse(variant)
    wanted = wanted.for_heads(model.config.heads)
    if wanted.sharing not in _REACHABLE or wanted.position_2d:
        raise UnsupportedError(f"nothing converts to {wanted}: {_why_not(wanted)}")
    for layer, block in enumerate(model.network.blocks):
        check_reachable(block.attention, f"layer {layer} of {model.source.path.name}")
    before, after = (v.reduction(model.config.heads) for v in (model.variant, wanted))
    if after <= before:
        raise InputError(
            f"{model.source.path.name} is {model.variant}, and {wanted} would store no less; choose a variant with a "
            f"smaller state, such as {Variant(Sharing.K_IS_V, _half(model))}"
        )
    return wanted


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
