"""SmolLM3: Llama with layers that have no positions at all."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="SmolLM3",
    model_class="SmolLM3ForCausalLM",
    keys=frozenset({"no_rope_layers", "no_rope_layer_interval", "use_sliding_window", "max_window_layers"}),
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    mlp_bias="mlp_bias",
    rope=lambda config, layer: bool(config.no_rope_layers[layer]),  # 1 says that it has them
)
