"""A family in one file: rotary positions, rms norms, gated MLPs and grouped heads whose keys and values are one.

It stands for whatever family somebody adds: it is registered by one line (`register`), and everything else it brings
is written in the records of `edgeqkv.model`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from edgeqkv import checkpoints
from edgeqkv.model.architectures.decoder import Decoder
from edgeqkv.model.layers import MLP, Attention, Block, Heads, Linear, Norm, Rope
from edgeqkv.model.model import DecoderConfig, Model, Source
from edgeqkv.model.variants import Variant
from edgeqkv.model.weights import Weight

LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, INNER, VOCABULARY, POSITIONS = 2, 32, 4, 2, 8, 48, 64, 40

this = __import__(__name__)


def register() -> None:
    checkpoints.FORMATS = (this, *checkpoints.FORMATS)


def write(path: Path) -> None:
    """A checkpoint of random weights."""
    torch.manual_seed(11)
    shapes = {"table": (VOCABULARY, HIDDEN), "norm": (HIDDEN,)}
    for layer in range(LAYERS):
        shapes |= {
            f"{layer}.q": (HEADS * DIM, HIDDEN),
            f"{layer}.kv": (KV_HEADS * DIM, HIDDEN),
            f"{layer}.out": (HIDDEN, HEADS * DIM),
            f"{layer}.gate": (INNER, HIDDEN),
            f"{layer}.up": (INNER, HIDDEN),
            f"{layer}.down": (HIDDEN, INNER),
            f"{layer}.norm_1": (HIDDEN,),
            f"{layer}.norm_2": (HIDDEN,),
        }
    tensors = {name: torch.randn(shape) * (0.3 if len(shape) > 1 else 0.1) for name, shape in shapes.items()}
    torch.save({"toy": 1, "tensors": tensors}, path)


def matches(archive: Any) -> bool:
    return "toy" in archive.contents


def read(archive: Any, heads: int | None = None) -> Model:
    tensors = {name: Weight(name, tensor) for name, tensor in archive.contents["tensors"].items()}

    def norm(name: str) -> Norm:
        return Norm("rms", tensors[name], None, 1e-6, offset=1.0)

    rope = Rope(DIM, tuple(10000.0 ** (-2 * i / DIM) for i in range(DIM // 2)))
    blocks = []
    for layer in range(LAYERS):
        q, kv, out, gate, up, down = (
            Linear(tensors[f"{layer}.{name}"]) for name in ("q", "kv", "out", "gate", "up", "down")
        )
        attention = Attention(q, kv, kv, out, Heads(HEADS, KV_HEADS, DIM), DIM**-0.5, causal=True, rope=rope)
        blocks.append(Block(norm(f"{layer}.norm_1"), attention, norm(f"{layer}.norm_2"), MLP(gate, up, down, "silu")))
    table = tensors["table"]
    return Model(
        variant=Variant.parse(f"q-k=v+gqa{KV_HEADS}"),
        config=DecoderConfig(LAYERS, HIDDEN, HEADS, KV_HEADS, DIM, INNER, VOCABULARY, POSITIONS, 1e-6, tied_head=True),
        network=Decoder(table, None, tuple(blocks), norm("norm"), table),
        source=Source(archive.path, "toy", "Toy"),
    )
