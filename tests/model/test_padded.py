"""One row for keys and values that are rotated in part: the same numbers as keys that are made when they are read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from random_networks import HALVES, POSITIONS, VOCABULARY, Random
from reference_session import TorchSession

from edgeqkv.model.layers import Attention, Heads, Linear, Norm, PaddedRows, Rope
from edgeqkv.model.model import Model
from edgeqkv.model.padded import padded
from edgeqkv.reference.outputs import sequence_logits

TOKENS = np.random.default_rng(1).integers(0, VOCABULARY, 20)
HEADS = Heads(4, 2, 12)
PARTIAL = Rope(4, (1.0, 0.2))
PROPORTIONAL = Rope(12, (1.0, 0.3, 0.0, 0.0, 0.0, 0.0))
PLAIN = Norm("rms", None, None, 1e-6)


def biased(r: Random, attention: Attention) -> Attention:
    keys = Linear(attention.k.weight, r.weight(HEADS.kv * HEADS.dim))
    return replace(attention, q=Linear(attention.q.weight, r.weight(HEADS.query * HEADS.dim)), k=keys, v=keys)


def attention(**rules: Any) -> Attention:
    return Random(4).attention(HEADS, merged=True, **rules)


R = Random(5)
LAYERS = {
    "first channels": attention(rope=PARTIAL),
    "neighbours, a factor": attention(rope=Rope(6, (1.0, 0.3, 0.1), interleaved=True, attention_factor=1.2)),
    "pairs that do not turn": attention(rope=PROPORTIONAL),
    "all norms": attention(rope=PROPORTIONAL, q_norm=R.rms(12, offset=1.0), k_norm=R.rms(12), v_norm=PLAIN),
    "key norms": attention(rope=PARTIAL, k_norm=R.rms(12, offset=1.0), v_norm=PLAIN),
    "query norms": attention(rope=PARTIAL, q_norm=R.rms(12), window=6),
    "biases": biased(R, attention(rope=PARTIAL, k_norm=R.rms(12), v_norm=PLAIN)),
}


def model(layer: Attention) -> Model:
    return Random(6).model([Random(7).block(layer)])


@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_same_layer(name: str) -> None:
    before = LAYERS[name]
    after = padded(before)
    assert isinstance(after.rows, PaddedRows)
    assert after.merged
    assert (after.value_dim, after.heads.dim) == (12, 12 + after.rows.rope.dims)
    expected = sequence_logits(model(before), TOKENS)
    assert np.abs(expected).max() > 1
    # What is normalized is not normalized again as it is read, which changes as much as its epsilon does.
    assert np.abs(sequence_logits(model(after), TOKENS) - expected).max() <= 2e-4
    session = TorchSession(model(after), chunk=7)
    last = [session.feed(TOKENS[start:stop]) for start, stop in ((0, 9), (9, 10), (10, 20))][-1]
    assert np.abs(last - expected[-1]).max() <= 2e-4
    (spec,) = model(after).state(POSITIONS)
    assert (spec.role, spec.kv_heads, spec.dim) == ("kv", 2, after.heads.dim)


def test_a_layer_that_reads_another_ones_rows() -> None:
    r = Random(8)
    rules = {"rope": PARTIAL, "k_norm": r.rms(12), "v_norm": PLAIN}
    first = attention(q_norm=r.rms(12), **rules)
    other = replace(r.attention(HEADS, q_norm=r.rms(12), **rules), k=first.k, v=first.v, source=0)
    rows = [padded(first)]
    rows.append(padded(other, rows[0]))
    assert rows[0].k is rows[1].k
    logits = [
        sequence_logits(Random(6).model([Random(7).block(each) for each in layers]), TOKENS)
        for layers in ((first, other), rows)
    ]
    assert np.abs(logits[0] - logits[1]).max() <= 2e-4


@pytest.mark.parametrize(
    "layer",
    [
        Random().attention(HEADS, rope=PARTIAL),  # keys and values of their own
        attention(rope=None),
        Random().attention(Heads(3, 1, 8), merged=True, rope=HALVES),  # nothing is left unrotated
        attention(rope=PARTIAL, k_norm=R.rms(12)),  # keys that are no multiple of the values
        attention(rope=PARTIAL, v_norm=PLAIN),
        attention(rope=PARTIAL, k_norm=replace(R.rms(12), eps=1e-3), v_norm=PLAIN),
        attention(rope=replace(PROPORTIONAL, attention_factor=1.1)),
    ],
    ids=[
        "separate",
        "no positions",
        "all rotated",
        "key norm alone",
        "value norm alone",
        "epsilons",
        "a factor of all",
    ],
)
def test_others_stay_as_they_are(layer: Attention) -> None:
    assert padded(layer) is layer
