"""What is read from an export's files, against what was planned, and against a process that runs them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import edgeqkv
from edgeqkv.backends.footprint import Footprint, Phase, Term
from edgeqkv.budget import measure as measuring
from edgeqkv.budget.measure import Comparison, compare, measure
from edgeqkv.budget.plan import ModelShape, Plan, footprint, footprint_of, plan_of
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.errors import BundleError, UnsupportedError

MIB = 1 << 20
# 25 MB in fp32, with a prefill whose activations (8 MiB of scores, twice) are no smaller than what else varies.
SIZES = {"n_layer": 4, "n_embd": 256, "n_head": 16, "n_positions": 512, "vocab_size": 12288, "n_inner": 1024}
CHUNK = 128


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("budget") / "medium.pt"
    return edgeqkv.load(write_random_checkpoint(path, "q-k=v+gqa4", **SIZES))


def exported(model: Any, out: Path, target: str = "onnx", **options: Any) -> Bundle:
    return edgeqkv.export(model, target, out=out / "bundle", chunk=CHUNK, verify=False, **options)


def plan_for(bundle: Bundle) -> Plan:
    return plan_of(ModelShape.of_card(bundle.manifest.model), bundle.target().artifact, tokenizer=0)


def predicted(bundle: Bundle) -> Footprint:
    return footprint_of(bundle.path, bundle.target().artifact, plan_for(bundle))


@pytest.mark.parametrize("weights", ["fp32", "fp16", "int8", "int4"])
def test_files_and_plan_agree(model: Any, tmp_path: Path, weights: str) -> None:
    bundle = exported(model, tmp_path, weights=weights)
    read, planned = predicted(bundle).parts(), footprint(plan_for(bundle)).parts()
    assert read.keys() == planned.keys()
    assert read["state"] == planned["state"] == 4 * 4 * 16 * 512 * 4
    # Left out of what is planned: biases that a Cast expands, and values of a few numbers a token.
    assert read["weights"] == pytest.approx(planned["weights"], rel=0.01)
    assert read["activations"] == pytest.approx(planned["activations"], rel=0.01)


@pytest.mark.parametrize("variant", ["qkv", "q=k=v"])
@pytest.mark.parametrize("form", ["portable", "static", "ort"])
def test_what_lives_at_once_is_known_before_there_is_a_graph(tmp_path: Path, variant: str, form: str) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "m.pt", variant, **{**SIZES, "n_layer": 3})
    bundle = exported(edgeqkv.load(checkpoint), tmp_path, form=form, weights="fp32")
    for phase in ("prefill", "decode"):
        read, planned = (
            next(term.bytes for term in each.terms if term.name == "activations" and phase in term.phases)
            for each in (predicted(bundle), footprint(plan_for(bundle)))
        )
        assert read == pytest.approx(planned, rel=0.01), phase


@pytest.mark.parametrize("layers", [3, 4])
def test_for_the_genai_runtime_they_agree_too(tmp_path: Path, layers: int) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "m.pt", "q-k=v+gqa4", **{**SIZES, "n_layer": layers})
    bundle = exported(edgeqkv.load(checkpoint), tmp_path, form="genai", weights="fp32", eos=0)
    read, planned = predicted(bundle).parts(), footprint(plan_for(bundle)).parts()
    assert read["state"] == planned["state"] == 4 * 4 * 16 * 512 * 4  # a third layer's tensor has an unused partner
    assert read["runtime"] == planned["runtime"] == 50 * MIB
    # As above.
    assert read["weights"] == pytest.approx(planned["weights"], rel=0.01)
    assert read["activations"] == pytest.approx(planned["activations"], rel=0.01)


def test_int8_attention_of_the_genai_form_makes_one_layers_values_again(tmp_path: Path) -> None:
    # One token wide a chunk, so that a layer's state, 512 KiB, is the largest value of all.
    sizes = {**SIZES, "n_layer": 2, "n_positions": 2048, "vocab_size": 97}
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "m.pt", "q-k=v", **sizes))
    activations = {}
    for form in ("ort", "genai"):
        out = tmp_path / form / "bundle"
        bundle = edgeqkv.export(
            model, "onnx", out=out, form=form, state="int8", weights="fp32", chunk=1, eos=0, verify=False
        )
        activations[form] = predicted(bundle).parts()["activations"]
    assert activations["genai"] - activations["ort"] == pytest.approx(2048 * 256, rel=0.01)


@pytest.mark.parametrize("head", ["fp32", "fp16"])
def test_a_head_that_is_kept_is_packed_too(model: Any, tmp_path: Path, head: str) -> None:
    """A session that packs codes packs every float matrix: the mapped table is there besides, and while it is packed
    what an fp16 one was expanded to."""
    terms = predicted(exported(model, tmp_path, weights="int4", head=head)).terms
    floats = 12288 * 256 * 4
    found = {tuple(term.phases): term.bytes for term in terms if term.memory == "anonymous" and term.bytes == floats}
    every, load = ("load", "prefill", "decode"), ("load",)
    assert found == ({every: floats, load: floats} if head == "fp16" else {every: floats})
    assert [term.bytes for term in terms if term.memory == "mapped" and term.bytes > floats // 2]


def test_float_weights_are_mapped_and_quantized_ones_packed(model: Any, tmp_path: Path) -> None:
    float_terms = predicted(exported(model, tmp_path / "fp32", weights="fp32")).terms
    assert {term.memory for term in float_terms if term.name == "weights"} == {"mapped"}
    packed = predicted(exported(model, tmp_path / "int4", weights="int4")).terms
    (codes,) = [term.bytes for term in packed if "packed" in term.formula]
    matrices = 4 * ((256 + 64 + 256) * 256 + 2 * 256 * 1024) + 12288 * 256
    assert codes == matrices // 2 + 2 * 4 * matrices // 32


def test_fixed_windows_map_the_same_pages_again(model: Any, tmp_path: Path) -> None:
    found = predicted(exported(model, tmp_path, form="static", weights="fp32"))
    mapped = found.total("decode", "mapped")
    assert mapped == pytest.approx(model.parameters * 4, rel=0.01)
    assert found.total("decode", "mapped again") == pytest.approx(mapped, rel=0.01)  # prefill and decode of 512


def test_a_damaged_graph_is_an_error(model: Any, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path)
    (bundle.path / "model.onnx").write_bytes(b"\xff\xff nonsense")
    with pytest.raises(BundleError, match=r"model\.onnx"):
        predicted(bundle)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("weights", ["fp32", "int4"])
def test_predictions_are_near_a_measured_process(model: Any, tmp_path: Path, weights: str) -> None:
    bundle = exported(model, tmp_path, weights=weights)
    measured = measure(bundle.path, bundle.target().artifact)
    rows = {row.name: row for row in compare(predicted(bundle), measured, "onnx")}
    # Half of this process is Python and the runtime, which are measured in it. Of the rest, 30 to 60 MiB, a few are
    # threads' stacks and heaps that differ from run to run: 6 MiB are allowed, and a term left out would be more.
    for name in ("peak (prefill)", "prefill", "decode", "anonymous", "mapped"):
        assert abs(rows[name].predicted - rows[name].measured) < 6 * MIB, rows
    assert abs(rows["peak (prefill)"].error) < 0.1
    assert measured.peak > measured.imported.resident + model.parameters // 2


def test_activations_lie_in_regions_that_double_and_stay() -> None:
    live: dict[Phase, int] = {"prefill": 5 * MIB, "decode": MIB}
    terms = [Term("activations", size, "anonymous", (phase,), "", "") for phase, size in live.items()]
    here = Footprint(tuple(measuring._activations_here(Footprint(tuple(terms)))))
    assert {phase: here.total(phase) for phase in live} == {"prefill": 7 * MIB, "decode": 7 * MIB}  # 1 + 2 + 4


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_ends_early_is_an_error(model: Any, tmp_path: Path) -> None:
    bundle = exported(model, tmp_path)
    (bundle.path / "model.onnx").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match="ended early"):
        measure(bundle.path, bundle.target().artifact)


def test_elsewhere_measuring_is_unsupported(model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = exported(model, tmp_path)
    artifact = bundle.target().artifact
    with pytest.raises(UnsupportedError, match="does not run on Linux"):
        measure(bundle.path, artifact.model_copy(update={"target": "coreml"}))
    monkeypatch.setattr(measuring.sys, "platform", "darwin")
    with pytest.raises(UnsupportedError, match="run --measure on Linux"):
        measure(bundle.path, artifact)


def test_an_error_is_relative_to_what_was_measured() -> None:
    assert Comparison("peak", 110, 100).error == pytest.approx(0.1)
    assert Comparison("peak", 90, 100).error == pytest.approx(-0.1)
