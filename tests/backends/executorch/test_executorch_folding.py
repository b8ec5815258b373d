"""One token behind many: the heads of a group go through the state together, with the numbers as before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from matrix import sampled

import edgeqkv
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.executorch.ops import LONG
from edgeqkv.backends.target import TargetSpec
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.pipeline.proof import TOLERANCES
from edgeqkv.progress import silent
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import open_artifact

CONTEXT, CHUNK = LONG + 32, 16

# float32 in another order of summation than the reference's; fp16 keeps 11 bits of what is stored and multiplied.
BOUNDS = {"fp32": 1e-4, "fp16": 3e-3, "int8": TOLERANCES["int8"]}


CASES = sampled(
    [
        ("q-k=v+gqa2", "stock", "fp32"),
        ("q-k=v+mqa", "static", "int8"),  # whose first tokens fill fewer rows than the group has heads
        ("q-k=v+gqa2", "static", "fp32"),
        ("qkv+mqa", "stock", "fp32"),
        ("q-k=v+mqa", "stock", "int8"),
        ("q-k=v+gqa2", "stock", "fp16"),
    ],
    lambda _, form, state: (form, state) if (form, state) in (("stock", "fp32"), ("static", "int8")) else None,
)


@pytest.mark.parametrize(("variant", "form", "state"), CASES)
def test_it_computes_the_same_at_every_position(tmp_path: Path, variant: str, form: str, state: str) -> None:
    sizes = {**TINY, "n_layer": 1, "n_positions": CONTEXT}
    path = write_random_checkpoint(tmp_path / "model.pt", variant, std=0.2, **sizes)
    model = with_state(edgeqkv.load(path), state, None) if state == "int8" else edgeqkv.load(path)
    spec = TargetSpec(form, "fp32", state, context=CONTEXT, chunk=CHUNK)
    artifact = TARGET.export(model, tmp_path, spec, silent)
    ids = np.random.default_rng(0).integers(0, TINY["vocab_size"], CONTEXT)
    expected = sequence_logits(model, ids)
    session = open_artifact(tmp_path, artifact, "executorch")
    for prompt in (1, LONG - 2, LONG, LONG + 1, LONG + CHUNK):
        session.reset()
        session.feed(ids[::-1].copy())  # so that the state is full of other tokens' rows
        session.reset()
        got = np.stack([session.feed(ids[:prompt]), *(session.feed([token]) for token in ids[prompt:])])
        assert np.abs(got - expected[prompt - 1 :]).max() < BOUNDS[state] * max(1.0, float(np.abs(expected).max()))
