"""Mistral (Jiang et al. 2023): Llama whose layers see a window."""

from __future__ import annotations

from typing import Final

from edgeqkv.checkpoints.huggingface.family import Family

__all__ = ["FAMILY"]

FAMILY: Final = Family(title="Mistral", model_class="MistralForCausalLM", window=lambda config, layer: True)
