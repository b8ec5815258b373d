"""Every family against its original class: at once, chunk by chunk, token by token, and what it writes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hugging_face import POSITIONS, SHAPES, VOCABULARY, logits, named
from reference_session import TorchSession

import edgeqkv
from edgeqkv.checkpoints.huggingface.families import FAMILIES
from edgeqkv.reference.outputs import sequence_logits

TOKENS = np.random.default_rng(3).integers(3, VOCABULARY, 32)
TOLERANCE = 1e-4  # float32 in another order of summation, on logits of about 5
# In float32 the original is 9.2e-5 from itself in float64, and so are we (3e-5 at once, 9.0e-5 token by token): the
# order of sums is the processor's, and two of them may lie on two sides of the true one.
TOLERANCES = {"gemma4 shared, merged": 2e-4}


@pytest.mark.parametrize("name", SHAPES)
def test_a_family_computes_what_its_original_does(name: str, tmp_path: Path) -> None:
    original, directory = named(name, tmp_path)
    model = edgeqkv.load(directory)
    wanted, tolerance = logits(original, TOKENS), TOLERANCES.get(name, TOLERANCE)
    assert np.abs(wanted).max() > 0.5
    assert np.abs(sequence_logits(model, TOKENS) - wanted).max() <= tolerance

    session = TorchSession(model, chunk=7)
    for start, stop in ((0, 12), *((i, i + 1) for i in range(12, len(TOKENS)))):
        assert np.abs(session.feed(TOKENS[start:stop]) - wanted[stop - 1]).max() <= tolerance

    prompt = TOKENS[:5]
    count = 24
    with torch.inference_mode():
        written = original.generate(
            torch.as_tensor(prompt)[None], max_new_tokens=count, min_new_tokens=count, do_sample=False, pad_token_id=0
        )
    session.reset()
    row, found = session.feed(prompt), []
    for _ in range(count):
        row[2] = -np.inf  # the end, which `generate` was told not to choose
        found.append(int(row.argmax()))
        row = session.feed([found[-1]])
    assert found == written[0, len(prompt) :].tolist()

    parameters = {id(weight): weight.numel() for weight in original.parameters()}
    unused = FAMILIES[SHAPES[name][0]].first_position * model.config.hidden_size  # rows that no token has
    assert model.parameters == sum(parameters.values()) - unused
    assert model.config.positions == (32 if "longrope" in name else POSITIONS)


def test_every_family_is_tested() -> None:
    assert {kind for kind, _ in SHAPES.values()} == set(FAMILIES)
