"""OPT (Zhang et al. 2022): learned positions, the first of which is row 2 of their table."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Config, Family, Names

__all__ = ["FAMILY"]


def _refused(config: Config) -> str:
    if not config.do_layer_norm_before:
        return "it normalizes after the sum and not before each part, as only its size of 350M does"
    if config.word_embed_proj_dim != config.hidden_size:
        return f"its embeddings of {config.word_embed_proj_dim} channels are projected to {config.hidden_size}"
    if not config.layer_norm_elementwise_affine:
        return "its layer norms have no scale"
    return "it has no final normalization" if config._remove_final_layer_norm else ""


FAMILY: Final = Family(
    title="OPT",
    model_class="OPTForCausalLM",
    names=Names(
        base="model.decoder",
        positions="embed_positions",
        final_norm="final_layer_norm",
        attention_norm="self_attn_layer_norm",
        mlp_norm="final_layer_norm",
        out="self_attn.out_proj",
        gate=None,
        up="fc1",
        down="fc2",
    ),
    keys=frozenset(
        {
            "_remove_final_layer_norm",
            "activation_function",
            "do_layer_norm_before",
            "enable_bias",
            "ffn_dim",
            "layer_norm_elementwise_affine",
            "word_embed_proj_dim",
        }
    ),
    harmless=frozenset({"dropout", "init_std", "layerdrop", "prefix"}),
    rms=False,
    epsilon=1e-5,
    inner="ffn_dim",
    activation="activation_function",
    qkv_bias="enable_bias",
    out_bias="enable_bias",
    mlp_bias="enable_bias",
    first_position=2,
    rope=lambda config, layer: False,
    refused=_refused,
)
