"""What a model's records ask for, and the refusal of what the format cannot express."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from random_networks import HALVES, VOCABULARY, Random

from edgeqkv import UnsupportedError
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.model.layers import Heads
from edgeqkv.progress import silent
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import open_artifact

CONTEXT = 32


@pytest.mark.parametrize("form", ["stock", "portable"])
def test_an_export_computes_what_the_records_say(form: str, tmp_path: Path) -> None:
    r = Random()
    norms = {"q_norm": r.rms(8), "k_norm": r.rms(8, offset=1.0)}
    attention = r.attention(Heads(4, 2, 8), rope=HALVES, scale=0.5, **norms)
    block = r.block(attention, attention_post_norm=r.rms(), mlp=r.mlp(gated=True, activation="silu"))
    other = r.block(r.attention(Heads(2, 2, 8), merged=True), mlp=r.mlp(activation="relu"))
    model = r.model([block, other], logit_softcap=5.0).with_context(CONTEXT)
    spec = TargetSpec(form=form, weights="fp32", state="fp32", context=CONTEXT, chunk=8)
    artifact = TARGET.export(model, tmp_path, spec, silent)
    assert artifact.state_bytes == model.state_bytes(CONTEXT, 4)
    session = open_artifact(tmp_path, artifact, "executorch")
    tokens = np.random.default_rng(2).integers(0, VOCABULARY, CONTEXT)
    expected = sequence_logits(model, tokens)
    for start, stop in ((0, 8), (8, 16), (16, 17), (17, 20)):
        assert np.abs(session.feed(tokens[start:stop]) - expected[stop - 1]).max() < 5e-4


def test_what_cannot_be_expressed_is_named() -> None:
    r = Random()
    model = r.model([r.block(r.attention(merged=True, rope=HALVES))])
    spec = TargetSpec(form="stock", weights="fp32", state="fp32", context=CONTEXT, chunk=8)
    with pytest.raises(UnsupportedError, match="rotated keys of a merged state, which ExecuTorch exports cannot"):
        TARGET.export(model, Path("nowhere"), spec, silent)
