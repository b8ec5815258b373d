"""DeepSeek-V3: its predecessor's attention, and what else its config may say."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from edgeqkv.checkpoints.huggingface.families import deepseek_v2

__all__ = ["FAMILY"]

FAMILY: Final = replace(
    deepseek_v2.FAMILY,
    title="DeepSeek-V3",
    model_class="DeepseekV3ForCausalLM",
    harmless=deepseek_v2.FAMILY.harmless | {"num_mtp_layers", "num_nextn_predict_layers"},  # which guess ahead
    mlp_bias=False,
)
