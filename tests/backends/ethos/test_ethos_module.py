"""The module that is compiled for Ethos-U85, before anything is rounded: it computes what the model does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import DATA

import edgeqkv
from edgeqkv.backends.ethos.module import Step
from edgeqkv.reference.ops import TorchOps

CONTEXT = 12


@pytest.mark.parametrize("name", ["k_eq_v_gqa", "qkv", "q_eq_k_eq_v"])
@torch.no_grad()
def test_prefill_and_decode_are_the_models(name: str) -> None:
    """Two chunks, the second of which is filled up, and single tokens to the last position."""
    model = edgeqkv.load(DATA / f"{name}.pt").with_context(CONTEXT)
    tokens = np.random.default_rng(3).integers(0, int(model.config.vocab_size or 1), CONTEXT)
    wanted = model.network.outputs(TorchOps(), torch.from_numpy(tokens)[None])[0]
    prefill, decode = Step(model, CONTEXT, 4).eval(), Step(model, CONTEXT, 1).eval()
    state = [torch.zeros(1, each.kv_heads, CONTEXT, each.dim) for each in decode.specs]
    position = 0
    for step, count in ((prefill, 4), (prefill, 3), *[(decode, 1)] * 5):
        ids = torch.zeros(1, step.tokens, dtype=torch.int32)
        ids[0, :count] = torch.from_numpy(tokens[position : position + count])
        positions = torch.arange(position, position + step.tokens, dtype=torch.int32)[None]
        index = (torch.tensor([count - 1], dtype=torch.int32),) if step.tokens > 1 else ()
        logits, *rows = step(ids, positions, *index, *state)
        for each, new in zip(state, rows, strict=True):
            each[:, :, position : position + count] = new[:, :, :count]
        position += count
        # What is hidden is hidden by e⁻²⁴, and the rest is float32 in another order.
        assert torch.allclose(logits[0], wanted[position - 1], atol=1e-4), (position, count)
    assert position == CONTEXT
