"""Scales that are whole multiples, 1 to 15, of their row's: rounding, GPTQ and tuning stay on that grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import read_golden

import edgeqkv
from edgeqkv import quantize
from edgeqkv.model.schemes import INT4, INT4_MULTIPLES, INT8_ROWS
from edgeqkv.model.weights import QuantizedWeight, Weight
from edgeqkv.quantize import QuantConfig
from edgeqkv.quantize.gptq import gptq
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.quantize.nearest import nearest

SCHEMES = {"int4": INT4_MULTIPLES, "int8": INT8_ROWS}


def check_grid(weight: QuantizedWeight) -> None:
    assert weight.row_scales is not None
    multiples = weight.scales / weight.row_scales[:, None]
    assert torch.allclose(multiples, multiples.round(), atol=1e-4)
    assert 1 <= multiples.round().min() <= multiples.round().max() <= 15


def random_weight() -> tuple[Weight, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(24, 96, generator=generator) * torch.rand(24, 96, generator=generator)
    correlated = torch.randn(400, 12, generator=generator) @ torch.randn(12, 96, generator=generator)
    return Weight("w", matrix), correlated + 0.1 * torch.randn(400, 96, generator=generator)


def test_to_nearest_loses_little_more_than_with_free_scales() -> None:
    weight, _ = random_weight()
    bound, free = nearest(weight, INT4_MULTIPLES), nearest(weight, INT4)
    check_grid(bound)
    lost, least = ((each.values() - weight.tensor).norm() for each in (bound, free))
    assert lost < 1.1 * least
    assert bound.row_scales is not None
    largest = weight.tensor.abs().amax(1)
    assert torch.allclose(bound.row_scales * 15 * 7, largest), "the highest multiple is what the largest number needs"
    assert bound.stored_bytes == 24 * 96 // 2 + 24 * 3 + 24 * 4, "a scale is a byte, and a row has one of four"


def test_gptq_is_better_than_rounding_and_on_the_grid() -> None:
    weight, x = random_weight()
    calibrated = gptq(weight, Inputs(x), INT4_MULTIPLES)
    assert isinstance(calibrated, QuantizedWeight)
    check_grid(calibrated)
    wanted = x @ weight.tensor.T
    lost, rounded = ((x @ each.values().T - wanted).norm() for each in (calibrated, nearest(weight, INT4_MULTIPLES)))
    assert lost < 0.7 * rounded


@pytest.mark.parametrize("tuning", [0, 3])
def test_a_model_stays_on_the_grid(tuning: int) -> None:
    model = edgeqkv.load(read_golden("k_eq_v_gqa").path).with_context(32)
    tokens = np.random.default_rng(0).integers(0, model.config.vocab_size, (8, 32))
    made = quantize.apply(model, QuantConfig("int4", "int8", tokens, tuning, SCHEMES))
    quantized = [weight for weight in made.weights if isinstance(weight, QuantizedWeight)]
    assert len(quantized) > 4
    for weight in quantized:
        if weight.scheme.bits == 4:
            check_grid(weight)
        else:
            assert weight.row_scales is None
            assert weight.scales.shape[1] == 1


def test_rows_of_a_weight_keep_their_scales() -> None:
    whole = nearest(random_weight()[0], INT4_MULTIPLES)
    part = whole.rows(3, 9)
    check_grid(part)
    assert torch.equal(part.values(), whole.values()[3:9])
