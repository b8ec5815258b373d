"""Gemma 2: normalization after each part too, caps on scores and logits, and a window in every other layer."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.families.gemma import embedding_scale
from edgeqkv.checkpoints.huggingface.family import Family, Names

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Gemma 2",
    model_class="Gemma2ForCausalLM",
    names=Names(
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
    ),
    keys=frozenset({"query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping", "hidden_activation"}),
    harmless=frozenset({"cache_implementation", "sliding_window_size", "hidden_act"}),
    activation="hidden_activation",
    norm_offset=1.0,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    attention_scale=lambda config, dim, layer: float(config.query_pre_attn_scalar**-0.5),
    embedding_scale=embedding_scale,
)
