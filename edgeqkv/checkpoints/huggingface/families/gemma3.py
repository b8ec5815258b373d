"""Gemma 3's text model: Gemma 2 with normalized heads, and other frequencies where a layer has a window."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgeqkv.checkpoints.huggingface.families import gemma2

__all__ = ["FAMILY"]

FAMILY: Final = replace(
    gemma2.FAMILY,
    title="Gemma 3 (text)",
    model_class="Gemma3ForCausalLM",
    names=replace(gemma2.FAMILY.names, q_norm="self_attn.q_norm", k_norm="self_attn.k_norm"),
    harmless=gemma2.FAMILY.harmless | {"sliding_window_pattern"},  # which its config's layers already follow
)
