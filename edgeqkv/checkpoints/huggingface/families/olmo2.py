"""OLMo 2: normalization after each part and not before it, and of all queries and all keys of a token together."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family, Names

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="OLMo 2",
    model_class="Olmo2ForCausalLM",
    names=Names(
        attention_norm=None,
        attention_post_norm="post_attention_layernorm",
        mlp_norm=None,
        mlp_post_norm="post_feedforward_layernorm",
        q_norm="self_attn.q_norm",
        k_norm="self_attn.k_norm",
    ),
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    joint_norms=True,
)
