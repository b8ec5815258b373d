"""What a footprint means on a device."""

from __future__ import annotations

import dataclasses

import pytest
from model_sizes import M300

from edgeqkv.backends.footprint import ALL, Footprint, Term
from edgeqkv.backends.target import TargetSpec
from edgeqkv.budget import paper
from edgeqkv.budget.answers import Answer, Candidate, evaluate_on
from edgeqkv.budget.devices import Device, Fact, Status, load_catalogue
from edgeqkv.budget.plan import ModelShape, Plan
from edgeqkv.budget.verdicts import Confidence, NpuVerdict, Verdict, confidence_of, verdict_of
from edgeqkv.bundle.manifest import Compiled
from edgeqkv.model.variants import Variant

GB = 10**9
PLAN = Plan(
    ModelShape.of(M300, Variant.parse("q-k=v+gqa4")),
    "onnx",
    TargetSpec("portable", "fp32", "fp32", context=2048, chunk=128),
)


def phone(limit: float | None, maximum: float | None = None) -> Device:
    known = load_catalogue().devices["pixel-9-pro"]
    facts = {
        "process_limit_default_gb": Fact[float | None](value=limit, status="unknown"),
        "process_limit_max_gb": Fact[float | None](value=maximum, status="unknown"),
    }
    return known.model_copy(update=facts)


def asked(device: Device | str, *, target: str = "onnx", shape: ModelShape | None = None, **changes: object) -> Answer:
    catalogue = load_catalogue()
    plan = dataclasses.replace(PLAN.changed(**changes), target=target, shape=shape or PLAN.shape)
    candidate = Candidate.planned(plan)
    if isinstance(device, str):
        return evaluate_on(device, catalogue.find(device), catalogue.npus, candidate)
    return evaluate_on("a phone", device, catalogue.npus, candidate)


@pytest.mark.parametrize(
    ("peak", "limit", "verdict"),
    [
        (85, 100, Verdict.FITS),
        (86, 100, Verdict.TIGHT),
        (100, 100, Verdict.TIGHT),
        (101, 100, Verdict.NOT),
        (100, None, Verdict.UNKNOWN),
    ],
)
def test_verdicts(peak: int, limit: int | None, verdict: Verdict) -> None:
    assert verdict_of(peak, limit) == verdict


def test_default_and_maximum_limits_are_judged_apart() -> None:
    peak = Candidate.planned(PLAN).footprint.peak / GB
    found = asked(phone(peak * 0.9, peak * 1.2))
    assert [limit.verdict for limit in found.limits] == [Verdict.NOT, Verdict.FITS]
    assert found.verdict == Verdict.NOT


def test_the_largest_context_is_the_last_that_fits() -> None:
    candidate = Candidate.planned(PLAN)
    for context in (1, 700, 2047):
        found = asked(phone(candidate.at(context).peak / GB)).limits[0]
        assert found.largest_context == context
        assert candidate.at(context).peak <= (found.bytes or 0) < candidate.at(context + 1).peak
    assert asked(phone(0.01)).limits[0].largest_context == 0
    assert asked(phone(100)).limits[0].largest_context == 2048
    assert asked(phone(None)).limits[0].largest_context is None


def test_variants_are_side_by_side_and_merging_pays() -> None:
    rows = {row.variant: row for row in asked("pixel-9-pro").variants}
    assert list(rows) == [
        "qkv", "q-k=v", "q=k-v", "q=k=v", "qkv+gqa4", "q-k=v+gqa4", "qkv+mqa", "q-k=v+mqa",
    ]  # fmt: skip
    assert rows["q-k=v+gqa4"].is_this
    assert rows["qkv"].state_bytes == 8 * rows["q-k=v+gqa4"].state_bytes == 320 << 20
    assert rows["qkv"].peak > rows["q-k=v"].peak > rows["q-k=v+gqa4"].peak > rows["q-k=v+mqa"].peak
    assert [f"{row.reduction:.1%}" for row in rows.values()][-2:] == ["93.8%", "96.9%"]


