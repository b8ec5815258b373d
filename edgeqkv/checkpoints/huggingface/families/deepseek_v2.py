"""DeepSeek-V2's latent attention, in models whose layers are dense."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family
from edgeqkv.checkpoints.huggingface.latent import KEYS, mixes_experts

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="DeepSeek-V2",
    model_class="DeepseekV2ForCausalLM",
    keys=KEYS,
    harmless=frozenset(
        {
            "moe_intermediate_size",  # these are of experts, of which there are none (`mixes_experts`)
            "n_group",
            "n_shared_experts",
            "norm_topk_prob",
            "num_experts_per_tok",
            "output_router_logits",
            "pretraining_tp",
            "routed_scaling_factor",
            "topk_group",
            "topk_method",
        }
    ),
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
    latent=True,
    refused=mixes_experts,
)
