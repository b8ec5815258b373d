"""Decoders of random weights with any rules: for what no checkpoint in the tests has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.layers import MLP, Attention, Block, Heads, Linear, Norm, Rope
from edgeqkv.model.model import DecoderConfig, Model, Source
from edgeqkv.model.variants import Sharing, Variant
from edgeqkv.model.weights import Weight

WIDTH, INNER, VOCABULARY, POSITIONS = 24, 40, 31, 48

HALVES = Rope(8, (1.0, 0.3, 0.1, 0.03))
PARTIAL = Rope(4, (1.0, 0.2), attention_factor=1.25)
GROUPED = Heads(3, 1, 8)

INTERLEAVED = Rope(8, (1.0, 0.3, 0.1, 0.03), interleaved=True)


class Random:
    """Random layers, with names of their own."""

    def __init__(self, seed: int = 0, width: int = WIDTH, inner: int = INNER) -> None:
        self.width, self.inner = width, inner
        self._generator = torch.Generator().manual_seed(seed)
        self._count = 0

    def weight(self, *shape: int, mean: float = 0.0, std: float = 0.3) -> Weight:
        self._count += 1
        return Weight(f"w{self._count}", torch.empty(shape).normal_(mean, std, generator=self._generator))

    def linear(self, rows: int, columns: int, *, bias: bool = False) -> Linear:
        return Linear(self.weight(rows, columns), self.weight(rows) if bias else None)

    def rms(self, size: int | None = None, **options: Any) -> Norm:
        return Norm("rms", self.weight(size or self.width, mean=1.0), None, 1e-6, **options)

    def layer_norm(self) -> Norm:
        size = self.width
        return Norm("layer", self.weight(size, mean=1.0), self.weight(size), 1e-5)

    def attention(self, heads: Heads = GROUPED, *, merged: bool = False, **rules: Any) -> Attention:
        query, kv = heads.query * heads.dim, heads.kv * heads.dim
        keys = self.linear(kv, self.width)
        rules = {"scale": heads.dim**-0.5, "causal": True, **rules}
        values = keys if merged else self.linear(kv, self.width)
        return Attention(self.linear(query, self.width), keys, values, self.linear(self.width, query), heads, **rules)

    def mlp(self, *, gated: bool = False, activation: Any = "gelu") -> MLP:
        gate = self.linear(self.inner, self.width) if gated else None
        return MLP(gate, self.linear(self.inner, self.width), self.linear(self.width, self.inner), activation)

    def block(self, attention: Attention, **options: Any) -> Block:
        norms = {"attention_norm": self.rms(), "mlp_norm": self.rms()}
        mlp = options.pop("mlp", None) or self.mlp()
        return Block(**{**norms, **options}, attention=attention, mlp=mlp)

    def model(self, blocks: Sequence[Block], *, learned: bool = False, **rules: Any) -> Model:
        table = self.weight(VOCABULARY, self.width, std=1.0)
        positions = self.weight(POSITIONS, self.width) if learned else None
        network = Decoder(table, positions, tuple(blocks), self.rms(), table, **rules)
        heads = blocks[0].attention.heads
        config = DecoderConfig(
            layers=len(blocks),
            hidden_size=self.width,
            heads=heads.query,
            kv_heads=heads.kv,
            head_dim=heads.dim,
            intermediate_size=self.inner,
            vocab_size=VOCABULARY,
            positions=POSITIONS,
            norm_eps=1e-6,
            tied_head=True,
        )
        sharing = Sharing.K_IS_V if blocks[0].attention.merged else Sharing.QKV
        return Model(Variant(sharing, heads.kv), config, network, Source(Path("random"), "random", "random"))


def windowed_models() -> dict[str, Model]:
    """Models whose layers see only so far back: rings of a context of 32 and chunks of 8, merged, rotated and mixed.

    Their matrices can be quantized in blocks of 32.
    """
    r = Random(3, width=32, inner=64)
    one = Heads(4, 1, 8)
    far = {"rope": PARTIAL, "window": 26}  # with a chunk, the whole context
    return {
        "window": r.model([r.block(r.attention(Heads(4, 2, 8), rope=HALVES, window=5))]),
        "merged window": r.model([r.block(r.attention(one, merged=True, rope=INTERLEAVED, window=5))]),
        "windows": r.model(
            [
                r.block(r.attention(Heads(4, 2, 8), rope=HALVES, window=6, softcap=2.0)),
                r.block(r.attention(Heads(2, 2, 16), merged=True)),
                r.block(r.attention(one, merged=True, window=1)),
                r.block(r.attention(one, **far, q_norm=r.rms(8), k_norm=r.rms(8, offset=1.0))),
            ]
        ),
    }