def test_a_models_own_kv_heads_name_its_family() -> None:
    own = ModelShape.of(M300, Variant.parse("q-k=v+gqa2"))
    assert "qkv+gqa2" in [row.variant for row in asked("pixel-9-pro", shape=own).variants]
    single = ModelShape.of(dataclasses.replace(M300, heads=1, head_dim=1024), Variant.parse("q=k=v"))
    assert {row.variant for row in asked("pixel-9-pro", shape=single).variants} == {
        "qkv", "q-k=v", "q=k-v", "q=k=v",
    }  # fmt: skip


def test_the_papers_quality_stands_beside_a_variant() -> None:
    small = {row.variant: row.quality for row in asked("pixel-9-pro").variants}
    assert str(small["q-k=v"]) == "5.27 (+3.1% against qkv; the paper's 300M)"
    assert str(small["q=k=v"]) == "6.41 (+25.4% against qkv; the paper's 300M)"
    assert str(small["q-k=v+gqa4"]) == "5.32 (+4.1% against qkv; the paper's 300M)"
    large = paper.quality(Variant.parse("q-k=v"), heads=32, parameters=1_200_000_000)
    assert str(large) == "5.128 (+2.5% against qkv; the paper's 1.2B)"
    assert paper.quality(Variant.parse("q=k=v"), heads=32, parameters=1_200_000_000) is None
    assert paper.quality(Variant.parse("q-k=v+2d"), heads=16, parameters=300_000_000) is None


@pytest.mark.parametrize(
    ("parameters", "scale"),
    [(900_000, None), (199_000_000, None), (201_000_000, "300M"), (449_000_000, "300M"), (600_000_000, None),
     (801_000_000, "1.2B"), (1_799_000_000, "1.2B"), (7_000_000_000, None)],
)  # fmt: skip
def test_it_stands_beside_models_of_the_papers_sizes_alone(parameters: int, scale: str | None) -> None:
    found = paper.quality(Variant.parse("qkv"), heads=16, parameters=parameters)
    assert (found.scale if found else None) == scale


def test_the_roofline_is_bandwidth_over_what_a_token_reads() -> None:
    found = asked("raspberry-pi-5-8gb").roofline
    assert found
    assert found.tokens_per_second == pytest.approx(17.07e9 / found.bytes_per_token)
    assert found.bytes_per_token == pytest.approx(4 * PLAN.shape.parameters + (40 << 20), rel=0.001)
    assert asked("pixel-8").roofline is None  # nobody knows its bandwidth


def test_there_is_no_bound_where_a_token_reads_what_a_cache_holds() -> None:
    """A model of a megabyte does not decode 30,000 tokens a second, whatever the memory's bandwidth."""
    tiny = ModelShape.of(dataclasses.replace(M300, layers=2, hidden_size=64, vocab_size=500), PLAN.shape.variant)
    assert asked("raspberry-pi-5-8gb", shape=tiny).roofline is None


def held(found: Answer) -> dict[str, bool | None]:
    return {each.name: each.holds for each in found.constraints}


def test_hexagon_names_what_fails() -> None:
    found = asked("hexagon-v75")
    assert held(found) == {"compute type": False, "static shapes": False, "session memory": True}
    assert found.verdict == Verdict.NOT
    assert held(asked("hexagon-v75", form="static"))["static shapes"] is True


def test_hexagon_takes_what_is_made_for_it() -> None:
    spec = {"form": "qdq", "weights": "int8", "state": "int8"}
    found = asked("hexagon-v75", target="hexagon", **spec, soc="v75")
    names = ["compute type", "compiled for it", "static shapes", "session memory"]
    assert held(found) == dict.fromkeys(names, True)
    assert found.verdict == Verdict.FITS, "planned: nothing was compiled"
    other = asked("hexagon-v79", target="hexagon", **spec, soc="v75")
    assert held(other)["compiled for it"] is False
    phone = asked("galaxy-s24", target="hexagon", **spec, soc="v75")
    assert (phone.verdict, phone.npu_verdict) == (Verdict.FITS, NpuVerdict.MEETS)
    assert asked("pixel-8").npu_verdict is not NpuVerdict.RUNS


