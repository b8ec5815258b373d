"""The reference, called by tensor names and roles as an export is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from conftest import read_encoder_golden, read_golden
from random_networks import HALVES, POSITIONS, VOCABULARY, Random

import edgeqkv
from edgeqkv.reference.outputs import encoder_outputs, sequence_logits
from edgeqkv.reference.runner import ReferenceRunner


@dataclass(frozen=True)
class Spec:
    name: str
    role: str


@dataclass(frozen=True)
class Graph:
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...] = (Spec("logits", "logits"),)


def test_a_decoder_call_by_call() -> None:
    r = Random()
    model = r.model([r.block(r.attention(merged=True, rope=HALVES, window=9)), r.block(r.attention(rope=HALVES))])
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 30)
    graph = Graph((Spec("ids", "tokens"), Spec("at", "start")))
    runner, whole = ReferenceRunner(model), sequence_logits(model, tokens)
    assert runner.state_bytes == model.state_bytes(POSITIONS, 4)
    for _ in range(2):  # a call at position 0 begins anew
        for start, stop in ((0, 16), (16, 17), (17, 30)):
            (logits,) = runner.call(graph, {"ids": tokens[None, start:stop], "at": np.array([start])}).values()
            assert np.abs(logits[0] - whole[stop - 1]).max() < 2e-4
    runner.close(graph)


def test_positions_and_a_row() -> None:
    golden = read_golden("qkv")
    model = edgeqkv.load(golden.path)
    graph = Graph((Spec("ids", "tokens"), Spec("positions", "positions"), Spec("row", "logit_index")))
    inputs = {"ids": golden.ids[None, :8], "positions": np.arange(8)[None], "row": np.array([5])}
    logits = ReferenceRunner(model, context=16).call(graph, inputs)["logits"]
    assert np.abs(logits[0] - golden.logits[5]).max() < 1e-4


def test_an_encoder() -> None:
    golden = read_encoder_golden("vit_digits_qvv3")
    model = edgeqkv.load(golden.path)
    assert (model.causal, model.state(1), model.config.kind) == (False, (), "encoder")
    runner = ReferenceRunner(model)
    assert runner.state_bytes == 0
    logits = runner.call(Graph((Spec("pixels", "pixels"),)), {"pixels": golden.inputs})["logits"]
    assert np.array_equal(logits, encoder_outputs(model, golden.inputs))
