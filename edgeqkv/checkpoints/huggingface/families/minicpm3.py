"""MiniCPM3: latent attention with dense layers, and factors as Granite's."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family
from edgeqkv.checkpoints.huggingface.latent import KEYS

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="MiniCPM3",
    model_class="MiniCPM3ForCausalLM",
    keys=KEYS | {"scale_emb", "scale_depth", "dim_model_base"},
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
    latent=True,
    interleaved=False,
    embedding_scale=lambda config: float(config.scale_emb),
    residual_scale=lambda config: float(config.scale_depth / config.num_hidden_layers**0.5),
    logit_scale=lambda config: config.dim_model_base / config.hidden_size,
)
