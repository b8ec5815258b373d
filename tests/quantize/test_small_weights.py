"""Matrices of very small numbers keep what ordinary ones keep, and are refused where a format cannot hold them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Golden

import edgeqkv
from edgeqkv import UnsupportedError
from edgeqkv.model.schemes import INT4, INT8, INT8_ROWS, LUT4, ROW, Palette, Scheme
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight
from edgeqkv.quantize.gptq import gptq
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.quantize.nearest import rounded
from edgeqkv.quantize.state import with_state

SCHEMES = pytest.mark.parametrize("scheme", [INT4, INT8, INT8_ROWS, LUT4], ids=["int4", "int8", "int8-rows", "lut4"])
SMALL = pytest.mark.parametrize("std", [7e-5, 2.5e-6, 1e-9])


def matrix(std: float) -> Weight:
    return Weight("w", torch.randn(32, 256, generator=torch.Generator().manual_seed(0)) * std)


def fitting(scheme: Scheme | Palette) -> Scheme | Palette:
    return Scheme(scheme.name, scheme.bits, 256) if isinstance(scheme, Scheme) and scheme.block == ROW else scheme


def relative_error(weight: Weight, stored: Weight) -> float:
    return float((stored.values() - weight.tensor).norm() / weight.tensor.norm())


@SCHEMES
@SMALL
def test_small_matrices_are_rounded_as_well_as_ordinary_ones(scheme: Scheme | Palette, std: float) -> None:
    ordinary, small = matrix(0.02), matrix(std)
    expected = relative_error(ordinary, rounded(ordinary, fitting(scheme)))
    assert relative_error(small, rounded(small, fitting(scheme))) == pytest.approx(expected, rel=0.1)


@SCHEMES
@SMALL
def test_and_calibrated_as_well(scheme: Scheme | Palette, std: float) -> None:
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(1))
    ordinary, small = matrix(0.02), matrix(std)
    # Inputs as small as the weights: the moments of the inputs have no floor either.
    expected = relative_error(ordinary, gptq(ordinary, Inputs(x), fitting(scheme)))
    assert relative_error(small, gptq(small, Inputs(x * std), fitting(scheme))) == pytest.approx(expected, rel=0.1)


@SCHEMES
def test_what_float16_restores_of_a_row_is_exact_but_for_a_power_of_two(scheme: Scheme | Palette) -> None:
    """What a format stores that keeps scales and tables in float16: they, divided by the row's unit."""
    tensor = torch.cat([matrix(std).tensor for std in (0.02, 7e-5, 2.5e-6, 1e-9)])
    stored = rounded(Weight("w", tensor), fitting(scheme))
    assert stored.units is not None
    held = stored.values() / stored.units[:, None]
    assert torch.equal(held.half().float(), held)
    assert (torch.frexp(stored.units).mantissa == 0.5).all()
    if isinstance(stored, QuantizedWeight):
        assert (stored.scales / stored.units[:, None]).min() >= 2**-14  # no subnormal scale, which a chip may flush
    assert rounded(Weight("w", tensor[:32]), fitting(scheme)).units is None


@SCHEMES
def test_zeros_stay_zeros(scheme: Scheme | Palette) -> None:
    tensor = matrix(2.5e-6).tensor
    tensor[:16] = 0
    tensor[16:, :128] = 0
    stored = rounded(Weight("w", tensor), fitting(scheme))
    assert isinstance(stored, QuantizedWeight | PalettizedWeight)
    # Of a palette, a group of rows; entries between zeros and other numbers lie where most of both are.
    zero = stored.values()[:16] if isinstance(scheme, Palette) else stored.values()[tensor == 0]
    assert not zero.any()
    assert stored.values()[16:, 128:].any()
    assert stored.values().isfinite().all()
    assert stored.units is None or stored.units.isfinite().all()


def test_a_matrix_that_float16_cannot_hold_is_named() -> None:
    with pytest.raises(
        UnsupportedError, match=r"'w' reaches no more than .*e-0[78], of which fp16 loses \d+%; use weights fp32"
    ):
        matrix(1e-8).with_precision("fp16")
    assert matrix(7e-5).with_precision("fp16").precision == "fp16"
    assert Weight("w", torch.zeros(4, 4)).with_precision("fp16").precision == "fp16"
    bias = Weight("b", torch.full((32,), 1e-9))  # of no weight beside what it is added to
    assert bias.with_precision("fp16").precision == "fp16"


@pytest.mark.parametrize("factor", [0.0, 1e-6])
def test_an_int8_state_of_small_numbers(gqa_golden: Golden, factor: float) -> None:
    model = edgeqkv.load(gqa_golden.path)
    linears = {block.attention.k for block in model.network.blocks}
    small = {linear.weight for linear in linears} | {linear.bias for linear in linears}
    shrunk = model.with_changed_weights(
        lambda weight: Weight(weight.name, weight.tensor * factor) if weight in small else weight
    )
    scales = with_state(shrunk, "int8", None).state_scales
    ordinary = with_state(model, "int8", None).state_scales
    assert scales is not None
    assert ordinary is not None
    assert all(np.isfinite(scale) and scale > 0 for scale in scales.of.values())
    if factor:
        first = next(iter(scales.of))
        assert scales.of[first] == pytest.approx(ordinary.of[first] * factor, rel=0.01)