def test_the_compiler_s_figures_count() -> None:
    """Its binary and its spill buffer, in place of what would be planned."""
    spec = {"form": "qdq", "weights": "int8", "state": "int8", "soc": "v75"}
    catalogue = load_catalogue()
    npu = catalogue.npus["hexagon-v75"]
    plan = dataclasses.replace(PLAN.changed(**spec), target="hexagon")
    made = Compiled(
        soc="v75",
        compiler="a compiler",
        graphs={"decode": "decode_v75.onnx"},
        binary="a.bin",
        binary_bytes=4 * 10**9,
        fast_memory_bytes=16 << 20,
        spill_bytes={"decode": 3 << 20},
        seconds={"decode": 1.0},
    )
    weights = Term("weights", made.binary_bytes, "anonymous", ALL, "", "")
    candidate = Candidate(plan, Footprint((weights,)), exported=True, compiled=made)
    found = evaluate_on("hexagon-v75", npu, catalogue.npus, candidate)
    told = {each.name: each for each in found.constraints}
    assert told["session memory"].holds is False
    assert "4.00 GB" in told["session memory"].detail
    assert told["fast memory"].holds is False, "it has 8 MB"
    assert "3.0 MiB spill" in told["fast memory"].detail
    fitting = made.model_copy(update={"fast_memory_bytes": 8 << 20})
    small = dataclasses.replace(
        candidate, footprint=Footprint((dataclasses.replace(weights, bytes=1),)), compiled=fitting
    )
    assert evaluate_on("hexagon-v75", npu, catalogue.npus, small).npu_verdict == NpuVerdict.RUNS
    found = evaluate_on("hexagon-v75", npu, catalogue.npus, dataclasses.replace(small, compiled=None))
    assert held(found)["compiled for it"] is None


def test_a_session_is_limited() -> None:
    large = ModelShape.of(dataclasses.replace(M300, layers=80), PLAN.shape.variant)
    assert held(asked("hexagon-v75", shape=large))["session memory"] is False


def test_the_neural_engine_wants_small_dimensions_and_fp16() -> None:
    whole = asked("ane-a16", target="coreml", form="linear", weights="fp16", state="fp16")
    assert held(whole)["largest dimension"] is False
    split = asked("ane-a16", target="coreml", form="conv", weights="fp16", state="fp16")
    assert all(held(split).values())
    assert split.verdict == Verdict.FITS
    odd = asked("ane-a16", target="coreml", form="conv", weights="fp16", state="fp16", context=1000)
    assert held(odd)["state dimensions"] is False
    runner = asked("ane-a16", target="coreml", form="swift-transformers", weights="fp16", state="fp16")
    assert held(runner)["static shapes"] is False


def test_a_phone_is_judged_by_memory_and_its_npu_told() -> None:
    found = asked("galaxy-s24")
    assert found.npu == "hexagon-v75"
    assert held(found)["compute type"] is False
    assert found.verdict == Verdict.FITS


def test_what_nobody_knows_stays_open() -> None:
    found = asked("google-tensor-tpu")
    assert held(found) == {"compute type": None, "toolchain": None}
    assert found.verdict == Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("statuses", "assumes", "confidence"),
    [
        (["vendor-documented"], False, Confidence.DOCUMENTED),
        (["vendor-documented", "community-measured"], False, Confidence.REPORTED),
        (["community-measured", "unknown"], False, Confidence.ASSUMED),
        (["vendor-documented"], True, Confidence.ASSUMED),
        ([], False, Confidence.DOCUMENTED),
    ],
)
def test_a_verdict_is_as_sure_as_what_is_known_worst(statuses: list[Status], assumes: bool, confidence: str) -> None:
    assert confidence_of(statuses, assumes=assumes) == confidence


def test_cpu_and_npu_are_judged_apart() -> None:
    found = asked("galaxy-s24")
    assert (found.verdict, found.confidence) == (Verdict.FITS, Confidence.REPORTED)
    assert found.on_npu
    assert (found.on_npu.verdict, found.on_npu.confidence) == (NpuVerdict.FAILS, Confidence.DOCUMENTED)
    assert [each.name for each in found.on_npu.failing] == ["compute type", "static shapes"]
    split = asked("iphone-15", target="coreml", form="conv", weights="fp16", state="fp16").on_npu
    assert split
    assert split.verdict == NpuVerdict.MEETS
    assert asked("raspberry-pi-5-8gb").on_npu is None
