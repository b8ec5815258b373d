"""The arithmetic of plans: the paper's table to the byte, and parameters against real models."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from conftest import Golden, read_golden

import edgeqkv
from edgeqkv.budget.plan import Dimensions, Plan, Storage, footprint, npu_footprint, stored_bytes
from edgeqkv.checkpoints.synthetic import SCALES, write_random_checkpoint
from edgeqkv.model.variants import Variant

MIB = 1 << 20

# The paper's two sizes at 2048 tokens in fp16, in MiB. Its own 1.2B column mixes MB and MiB; these are MiB.
TABLE = [
    ("qkv", 160, 352),
    ("q-k=v", 80, 176),
    ("q=k=v", 80, 176),
    ("q=k-v", 160, 352),
    ("qkv+gqa{}", 40, 88),
    ("q-k=v+gqa{}", 20, 44),
    ("qkv+mqa", 10, 11),
    ("q-k=v+mqa", 5, 5.5),
]


def dimensions(scale: str, variant: str) -> Dimensions:
    sizes = SCALES[scale]
    return Dimensions(
        variant=Variant.parse(variant),
        layers=sizes["n_layer"],
        hidden_size=sizes["n_embd"],
        heads=sizes["n_head"],
        head_dim=sizes["n_embd"] // sizes["n_head"],
        intermediate_size=sizes["n_inner"],
        vocab_size=sizes["vocab_size"],
        positions=sizes["n_positions"],
        tied_head=True,
    )


def plan(scale: str, variant: str, **changes: object) -> Plan:
    defaults = Plan(dimensions(scale, variant), "onnx", "portable", "fp32", "fp16", context=2048, chunk=128)
    return dataclasses.replace(defaults, **changes)


@pytest.mark.parametrize(("variant", "mib_300m", "mib_1_2b"), TABLE)
def test_the_state_is_the_papers_to_the_byte(variant: str, mib_300m: float, mib_1_2b: float) -> None:
    for scale, kv_heads, mib in (("300m", 4, mib_300m), ("1.2b", 8, mib_1_2b)):
        predicted = footprint(plan(scale, variant.format(kv_heads)))
        (state,) = [term for term in predicted.terms if term.name == "state"]
        assert state.bytes == mib * MIB


def test_parameters_are_those_of_the_original_classes(golden: Golden) -> None:
    model = edgeqkv.load(golden.path)
    planned = Dimensions.of(golden.variant, dataclasses.asdict(model.config))
    assert planned.parameters == model.parameters
    assert planned.kv_heads == model.config.kv_heads


def test_an_untied_head_counts_twice(tmp_path: Path) -> None:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 16, "vocab_size": 97}
    path = write_random_checkpoint(tmp_path / "untied.pt", "q-k=v+gqa2", tie_word_embeddings=False, **sizes)
    model = edgeqkv.load(path)
    assert Dimensions.of(model.variant, dataclasses.asdict(model.config)).parameters == model.parameters


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4", "lut4"])
def test_stored_bytes_are_what_a_quantized_model_stores(weights: str) -> None:
    from edgeqkv import quantize

    model = edgeqkv.load(read_golden("k_eq_v_gqa").path)
    dims = Dimensions.of(model.variant, dataclasses.asdict(model.config))
    planned = Plan(dims, "onnx", "portable", weights, "fp32", model.config.positions, 32)
    stored = quantize.apply(model, quantize.Recipe(weights)).weight_bytes
    # A scheme's block is narrowed to divide a matrix's columns (64 here against int8's 128), which adds scales; a
    # palette's rows to divide the vocabulary, whose 257 rows have no common divisor, which adds tables.
    if weights == "lut4":
        stored -= (257 - 257 // 16) * 16 * 2
    assert stored_bytes(planned) == pytest.approx(stored, rel=0.03)


def test_merging_saves_the_state_twice_over_attention_reads() -> None:
    merged, separate = (footprint(plan("300m", name)) for name in ("q-k=v", "qkv"))
    saved = separate.parts()["state"] - merged.parts()["state"]
    assert saved == 80 * MIB
    assert separate.peak - merged.peak > saved  # attention reads one tensor instead of two, and a matrix is gone


def test_the_footprint_grows_with_the_context_by_its_state() -> None:
    short, long = (footprint(plan("300m", "q-k=v+gqa4", context=context)) for context in (1024, 2048))
    assert long.parts()["state"] - short.parts()["state"] == 10 * MIB
    assert long.peak > short.peak


@pytest.mark.parametrize("target", ["onnx", "executorch", "coreml"])
def test_every_term_says_how_and_from_where(target: str) -> None:
    weights = "fp16" if target == "coreml" else "fp32"
    for term in footprint(plan("300m", "q-k=v+gqa4", target=target, weights=weights)).terms:
        assert term.formula
        assert term.origin
        assert term.bytes > 0
        assert term.phases


def test_the_peak_has_a_name() -> None:
    assert footprint(plan("300m", "q-k=v+gqa4")).peak_phase == "prefill"
    assert footprint(plan("300m", "q-k=v+gqa4")).peak == footprint(plan("300m", "q-k=v+gqa4")).total("prefill")


def test_pages_mapped_twice_are_resident_and_take_no_memory() -> None:
    predicted = footprint(plan("300m", "q-k=v+gqa4", target="executorch", form="stock"))
    again = sum(term.bytes for term in predicted.terms if term.memory == "mapped again")
    assert predicted.resident("load") - predicted.total("load") == again == 50304 * 1024 * 4


def test_fixed_windows_pack_the_weights_for_each_graph() -> None:
    one = footprint(plan("300m", "q-k=v", weights="int4"))
    many = footprint(plan("300m", "q-k=v", weights="int4", form="static"))
    packed = [max(t.bytes for t in f.terms if t.memory == "anonymous" and t.name == "weights") for f in (one, many)]
    assert packed[1] == 2 * packed[0]  # prefill and decode of the largest window; the smaller ones are closed by then


def test_an_npu_holds_what_is_stored() -> None:
    lean = plan("300m", "q-k=v+gqa4", weights="int4", form="static")
    assert npu_footprint(lean).parts().keys() == {"weights", "state", "activations"}
    assert npu_footprint(lean).parts()["weights"] == stored_bytes(lean)


def test_storage_comes_from_the_schemes() -> None:
    from edgeqkv.quantize import PALETTES, SCHEMES

    for name, palette in PALETTES.items():
        stored = Storage.of(plan("300m", "q-k=v", target="coreml", weights=name))
        assert stored.bytes(1024 * palette.rows) == 1024 * palette.rows // 2 + 16 * 2
    for name, scheme in SCHEMES.items():
        stored = Storage.of(plan("300m", "q-k=v", weights=name))
        assert stored.bytes(scheme.block) == scheme.block * scheme.bits // 8 + 4
    assert Storage.of(plan("300m", "q-k=v", weights="fp16")).bytes(10) == 20


def test_xnnpack_stores_other_scales() -> None:
    four, eight = (Storage.of(plan("300m", "q-k=v", target="executorch", weights=name)) for name in ("int4", "int8"))
    assert four.bytes(32) == 16 + 2  # bfloat16, a block
    assert eight.bytes(1024) == 1024 + 4  # float32, a row of 300M's channels
