"""The dimensions of a model of 300 million parameters, for tests that plan exports of it."""

from __future__ import annotations

from typing import Final

from edgeqkv.model.config import DecoderConfig

M300: Final = DecoderConfig(
    layers=20,
    hidden_size=1024,
    heads=16,
    kv_heads=4,
    head_dim=64,
    intermediate_size=4096,
    vocab_size=50304,
    positions=2048,
    norm_eps=1e-5,
    tied_head=True,
)
