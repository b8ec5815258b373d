"""GPT-2 (Radford et al. 2019): learned positions, and linear layers that are stored as ``[in, out]``."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Config, Family, Names

__all__ = ["FAMILY"]


def _attention_scale(config: Config, dim: int, layer: int) -> float:
    scale = dim**-0.5 if config.scale_attn_weights else 1.0
    return scale / (layer + 1) if config.scale_attn_by_inverse_layer_idx else scale


FAMILY: Final = Family(
    title="GPT-2",
    model_class="GPT2LMHeadModel",
    names=Names(
        base="transformer",
        tokens="wte",
        positions="wpe",
        layer="h",
        final_norm="ln_f",
        attention_norm="ln_1",
        mlp_norm="ln_2",
        qkv="attn.c_attn",
        out="attn.c_proj",
        gate=None,
        up="mlp.c_fc",
        down="mlp.c_proj",
    ),
    keys=frozenset(
        {
            "n_embd",
            "n_head",
            "n_inner",
            "n_layer",
            "n_positions",
            "activation_function",
            "layer_norm_epsilon",
            "scale_attn_weights",
            "scale_attn_by_inverse_layer_idx",
        }
    ),
    harmless=frozenset(
        {
            "n_ctx",
            "attn_pdrop",
            "embd_pdrop",
            "resid_pdrop",
            "reorder_and_upcast_attn",
            "summary_activation",
            "summary_first_dropout",
            "summary_proj_to_labels",
            "summary_type",
            "summary_use_proj",
        }
    ),
    ignored=r".*\.attn\.(bias|masked_bias)",  # saved causal masks
    rms=False,
    epsilon="layer_norm_epsilon",
    inner="n_inner",
    activation="activation_function",
    qkv_bias=True,
    out_bias=True,
    mlp_bias=True,
    transposed=True,
    rope=lambda config, layer: False,
    attention_scale=_attention_scale,
)
