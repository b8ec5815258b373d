"""GPT-Neo (Black et al. 2021; the TinyStories models): GPT-2 without a scale of scores, with windows in some layers."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgeqkv.checkpoints.huggingface.families import gpt2
from edgeqkv.checkpoints.huggingface.family import Config, Family

__all__ = ["FAMILY"]


def _is_local(config: Config, layer: int) -> bool:
    return bool(config.attention_layers[layer] == "local")


FAMILY: Final = Family(
    title="GPT-Neo",
    model_class="GPTNeoForCausalLM",
    names=replace(
        gpt2.FAMILY.names,
        qkv=None,
        q="attn.attention.q_proj",
        k="attn.attention.k_proj",
        v="attn.attention.v_proj",
        out="attn.attention.out_proj",
    ),
    keys=frozenset(
        {
            "activation_function",
            "attention_layers",
            "attention_types",
            "layer_norm_epsilon",
            "num_heads",
            "num_layers",
            "window_size",
        }
    ),
    harmless=gpt2.FAMILY.harmless | {"classifier_dropout", "embed_dropout", "resid_dropout"},
    ignored=r".*\.attn\.attention\.(bias|masked_bias)",  # saved causal masks
    rms=False,
    epsilon="layer_norm_epsilon",
    activation="activation_function",
    out_bias=True,
    mlp_bias=True,
    rope=lambda config, layer: False,
    window=_is_local,
    window_size="window_size",
    attention_scale=lambda config, dim, layer: 1.0,
)
