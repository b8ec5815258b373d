"""Youtu-LLM (Tencent): DeepSeek-V3's latent attention with dense layers, for small machines."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family
from edgeqkv.checkpoints.huggingface.latent import KEYS

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Youtu-LLM",
    model_class="YoutuForCausalLM",
    keys=KEYS,
    harmless=frozenset({"embedding_initializer_range"}),
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
    latent=True,
)
