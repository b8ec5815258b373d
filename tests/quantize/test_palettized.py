from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import Golden
from hypothesis import given, settings
from hypothesis import strategies as st

import edgeqkv
from edgeqkv import UnsupportedError
from edgeqkv.model import walk
from edgeqkv.model.weights import Palette, PalettizedWeight, Weight
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.quantize.gptq import gptq
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.quantize.palettized import k_means, places, to_nearest_entry
from edgeqkv.reference.outputs import sequence_logits


@st.composite
def weights(draw: st.DrawFn) -> tuple[Weight, Palette]:
    palette = Palette("lut4", 4, draw(st.sampled_from([1, 2, 16])))
    shape = (palette.rows * draw(st.integers(1, 3)), draw(st.integers(1, 70)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    values = torch.randn(shape, generator=generator) * 10.0 ** draw(st.integers(-2, 2))
    return Weight("w", values.round() if draw(st.booleans()) else values), palette  # rounded: many are equal


@settings(deadline=None)
@given(weights())
def test_every_value_becomes_the_nearest_entry_of_its_table(drawn: tuple[Weight, Palette]) -> None:
    weight, palette = drawn
    result = to_nearest_entry(weight, palette)
    assert result.codes.max() < 16
    groups = weight.tensor.view(len(result.tables), -1, 1)
    nearest = (groups - result.tables[:, None]).abs().amin(-1)
    got = (groups[..., 0] - result.values().view(len(result.tables), -1)).abs()
    # float32's last digit, in the middle between two entries
    assert ((got - nearest) <= 1e-6 * weight.tensor.abs().max()).all()


@settings(deadline=None)
@given(weights())
def test_tables_are_in_order_and_exact_in_half_precision(drawn: tuple[Weight, Palette]) -> None:
    result = to_nearest_entry(*drawn)
    assert torch.equal(result.tables.half().float(), result.tables)
    assert torch.equal(result.tables.sort(-1).values, result.tables)


def test_tables_lie_where_the_values_are() -> None:
    """Sixteen clusters of values: each gets an entry, which a grid of sixteen steps could not give it."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.tensor([-8.0, -3, -2.9, -2.8, -1, -0.5, -0.25, 0, 0.1, 0.2, 0.4, 0.8, 1.6, 2, 4, 16]).half().float()
    values = centres.repeat(16, 8) + 1e-3 * torch.randn(16, 128, generator=generator)
    result = to_nearest_entry(Weight("w", values), Palette("lut4", 4, 16))
    assert torch.allclose(result.tables[0], centres, atol=0.02)


def test_what_is_done_in_parts_is_what_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, palette = Weight("w", torch.randn(48, 30)), Palette("lut4", 4, 16)
    whole = to_nearest_entry(weight, palette)
    monkeypatch.setattr("edgeqkv.quantize.palettized._VALUES_AT_ONCE", 16 * 30 + 1)
    parts = to_nearest_entry(weight, palette)
    assert torch.equal(parts.codes, whole.codes)
    assert torch.equal(parts.tables, whole.tables)


def test_calibration_makes_products_better_than_rounding() -> None:
    generator = torch.Generator().manual_seed(0)
    palette = Palette("lut4", 4, 16)
    weight = Weight("w", torch.randn(48, 150, generator=generator))
    x = torch.randn(2000, 24, generator=generator) @ torch.randn(24, 150, generator=generator)
    x += 0.1 * torch.randn(2000, 150, generator=generator)

    def error(candidate: Weight) -> float:
        return float((x @ (candidate.values() - weight.tensor).T).square().mean())

    assert error(gptq(weight, Inputs(x), palette)) < 0.5 * error(to_nearest_entry(weight, palette))


def test_a_column_that_counts_for_three_is_as_if_it_were_there_three_times() -> None:
    values, palette = torch.randn(32, 20, generator=torch.Generator().manual_seed(0)), Palette("lut4", 2, 16)
    counts = torch.tensor([3.0, 1.0] * 10)
    start = k_means(values, palette)
    tables = k_means(values, palette, counts)
    again = values.repeat_interleave(counts.long(), 1)

    def cost(tables: torch.Tensor) -> float:
        found = tables.gather(1, places(again, tables).view(2, -1).long())
        return float((found.view(again.shape) - again).square().sum())

    assert cost(tables) < cost(start)
    # No entry's own values ask for another one: each is their mean, every column counted so often.
    for table, some in zip(tables, again.view(2, -1), strict=True):
        nearest = places(some[None], table[None])[0]
        for entry in range(palette.entries):
            assert some[nearest == entry].mean() == pytest.approx(float(table[entry]), abs=0.02)


def test_a_part_of_the_rows_is_the_same_numbers() -> None:
    weight = to_nearest_entry(Weight("w", torch.randn(64, 20)), Palette("lut4", 4, 16))
    assert torch.equal(weight.rows(16, 48).values(), weight.values()[16:48])
    assert weight.rows(0, 64) is weight
    assert weight.stored_bytes == 64 * 20 // 2 + 4 * 16 * 2


def test_values_beyond_half_precision_are_named() -> None:
    with pytest.raises(UnsupportedError, match=r"'w' reaches 7e\+04, beyond float16's largest number"):
        to_nearest_entry(Weight("w", torch.tensor([[7e4, 1.0]])), Palette("lut4", 4, 1))


@pytest.mark.parametrize("tuning", [None, 0, 3])
def test_a_palettized_model(gqa_golden: Golden, tuning: int | None) -> None:
    model = edgeqkv.load(gqa_golden.path)
    text = None if tuning is None else np.random.default_rng(0).integers(0, 257, (4, 64))
    result = apply(model, QuantConfig("lut4", None, text, tuning or 0))
    network = result.network
    assert network.head is network.token_table
    assert network.blocks[0].attention.k is network.blocks[0].attention.v
    palettized = [weight for weight in result.weights if isinstance(weight, PalettizedWeight)]
    assert len(palettized) == 1 + len({linear.weight for linear in walk.linears(model.network)})
    for weight in palettized:
        assert torch.equal(weight.tables.half().float(), weight.tables)
        assert torch.equal(weight.tables.sort(-1).values, weight.tables)
        assert weight.palette.rows == (1 if weight is network.head else 16)  # 257 rows have no other divisor
    assert 0 < np.abs(sequence_logits(result, gqa_golden.ids) - gqa_golden.logits).max() < 5


def test_tuning_moves_tables_and_codes(gqa_golden: Golden) -> None:
    model = edgeqkv.load(gqa_golden.path)
    text = np.random.default_rng(0).integers(0, 257, (32, 32))
    before, after = (apply(model, QuantConfig("lut4", None, text, steps)) for steps in (0, 40))
    changed = 0
    for one, other in zip(before.weights, after.weights, strict=True):
        if isinstance(one, PalettizedWeight) and isinstance(other, PalettizedWeight):
            assert not torch.equal(one.tables, other.tables)
            changed += int((one.codes != other.codes).sum())
    assert changed
    theirs = torch.from_numpy(gqa_golden.logits).log_softmax(-1)
    gaps = [
        float((theirs.exp() * (theirs - torch.from_numpy(sequence_logits(each, gqa_golden.ids)).log_softmax(-1))).sum())
        for each in (before, after)
    ]
    assert gaps[1] < gaps[0]
