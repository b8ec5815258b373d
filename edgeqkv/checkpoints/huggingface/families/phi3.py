"""Phi-3: Llama whose projections are fused, and which may rotate a part of each head."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family, Names

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Phi-3",
    model_class="Phi3ForCausalLM",
    names=Names(qkv="self_attn.qkv_proj", gate_up="mlp.gate_up_proj"),
    keys=frozenset({"original_max_position_embeddings", "partial_rotary_factor"}),
    harmless=frozenset({"embd_pdrop", "resid_pdrop"}),
    window=lambda config, layer: True,
)
