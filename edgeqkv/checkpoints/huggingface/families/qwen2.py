"""Qwen2 and 2.5: Llama with biases of queries, keys and values, of which its config says nothing."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family

__all__ = ["FAMILY"]

FAMILY: Final = Family(
    title="Qwen2",
    model_class="Qwen2ForCausalLM",
    keys=frozenset({"use_sliding_window", "max_window_layers"}),  # which its config's layers already follow
    qkv_bias=True,
)
