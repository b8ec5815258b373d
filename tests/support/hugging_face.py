"""Tiny random models of Hugging Face's classes, and what those compute."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from edgeqkv.checkpoints.huggingface import quiet

transformers = pytest.importorskip("transformers", reason="install edgeqkv[huggingface]")

VOCABULARY, POSITIONS = 61, 64

SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT2: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "n_embd": 32,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
OPT: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "word_embed_proj_dim": 32,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
NEO: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_layers": 2,
    "num_heads": 4,
    "max_position_embeddings": POSITIONS,
    "attention_types": [[["global", "local"], 1]],
    "bos_token_id": 1,
    "eos_token_id": 2,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2],
    "long_factor": [2.0, 2.5, 3.0],
    "partial_rotary_factor": 0.75,
}
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]

GEMMA4 = SMALL | {
    "num_hidden_layers": 3,
    "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    "sliding_window": 7,
    "head_dim": 8,
    "global_head_dim": 16,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 0,
    "attention_k_eq_v": True,
}

LATENT = SMALL | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 20,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 10,
}
DENSE = LATENT | {"first_k_dense_replace": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1}
SHARED = GEMMA4 | {
    "num_hidden_layers": 5,
    "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    "num_kv_shared_layers": 2,
    "num_global_key_value_heads": 1,
    "hidden_size_per_layer_input": 5,  # without, the original cannot share
}

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", GPT2),
    "gpt2 untied, odd scale": (
        "gpt2",
        GPT2 | {"tie_word_embeddings": False, "n_inner": 40, "scale_attn_by_inverse_layer_idx": True},
    ),
    "llama": ("llama", SMALL),
    "llama tied, one kv head": ("llama", SMALL | {"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "llama biased, wide heads": ("llama", SMALL | {"attention_bias": True, "mlp_bias": True, "head_dim": 12}),
    "llama 3 frequencies": ("llama", SMALL | {"rope_parameters": LLAMA3, "num_key_value_heads": 4}),
    "llama yarn": ("llama", SMALL | {"rope_parameters": YARN}),
    "mistral": ("mistral", SMALL | {"sliding_window": 7}),
    "mistral without window": ("mistral", SMALL | {"sliding_window": None, "head_dim": 6}),
    "qwen2": ("qwen2", SMALL | {"tie_word_embeddings": True}),
    "qwen2 windows": (
        "qwen2",
        SMALL | {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1, "num_hidden_layers": 3},
    ),
    "qwen3": ("qwen3", SMALL | {"head_dim": 16, "num_key_value_heads": 1}),
    "qwen3 biased": ("qwen3", SMALL | {"head_dim": 10, "attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": ("smollm3", SMALL | {"no_rope_layer_interval": 2, "num_hidden_layers": 4}),
    "smollm3 windows": (
        "smollm3",
        SMALL | {"no_rope_layers": [1, 0], "use_sliding_window": True, "sliding_window": 5, "mlp_bias": True},
    ),
    "gemma": ("gemma", SMALL | {"head_dim": 16, "num_key_value_heads": 1}),
    "gemma untied": ("gemma", SMALL | {"head_dim": 8, "tie_word_embeddings": False}),
    "gemma2": ("gemma2", SMALL | {"head_dim": 12, "sliding_window": 6, "query_pre_attn_scalar": 20}),
    "gemma2 low caps": (
        "gemma2",
        SMALL
        | {"attn_logit_softcapping": 1.5, "final_logit_softcapping": 2.0, "layer_types": MIXED, "num_hidden_layers": 3},
    ),
    "gemma3": ("gemma3_text", SMALL | {"head_dim": 12, "sliding_window": 8, "num_hidden_layers": 6}),
    "gemma3 mixed": (
        "gemma3_text",
        SMALL
        | {"head_dim": 8, "layer_types": MIXED, "num_hidden_layers": 3, "sliding_window": 5, "num_key_value_heads": 1},
    ),
    "gemma4 merged global layers": ("gemma4_text", GEMMA4 | {"num_global_key_value_heads": 1}),
    "gemma4 all merged": (
        "gemma4_text",
        GEMMA4 | {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2},
    ),
    "gemma4 separate, capped": (
        "gemma4_text",
        GEMMA4 | {"attention_k_eq_v": False, "final_logit_softcapping": 3.0, "tie_word_embeddings": False},
    ),
    "gemma4 shared, merged": ("gemma4_text", SHARED),
    "gemma4 shared, separate, double": (
        "gemma4_text",
        SHARED | {"attention_k_eq_v": False, "use_double_wide_mlp": True},
    ),
    "gemma4 two layers of one state": (
        "gemma4_text",
        SHARED
        | {
            "num_hidden_layers": 2,
            "layer_types": ["full_attention"] * 2,
            "num_kv_shared_layers": 1,
            "global_head_dim": 32,  # of which 8 channels are rotated
        },
    ),
    "gemma4 inputs of layers": (
        "gemma4_text",
        GEMMA4 | {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 67},
    ),
    "deepseek v2": ("deepseek_v2", DENSE),
    "deepseek v2, plain queries": ("deepseek_v2", DENSE | {"q_lora_rank": None, "attention_bias": True}),
    "deepseek v2, one layer": (
        "deepseek_v2",
        DENSE | {"num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2},
    ),
    "deepseek v3": ("deepseek_v3", DENSE | {"tie_word_embeddings": True}),
    "deepseek v3 yarn": (
        "deepseek_v3",
        DENSE | {"rope_interleave": False, "rope_parameters": YARN | {"mscale": 0.8, "mscale_all_dim": 0.7}},
    ),
    "minicpm3": ("minicpm3", LATENT | {"scale_emb": 3, "scale_depth": 1.1, "dim_model_base": 16}),
    "youtu": ("youtu", LATENT | {"q_lora_rank": 12}),
    "phi3": ("phi3", SMALL),
    "phi3 partial, window": (
        "phi3",
        SMALL
        | {
            "sliding_window": 11,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "partial_rotary_factor": 0.5},
        },
    ),
    "phi3 longrope": ("phi3", SMALL | {"rope_parameters": LONG, "original_max_position_embeddings": 32}),
    "granite": (
        "granite",
        SMALL
        | {
            "embedding_multiplier": 3.0,
            "attention_multiplier": 0.2,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
            "attention_bias": True,
        },
    ),
    "olmo2": ("olmo2", SMALL),
    "gpt neo": (
        "gpt_neo",
        NEO | {"num_layers": 3, "attention_types": [[["global", "local"], 1], [["local"], 1]], "window_size": 6},
    ),
    "gpt neo, untied": ("gpt_neo", NEO | {"tie_word_embeddings": False, "intermediate_size": 40}),
    "opt": ("opt", OPT),
    "opt untied, no biases": (
        "opt",
        OPT | {"tie_word_embeddings": False, "enable_bias": False, "activation_function": "gelu"},
    ),
    "starcoder2": ("starcoder2", SMALL | {"tie_word_embeddings": True}),
    "starcoder2 window, one kv head": (
        "starcoder2",
        SMALL | {"sliding_window": 6, "num_key_value_heads": 1, "use_bias": False, "tie_word_embeddings": False},
    ),
    "olmo2 one kv head": ("olmo2", SMALL | {"num_key_value_heads": 1, "attention_bias": True}),
}
"""Every family in a few odd shapes: its ``model_type``, and its config."""


def original(kind: str, **config: Any) -> Any:
    """A model of random weights, none of them ones or zeros that would hide a mistake."""
    torch.manual_seed(7)
    with quiet("making a model"):
        made = transformers.AutoConfig.for_model(kind, **config)
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(std=0.25)
            if "norm" in name or ".ln_" in name:
                weight.add_(1.0)
        for name, buffer in model.named_buffers():
            if name.endswith("layer_scalar"):
                buffer.fill_(0.8)
    return model


def saved(model: Any, directory: Path, *, dtype: torch.dtype = torch.float32, **options: Any) -> Path:
    """The directory, with the model in it."""
    with quiet("saving"):
        copy.deepcopy(model).to(dtype).save_pretrained(directory, **options)
    return directory


def named(name: str, directory: Path, **changes: Any) -> tuple[Any, Path]:
    """One of `SHAPES`, with changes to its config, and the directory with it."""
    kind, config = SHAPES[name]
    model = original(kind, **config | changes)
    return model, saved(model, directory)


@torch.inference_mode()
def logits(model: Any, tokens: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The original's logits at every position, all at once."""
    result: np.ndarray[Any, Any] = model(torch.as_tensor(tokens)[None]).logits[0].numpy()
    return result
