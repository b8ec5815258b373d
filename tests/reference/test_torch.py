from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from conftest import Golden
from hypothesis import given, settings
from hypothesis import strategies as st
from reference_session import TorchSession

import edgeqkv
from edgeqkv.reference.outputs import sequence_logits

# The originals ran the same float32 arithmetic in another order (fused projections, another attention kernel):
# a few units in the last place of logits up to 4.5. Measured: 3.1e-6.
TOLERANCE = 2e-5


def test_the_reference_is_the_original(golden: Golden) -> None:
    model = edgeqkv.load(golden.path)
    assert np.abs(sequence_logits(model, golden.ids) - golden.logits).max() < TOLERANCE


def test_wanted_rows_are_the_same_rows(gqa_golden: Golden) -> None:
    model = edgeqkv.load(gqa_golden.path)
    some = sequence_logits(model, gqa_golden.ids, rows=[3, 63])
    assert np.abs(some - gqa_golden.logits[[3, 63]]).max() < TOLERANCE


def test_a_long_sequence_is_attended_to_in_blocks(gqa_golden: Golden, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeqkv.reference.attention._QUERY_BLOCK", 10)
    model = edgeqkv.load(gqa_golden.path)
    assert np.abs(sequence_logits(model, gqa_golden.ids) - gqa_golden.logits).max() < TOLERANCE


def test_with_a_state_it_is_the_original_too(golden: Golden) -> None:
    model = edgeqkv.load(golden.path)
    session = TorchSession(model, chunk=16)
    rows = [session.feed(golden.ids[:20]), *(session.feed([token]) for token in golden.ids[20:])]
    assert np.abs(np.stack(rows) - golden.logits[19:]).max() < TOLERANCE
    assert session.state_bytes == model.state_bytes(64, 4)
    assert session.state_bytes == sum(tensor.nbytes for tensor in session.runner._ops.state.values())


@settings(deadline=None, max_examples=25)
@given(
    cuts=st.sets(st.integers(1, 63), max_size=6),
    chunk=st.integers(1, 64),
    name=st.sampled_from(["qkv", "k_eq_v_mqa"]),
)
def test_however_a_sequence_is_cut_its_logits_are_the_same(cuts: set[int], chunk: int, name: str) -> None:
    from conftest import read_golden

    golden = read_golden(name)
    session = TorchSession(edgeqkv.load(golden.path), chunk=chunk)
    edges = [0, *sorted(cuts), 64]
    for start, stop in pairwise(edges):
        logits = session.feed(golden.ids[start:stop])
        assert np.abs(logits - golden.logits[stop - 1]).max() < TOLERANCE
