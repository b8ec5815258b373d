"""StarCoder 2 (Lozhkov et al. 2024): Mistral's attention, with layer norms, biases and an MLP without a gate."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family, Names

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="StarCoder 2",
    model_class="Starcoder2ForCausalLM",
    names=Names(gate=None, up="mlp.c_fc", down="mlp.c_proj"),
    keys=frozenset({"norm_epsilon", "use_bias"}),
    harmless=frozenset({"embedding_dropout", "residual_dropout"}),
    rms=False,
    epsilon="norm_epsilon",
    qkv_bias="use_bias",
    out_bias="use_bias",
    mlp_bias="use_bias",
    window=lambda config, layer: True,
)
