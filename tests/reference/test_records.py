"""Everything that a record can ask for, against formulas that are written out here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
from random_networks import (
    HALVES,
    INTERLEAVED,
    PARTIAL,
    POSITIONS,
    VOCABULARY,
    WIDTH,
    Random,
)
from reference_session import TorchSession

from edgeqkv.errors import InputError
from edgeqkv.model.layers import Attention, Heads, Linear, Norm, Rope, ScoreTerm
from edgeqkv.model.model import Model
from edgeqkv.model.walk import linears, norms
from edgeqkv.reference.ops import TorchOps
from edgeqkv.reference.outputs import sequence_logits

Tensor = torch.Tensor
TOKENS = np.random.default_rng(0).integers(0, VOCABULARY, 20)


def turned(row: Tensor, position: int, rope: Rope) -> Tensor:
    """One head's row at one position, pair by pair."""
    result = row.clone()
    for pair, frequency in enumerate(rope.inverse_frequencies):
        i, j = (2 * pair, 2 * pair + 1) if rope.interleaved else (pair, pair + rope.dims // 2)
        c, s = (f(position * frequency) * rope.attention_factor for f in (math.cos, math.sin))
        result[i], result[j] = row[i] * c - row[j] * s, row[j] * c + row[i] * s
    return result


def normed(x: Tensor, norm: Norm | None) -> Tensor:
    if norm is None:
        return x
    scale = 1.0 if norm.scale is None else norm.scale.tensor + norm.offset
    bias = 0.0 if norm.bias is None else norm.bias.tensor
    if norm.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * scale + bias


def applied(x: Tensor, linear: Linear) -> Tensor:
    return x @ linear.weight.tensor.T + (0.0 if linear.bias is None else linear.bias.tensor)


def attended(x: Tensor, a: Attention) -> Tensor:
    """Head by head, row by row."""
    heads, rows = a.heads, len(x)
    of_queries, of_keys = a.joint_norms or (None, None)
    q, k, v = (
        normed(applied(x, linear), norm).view(rows, -1, heads.dim)
        for linear, norm in ((a.q, of_queries), (a.k, of_keys), (a.v, None))
    )
    q, k, v = normed(q, a.q_norm), normed(k, a.k_norm), normed(v, a.v_norm)
    if a.rope is not None:
        q, k = (
            torch.stack([torch.stack([turned(h, i, a.rope) for h in row]) for i, row in enumerate(x)]) for x in (q, k)
        )
    mixed = torch.zeros(rows, heads.query, heads.dim)
    for head in range(heads.query):
        group = head // (heads.query // heads.kv)
        for i in range(rows):
            scores = []
            for j in range(rows):
                score = q[i, head] @ k[j, group] * a.scale
                score = score if a.softcap is None else a.softcap * torch.tanh(score / a.softcap)
                seen = not a.causal or (j <= i and (a.window is None or j > i - a.window))
                scores.append(score if seen else torch.tensor(-torch.inf))
            mixed[i, head] = torch.stack(scores).softmax(0) @ v[:, group]
    return applied(mixed.flatten(1), a.out)


def expected(model: Model, tokens: np.ndarray) -> np.ndarray:
    network, functions = model.network, torch.nn.functional
    activations = {
        "gelu": functions.gelu,
        "gelu_tanh": lambda x: 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "silu": lambda x: x / (1 + torch.exp(-x)),
        "relu": lambda x: x.clamp_min(0),
    }
    x = network.token_table.tensor[tokens] * network.embedding_scale
    if network.position_table is not None:
        x = x + network.position_table.tensor[: len(tokens)]
    for block in network.blocks:
        mixed = normed(attended(normed(x, block.attention_norm), block.attention), block.attention_post_norm)
        x = x + mixed * block.residual_scale
        y, mlp = normed(x, block.mlp_norm), block.mlp
        activation = activations[mlp.activation]
        up = applied(y, mlp.up)
        inner = activation(up) if mlp.gate is None else activation(applied(y, mlp.gate)) * up
        x = x + normed(applied(inner, mlp.down), block.mlp_post_norm) * block.residual_scale
        x = x * block.output_scale
    logits = normed(x, network.final_norm) @ network.head.tensor.T * network.logit_scale
    cap = network.logit_softcap
    return (logits if cap is None else cap * torch.tanh(logits / cap)).numpy()


def one_block(**rules: Any) -> Model:
    r = Random()
    return r.model([r.block(r.attention(**rules))])


def with_block(r: Random, **options: Any) -> Model:
    return r.model([r.block(r.attention(), **options)])


def with_norms(r: Random) -> tuple[Norm, Norm]:
    return r.rms(8), r.rms(8, offset=1.0)


FEATURES: dict[str, Model] = {
    "plain": one_block(),
    "rope": one_block(rope=HALVES),
    "partial rope": one_block(rope=PARTIAL),
    "interleaved rope": one_block(rope=INTERLEAVED),
    "merged": one_block(merged=True),
    "merged rope": one_block(merged=True, rope=HALVES),
    "window": one_block(window=5),
    "rope and window": one_block(window=7, rope=PARTIAL, heads=Heads(4, 2, 8)),
    "score softcap": one_block(softcap=0.7),
    "scale": one_block(scale=0.9),
    "post norms": with_block(r := Random(), attention_post_norm=r.rms(), mlp_post_norm=r.rms()),
    "offset": with_block(r := Random(), attention_post_norm=r.rms(offset=1.0)),
    "layer norm": with_block(r := Random(), attention_post_norm=r.layer_norm()),
    "gated": with_block(r := Random(), mlp=r.mlp(gated=True, activation="silu")),
    "gelu_tanh": with_block(r := Random(), mlp=r.mlp(gated=True, activation="gelu_tanh")),
    "relu": with_block(r := Random(), mlp=r.mlp(activation="relu")),
    "head norms": one_block(rope=HALVES, q_norm=(n := with_norms(Random(9)))[0], k_norm=n[1]),
    "merged head norms": one_block(merged=True, rope=HALVES, q_norm=n[0], k_norm=n[1]),
    "joint norms": one_block(rope=HALVES, joint_norms=((r := Random(5)).rms(24), r.rms(8))),
    "value norms": one_block(rope=HALVES, v_norm=Norm("rms", None, None, 1e-6)),
    "residual and output scale": with_block(Random(), residual_scale=0.3, output_scale=0.7),
    "logit scale": (r := Random()).model([r.block(r.attention())], logit_scale=0.4, logit_softcap=2.0),
    "norms behind alone": with_block(
        r := Random(), attention_norm=None, mlp_norm=None, attention_post_norm=r.rms(), mlp_post_norm=r.rms()
    ),
    "logit softcap": (r := Random()).model([r.block(r.attention())], logit_softcap=2.0),
    "embedding scale": (r := Random()).model([r.block(r.attention())], embedding_scale=WIDTH**0.5, learned=True),
    "layers that differ": (r := Random()).model(
        [
            r.block(r.attention(Heads(3, 1, 8), rope=HALVES, window=6)),
            r.block(r.attention(Heads(2, 2, 12), merged=True, rope=Rope(12, (1.0, 0.4, 0.2, 0.1, 0.0, 0.0)))),
        ]
    ),
}


@pytest.mark.parametrize("name", FEATURES)
def test_a_feature_is_its_formula(name: str) -> None:
    model = FEATURES[name]
    assert np.abs(sequence_logits(model, TOKENS) - expected(model, TOKENS)).max() < 2e-4


@pytest.mark.parametrize("chunk", [1, 7])
@pytest.mark.parametrize("name", FEATURES)
def test_chunk_by_chunk_is_the_whole_sequence(name: str, chunk: int) -> None:
    model = FEATURES[name]
    session, whole = TorchSession(model, chunk=chunk), sequence_logits(model, TOKENS)
    for _ in range(2):
        for start in range(0, len(TOKENS), chunk):
            logits = session.feed(TOKENS[start : start + chunk])
            last = min(start + chunk, len(TOKENS)) - 1
            assert np.abs(logits - whole[last]).max() < 2e-4
        session.reset()


def test_a_window_stores_no_more_than_it_sees() -> None:
    model = FEATURES["layers that differ"]
    assert [(spec.name, spec.kv_heads, spec.dim, spec.length) for spec in model.state(POSITIONS)] == [
        ("k_0", 1, 8, 6),
        ("v_0", 1, 8, 6),
        ("kv_1", 2, 12, POSITIONS),
    ]
    assert model.state_bytes(POSITIONS, 2) == 2 * (2 * 8 * 6 + 2 * 12 * POSITIONS)
    assert [spec.length for spec in model.state(4)] == [4, 4, 4]
    # A call's first token still sees a window when its last one has written its row.
    assert [spec.length for spec in model.state(POSITIONS, 8)] == [13, 13, POSITIONS]
    assert [spec.length for spec in model.state(12, 8)] == [12, 12, 12]
    assert model.causal


def test_attention_without_a_state_with_a_position_term_and_a_cap() -> None:
    r = Random()
    attention = r.attention(Heads(2, 2, 8), causal=False, softcap=1.5, term=ScoreTerm(0.8, r.weight(6, 6)))
    x = torch.randn(2, 6, 16, generator=torch.Generator().manual_seed(1))
    heads = x.view(2, 6, 2, 8).transpose(1, 2)
    assert attention.term is not None
    scores = heads @ heads.transpose(-1, -2) * attention.scale * 0.8
    scores = 1.5 * torch.tanh(scores / 1.5) + attention.term.bias.tensor
    wanted = (scores.softmax(-1) @ heads).transpose(1, 2).flatten(2)
    assert torch.allclose(TorchOps().attention(0, x, x, x, attention), wanted, atol=1e-5)


def test_a_context_without_a_table_of_positions() -> None:
    model = FEATURES["rope"].with_context(10)
    assert model.config.positions == 10
    with pytest.raises(InputError, match="trained for 10 positions; choose 1 to 10"):
        model.with_context(11)
    with pytest.raises(InputError, match="learned, so they cannot be extrapolated"):
        FEATURES["embedding scale"].with_context(POSITIONS + 1)


def test_the_walk_finds_what_is_there_once() -> None:
    model = FEATURES["merged head norms"]
    block = model.network.blocks[0]
    attention = block.attention
    assert linears(model.network) == (attention.q, attention.k, attention.out, block.mlp.up, block.mlp.down)
    assert norms(model.network) == (
        block.attention_norm, attention.q_norm, attention.k_norm, block.mlp_norm, model.network.final_norm
    )  # fmt: skip
    assert len(model.weights) == len({id(weight) for weight in model.weights}) == 5 + 5 + 1
    changed = model.with_changed_weights(lambda weight: dataclasses.replace(weight, precision="fp16"))
    assert changed.network.head is changed.network.token_table
    assert changed.network.blocks[0].attention.merged
