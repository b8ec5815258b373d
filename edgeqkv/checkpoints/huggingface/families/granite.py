"""Granite (IBM): Llama with a factor wherever one can be."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Granite",
    model_class="GraniteForCausalLM",
    keys=frozenset({"embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"}),
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
    attention_scale=lambda config, dim, layer: float(config.attention_multiplier),
    embedding_scale=lambda config: float(config.embedding_multiplier),
    residual_scale=lambda config: float(config.residual_multiplier),
    logit_scale=lambda config: 1 / config.logits_scaling,
)
