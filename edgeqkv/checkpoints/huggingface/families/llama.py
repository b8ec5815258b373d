"""Llama (Touvron et al. 2023), with what its descendants scale its frequencies by; SmolLM and SmolLM2 are such."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Llama",
    model_class="LlamaForCausalLM",
    harmless=frozenset({"pretraining_tp", "is_llama_config"}),
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
)
