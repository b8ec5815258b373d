"""GPTQ: what rounding costs, in the end and on the way."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeqkv.model.schemes import INT4_MULTIPLES, LUT4, Palette, Scheme
from edgeqkv.model.weights import Weight
from edgeqkv.quantize import SCHEMES, gptq
from edgeqkv.quantize.inputs import Inputs

WAYS: list[Scheme | Palette] = [Scheme("int4", 4, 32), Scheme("int4", 4, 16), INT4_MULTIPLES, Palette("lut4", 4, 4)]


def inputs(columns: int, seed: int = 0) -> Inputs:
    """Correlated, and of channels that vary by very different amounts, as activations are."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3000, columns // 4, generator=generator) @ torch.randn(columns // 4, columns, generator=generator)
    x += 0.3 * torch.randn(3000, columns, generator=generator)
    return Inputs(x * torch.randn(columns, generator=generator).exp())


def matrix(rows: int, columns: int, seed: int = 1) -> Weight:
    return Weight("w", torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)))


def cost(values: torch.Tensor, weight: Weight, seen: Inputs) -> torch.Tensor:
    """Of each row, ``[rows]``."""
    error = (values - weight.tensor).double()
    return ((error @ seen.weighed.double()) * error).sum(-1)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way}")
def test_looking_again_makes_every_row_better_or_leaves_it(
    way: Scheme | Palette, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, seen = matrix(16, 96), inputs(96)
    costs = []
    for rounds in (0, 1, 4):
        monkeypatch.setattr(gptq, "_ROUNDS", rounds)
        costs.append(cost(gptq.gptq(weight, seen, way).values(), weight, seen))
    assert (costs[1] <= costs[0] * (1 + 1e-4)).all()
    assert (costs[2] <= costs[1] * (1 + 1e-4)).all()
    assert costs[2].sum() < 0.95 * costs[0].sum()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31))
def test_in_the_end_no_other_code_is_better(seed: int) -> None:
    weight, seen, scheme = matrix(3, 32, seed), inputs(32, seed + 1), Scheme("int4", 4, 16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gptq, "_ROUNDS", 60)  # until nothing changes
        result = gptq.gptq(weight, seen, scheme)
    least = cost(result.values(), weight, seen)
    scales = result.scales.repeat_interleave(scheme.block, 1)
    for column in range(32):
        for step in (-1, 1):
            codes = result.codes.float()
            codes[:, column] = (codes[:, column] + step).clamp(scheme.lowest, scheme.highest)
            assert (cost(codes * scales, weight, seen) >= least * (1 - 1e-4)).all()


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way}")
def test_scales_and_tables_are_chosen_for_the_columns_that_count(
    way: Scheme | Palette, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight, seen = matrix(16, 96), inputs(96)
    monkeypatch.setattr(gptq, "_ROUNDS", 0)
    chosen = cost(gptq.gptq(weight, seen, way).values(), weight, seen).sum()
    monkeypatch.setattr(Inputs, "importance", torch.ones(96))
    all_alike = cost(gptq.gptq(weight, inputs(96), way).values(), weight, seen).sum()
    assert chosen < 0.97 * all_alike


@pytest.mark.parametrize("way", [*WAYS, SCHEMES["int8"], LUT4], ids=lambda way: f"{way}")
def test_some_rows_at_a_time_make_no_difference(way: Scheme | Palette, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, seen = matrix(48, 128), inputs(128)
    whole = gptq.gptq(weight, seen, way)
    monkeypatch.setattr(gptq, "_VALUES_AT_ONCE", 128 * 20)
    parts = gptq.gptq(weight, seen, way)
    # Sums of another number of rows at once may differ in their last digits, and a code or two with them.
    assert (parts.codes == whole.codes).float().mean() > 0.99
    assert cost(parts.values(), weight, seen).sum() == pytest.approx(
        float(cost(whole.values(), weight, seen).sum()), rel=1e-2
    )
