"""What is rounded while a model runs, and that calibration and tuning see it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from random_networks import VOCABULARY, Random

from edgeqkv import quantize
from edgeqkv.model.layers import Heads, Linear
from edgeqkv.model.schemes import INT4, LUT4
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.quantize import QuantConfig, calibrated
from edgeqkv.quantize.activations import as_multiplied, scheme_of
from edgeqkv.quantize.gptq import gptq
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.quantize.nearest import rounded
from edgeqkv.quantize.tuned import _trained, _TunedOps

ROUNDED = replace(INT4, activations=8)


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40), st.integers(2, 8))
def test_a_number_moves_by_half_a_step_at_most_and_zero_stays(numbers: list[float], bits: int) -> None:
    x = torch.tensor([*numbers, 0.0])
    step = float(x.max().clamp(min=0) - x.min().clamp(max=0)) / ((1 << bits) - 1)
    given_ = as_multiplied(x, replace(INT4, activations=bits))
    # At the ends the zero point's own rounding adds another half.
    assert float((given_ - x).abs().max()) <= step * 1.001 + 1e-30
    assert float(given_[-1]) == 0.0
    assert len(given_.unique()) <= 1 << bits


def test_each_token_is_rounded_by_itself_and_gradients_pass() -> None:
    x = torch.randn(2, 3, 16, requires_grad=True)
    together = as_multiplied(x, ROUNDED)
    assert torch.equal(together[1, 2], as_multiplied(x[1, 2], ROUNDED))
    together.sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("scheme", [None, "fp16", INT4, LUT4])
def test_what_the_target_does_not_round_stays(scheme: object) -> None:
    x = torch.randn(3, 16)
    assert as_multiplied(x, scheme) is x  # type: ignore[arg-type]


def test_tuning_multiplies_what_the_target_multiplies() -> None:
    x, matrix = torch.randn(5, 32), Weight("w", torch.randn(4, 32))
    for scheme in (INT4, ROUNDED):
        weight = rounded(matrix, scheme)
        assert isinstance(weight, QuantizedWeight)
        ops = _TunedOps({weight: _trained(weight)})
        expected = F.linear(as_multiplied(x, scheme_of(weight)), weight.values())
        assert torch.allclose(ops.linear(x, Linear(weight)), expected, atol=1e-6)
        assert torch.allclose(ops.logits(x, weight), expected, atol=1e-6)


def test_calibration_is_for_what_the_target_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Inputs] = []

    def noted(weight: Weight, inputs: Inputs, scheme: Any) -> Any:
        seen.append(inputs)
        return gptq(weight, inputs, scheme)

    monkeypatch.setattr(calibrated, "gptq", noted)
    r = Random(1, width=32, inner=64)
    model = r.model([r.block(r.attention(Heads(4, 1, 8)))])
    schemes = {"int4": replace(INT4, activations=3)}
    tokens = np.arange(64).reshape(2, 32) % VOCABULARY
    quantize.apply(model, QuantConfig("int4", None, tokens, 0, schemes))
    assert len(seen) > 3
    for inputs in seen[1:]:  # the first is the head, on the original's states
        assert all(len(token.unique()) <= 8 for token in inputs.x)
        assert inputs.wanted is not None
        assert max(len(token.unique()) for token in inputs.wanted) > 8
