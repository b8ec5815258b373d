"""Gemma (2024): scales that are stored as what they are above 1, and tokens' rows multiplied by the width's root."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Config, Family

__all__ = ["FAMILY", "embedding_scale"]


def embedding_scale(config: Config) -> float:
    """What all Gemmas multiply a token's row by."""
    return float(config.hidden_size**0.5)


FAMILY: Final = Family(
    title="Gemma",
    model_class="GemmaForCausalLM",
    harmless=frozenset({"hidden_activation"}),  # which its original does not read
    norm_offset=1.0,
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    embedding_scale=embedding_scale,
)
