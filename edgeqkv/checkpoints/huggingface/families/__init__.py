"""The families of Hugging Face models, a module each, by what their config calls itself (``model_type``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from edgeqkv.checkpoints.huggingface.families import (
    deepseek_v2,
    deepseek_v3,
    gemma,
    gemma2,
    gemma3,
    gemma4,
    gpt2,
    gpt_neo,
    granite,
    llama,
    minicpm3,
    mistral,
    olmo2,
    opt,
    phi3,
    qwen2,
    qwen3,
    smollm3,
    starcoder2,
    youtu,
)
from edgeqkv.checkpoints.huggingface.family import Family

__all__ = ["FAMILIES"]

FAMILIES: Final[Mapping[str, Family]] = {
    "gpt2": gpt2.FAMILY,
    "gpt_neo": gpt_neo.FAMILY,
    "llama": llama.FAMILY,
    "mistral": mistral.FAMILY,
    "qwen2": qwen2.FAMILY,
    "qwen3": qwen3.FAMILY,
    "smollm3": smollm3.FAMILY,
    "gemma": gemma.FAMILY,
    "gemma2": gemma2.FAMILY,
    "gemma3_text": gemma3.FAMILY,
    "gemma4_text": gemma4.FAMILY,
    "phi3": phi3.FAMILY,
    "granite": granite.FAMILY,
    "olmo2": olmo2.FAMILY,
    "opt": opt.FAMILY,
    "starcoder2": starcoder2.FAMILY,
    "deepseek_v2": deepseek_v2.FAMILY,
    "deepseek_v3": deepseek_v3.FAMILY,
    "minicpm3": minicpm3.FAMILY,
    "youtu": youtu.FAMILY,
}
