"""What would make an export fit: every change is computed, and is what it says."""

from __future__ import annotations

import pytest
from model_sizes import M300

from edgeqkv.backends.footprint import ALL, Footprint, Term
from edgeqkv.backends.target import TargetSpec
from edgeqkv.budget.plan import ModelShape, Plan, footprint
from edgeqkv.budget.remedies import Remedy, remedies
from edgeqkv.budget.verdicts import ROOM, Verdict
from edgeqkv.model.variants import Variant

PLAN = Plan(
    ModelShape.of(M300, Variant.parse("q-k=v+gqa4")),
    "onnx",
    TargetSpec("portable", "int8", "fp32", context=2048, chunk=128),
)
PEAK = footprint(PLAN).peak


def found(limit: float, plan: Plan = PLAN) -> dict[str, Remedy]:
    return {each.options: each for each in remedies(footprint(plan), plan, round(limit))}


def test_none_is_needed_where_it_fits_or_nobody_knows() -> None:
    assert found(2 * PEAK) == {}
    assert remedies(footprint(PLAN), PLAN, None) == ()


@pytest.mark.parametrize("share", [1.1, 0.95])
def test_every_change_takes_what_an_export_of_it_would(share: float) -> None:
    told = found(share * PEAK)
    assert told
    for options, each in told.items():
        words = options.replace("--", "").split()
        asked = dict(zip(words[::2], words[1::2], strict=True))
        changes = {name: int(value) if value.isdigit() else value for name, value in asked.items()}
        assert each.peak == footprint(PLAN.changed(**changes)).peak
        assert each.saves == PEAK - each.peak > 0


def test_an_int8_state_saves_three_quarters_of_it() -> None:
    saved = found(1.05 * PEAK)["--state int8"].saves
    state = sum(term.bytes for term in footprint(PLAN).terms if term.name == "state")
    assert saved <= 0.75 * state  # its codes are read into a float copy, a layer at a time
    assert saved > 0.5 * state


def test_the_context_is_the_longest_that_fits() -> None:
    limit = 1.1 * PEAK
    (options,) = (options for options in found(limit) if options.startswith("--context "))
    context = int(options.removeprefix("--context "))
    assert (
        footprint(PLAN.changed(context=context)).peak
        <= ROOM * limit
        < footprint(PLAN.changed(context=context + 8)).peak
    )


def test_what_makes_it_fit_comes_first_and_the_rest_is_left_out() -> None:
    verdicts = [each.verdict for each in found(0.98 * PEAK).values()]
    assert verdicts == sorted(verdicts, key=[Verdict.FITS, Verdict.TIGHT, Verdict.NOT].index)
    assert Verdict.FITS in verdicts
    assert Verdict.NOT not in verdicts


def test_several_changes_together_where_none_is_enough() -> None:
    options, each = next(iter(found(0.75 * PEAK).items()))
    assert each.verdict == Verdict.FITS
    assert options.startswith("--state int8 --chunk 16 --weights int4")


def test_where_nothing_is_enough_what_saves_most_is_told() -> None:
    told = found(0.05 * PEAK)
    assert {each.verdict for each in told.values()} == {Verdict.NOT}
    saved = [each.saves for each in told.values()]
    assert saved == sorted(saved, reverse=True)


def test_another_form_is_tried_too() -> None:
    static = PLAN.changed(form="static")
    told = found(0.99 * footprint(static).peak, static)
    assert told["--form portable"].peak == PEAK


def test_an_exports_weights_stay_as_they_were_read() -> None:
    read = Footprint((*footprint(PLAN).terms, Term("weights", 10_000_000, "mapped", ALL, "read", "a file")))
    planned = {each.options: each for each in remedies(footprint(PLAN), PLAN, PEAK)}
    told = {each.options: each for each in remedies(read, PLAN, PEAK, exported=True)}
    assert told["--state int8"].peak == planned["--state int8"].peak + 10_000_000
    assert told["--weights int4"].peak == planned["--weights int4"].peak
