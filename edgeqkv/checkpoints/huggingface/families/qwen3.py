"""Qwen3: each head of queries and keys is normalized, and heads need not divide the model's width."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family, Names

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Qwen3",
    model_class="Qwen3ForCausalLM",
    names=Names(q_norm="self_attn.q_norm", k_norm="self_attn.k_norm"),
    keys=frozenset({"use_sliding_window", "max_window_layers"}),
    qkv_bias="attention_bias",
    out_bias="attention_bias",
)
