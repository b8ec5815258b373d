from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import TINY, Golden
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeqkv
from edgeqkv import UnsupportedError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model import walk
from edgeqkv.model.weights import QuantizedWeight, Scheme, Weight
from edgeqkv.quantize import SCHEMES, QuantConfig, apply
from edgeqkv.quantize.gptq import gptq
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.quantize.nearest import nearest
from edgeqkv.reference.outputs import sequence_logits


@st.composite
def weights(draw: st.DrawFn) -> tuple[Weight, Scheme]:
    scheme = draw(st.sampled_from([Scheme("int4", 4, 32), Scheme("int8", 8, 64)]))
    shape = (draw(st.integers(1, 5)), scheme.block * draw(st.integers(1, 3)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    size = 10.0 ** draw(st.integers(-3, 3))
    return Weight("w", torch.randn(shape, generator=generator) * size), scheme


@settings(deadline=None)
@given(weights())
def test_rounding_is_off_by_half_a_step_at_most(drawn: tuple[Weight, Scheme]) -> None:
    weight, scheme = drawn
    result = nearest(weight, scheme)
    assert result.codes.min() >= scheme.lowest
    assert result.codes.max() <= scheme.highest
    steps = result.scales.repeat_interleave(scheme.block, 1)
    # Half a step, and a little for the division's own rounding.
    assert ((result.values() - weight.tensor).abs() <= 0.500001 * steps).all()


@settings(deadline=None)
@given(weights())
def test_what_is_restored_in_half_precision_is_exact(drawn: tuple[Weight, Scheme]) -> None:
    weight, scheme = drawn
    result = nearest(weight, scheme)
    every_code = torch.arange(scheme.lowest, scheme.highest + 1).float()
    products = every_code[:, None] * result.scales.flatten()[None]
    assert torch.equal(products.half().float(), products)


@settings(deadline=None)
@given(weights())
def test_quantizing_what_is_quantized_changes_nothing(drawn: tuple[Weight, Scheme]) -> None:
    weight, scheme = drawn
    once = nearest(weight, scheme)
    full = once.codes.view(len(once.codes), -1, scheme.block).abs().amax(-1) == scheme.highest
    again = nearest(Weight("w", once.values()), scheme)
    same = (again.codes == once.codes).view(len(once.codes), -1, scheme.block).all(-1)
    assert same[full].all()


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_weights_that_float16_cannot_restore_are_named(name: str) -> None:
    tensor = torch.zeros(2, 128)
    tensor[1, 3] = -7e4
    with pytest.raises(UnsupportedError, match=r"'w' reaches 7.*e\+04, beyond float16's largest number 65504"):
        nearest(Weight("w", tensor), SCHEMES[name])


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_some_rows_at_a_time_make_no_difference(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    weight = Weight("w", torch.randn(7, 256, generator=torch.Generator().manual_seed(0)))
    whole = nearest(weight, SCHEMES[name])
    monkeypatch.setattr("edgeqkv.model.weights._VALUES_AT_ONCE", 600)
    parts = nearest(weight, SCHEMES[name])
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.scales, whole.scales)
    assert torch.equal(parts.values(), whole.codes * whole.scales.repeat_interleave(SCHEMES[name].block, 1))


def test_zeros_stay_zeros() -> None:
    result = nearest(Weight("w", torch.zeros(2, 64)), SCHEMES["int4"])
    assert not result.values().any()
    assert result.scales.isfinite().all()


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_calibration_makes_products_better_than_rounding(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    scheme = Scheme(name, SCHEMES[name].bits, 32)
    weight = Weight("w", torch.randn(48, 96, generator=generator))
    # Correlated inputs, as activations are; what one column gets wrong another can make up for.
    x = torch.randn(2000, 24, generator=generator) @ torch.randn(24, 96, generator=generator)
    x += 0.1 * torch.randn(2000, 96, generator=generator)

    def error(candidate: QuantizedWeight) -> float:
        return float((x @ (candidate.values() - weight.tensor).T).square().mean())

    calibrated = gptq(weight, Inputs(x), scheme)
    assert error(calibrated) < 0.5 * error(nearest(weight, scheme))
    assert calibrated.codes.min() >= scheme.lowest
    assert calibrated.codes.max() <= scheme.highest


@pytest.mark.parametrize("calibrated", [False, True])
def test_what_is_quantized_and_what_is_not(gqa_golden: Golden, calibrated: bool) -> None:
    model = edgeqkv.load(gqa_golden.path)
    text = np.random.default_rng(0).integers(0, 257, (4, 64)) if calibrated else None
    result = apply(model, QuantConfig("int4", calibration=text))
    network = result.network
    assert network.head is network.token_table
    assert network.blocks[0].attention.k is network.blocks[0].attention.v
    quantized = [weight for weight in result.weights if isinstance(weight, QuantizedWeight)]
    assert len(quantized) == 1 + len({linear.weight for linear in walk.linears(model.network)})
    rest = [weight for weight in result.weights if not isinstance(weight, QuantizedWeight)]
    assert {weight.precision for weight in rest} == {"fp16"}
    assert result.parameters == model.parameters
    numbers = sum(weight.codes.numel() for weight in quantized)
    others = model.parameters - numbers
    assert result.weight_bytes == numbers // 2 + numbers // 32 * 4 + others * 2
    assert 0 < np.abs(sequence_logits(result, gqa_golden.ids) - gqa_golden.logits).max() < 5


def test_the_head_can_be_kept_better(gqa_golden: Golden) -> None:
    model = edgeqkv.load(gqa_golden.path)
    result = apply(model, QuantConfig("int4", head="int8"))
    assert isinstance(result.network.head, QuantizedWeight)
    assert result.network.head.scheme.bits == 8
    assert apply(model, QuantConfig("int4", head="fp16")).network.head.precision == "fp16"
    with pytest.raises(UnsupportedError, match="weights 'int3' are unknown; known are fp32, fp16, int8, int4"):
        apply(model, QuantConfig("int3"))


def test_untied_tables_are_quantized_apart(tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = write_random_checkpoint(tmp_path / "m.pt", "q-k=v", std=0.2, **TINY, tie_word_embeddings=False)
    model = edgeqkv.load(path)
    text = np.random.default_rng(0).integers(0, 97, (4, 48))
    for calibration in (None, text):
        network = apply(model, QuantConfig("int4", calibration=calibration)).network
        assert isinstance(network.head, QuantizedWeight)
        assert isinstance(network.token_table, QuantizedWeight)
        assert network.head is not network.token_table


def test_shapes_that_do_not_divide_into_blocks(tmp_path) -> None:  # type: ignore[no-untyped-def]
    sizes = {**TINY, "n_embd": 40}
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "m.pt", "q-k=v", **sizes))
    with pytest.raises(UnsupportedError, match=r"has 40 columns, which do not divide into blocks of 16"):
        apply(model, QuantConfig("int4"))
