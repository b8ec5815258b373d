"""Gemma 4's text model: global layers whose keys and values are one projection, and wider heads in those.

A global layer's values are ``rms(p)`` of its projection p, and its keys the same, scaled, a part of them rotated: one
row holds both (`edgeqkv.model.padded`). The last layers may read the state of an earlier one, and each layer may have
an input of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeqkv.checkpoints.huggingface.families.gemma import embedding_scale
from edgeqkv.checkpoints.huggingface.family import Config, Family, Names, is_sliding

__all__ = ["FAMILY"]


def _layer_config(config: Config, layer: int) -> Config:
    return config.per_layer_config[layer]


def _sources(config: Config) -> Mapping[int, int]:
    """The last layers, for each the last one of its type before them."""
    types: list[str] = config.layer_types
    first = len(types) - int(config.num_kv_shared_layers)
    return {layer: max(i for i in range(first) if types[i] == types[layer]) for layer in range(first, len(types))}


FAMILY: Final = Family(
    title="Gemma 4 (text)",
    model_class="Gemma4ForCausalLM",
    names=Names(
        attention_post_norm="post_attention_layernorm",
        mlp_norm="pre_feedforward_layernorm",
        mlp_post_norm="post_feedforward_layernorm",
        q_norm="self_attn.q_norm",
        k_norm="self_attn.k_norm",
        output_scale="layer_scalar",
    ),
    keys=frozenset(
        {
            "attention_k_eq_v",
            "final_logit_softcapping",
            "hidden_activation",
            "hidden_size_per_layer_input",
            "num_kv_shared_layers",
            "per_layer_config",
            "use_double_wide_mlp",
            "vocab_size_per_layer_input",
        }
    ),
    harmless=frozenset(
        {
            "moe_intermediate_size",  # these are of experts, which `enable_moe_block` asks for
            "num_experts",
            "top_k_experts",
        }
    ),
    unsupported={
        "enable_moe_block": "mixtures of experts",
        "use_bidirectional_attention": "attention to what comes later",
    },
    activation="hidden_activation",
    qkv_bias="attention_bias",
    out_bias="attention_bias",
    layer_config=_layer_config,
    merged=lambda config, layer: bool(config.attention_k_eq_v) and not is_sliding(config, layer),
    value_norm=True,
    attention_scale=lambda config, dim, layer: 1.0,
    embedding_scale=embedding_scale,
    sources=_sources,
    inner_multiple=lambda config, layer: 2 if config.use_double_wide_mlp and layer in _sources(config) else 1,
)
