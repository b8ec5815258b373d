"""What Qualcomm's compiler makes of the graphs, and the simulation of the NPU: where its package is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import DATA, read_encoder_golden
from npu_bundles import needs_qualcomms_compiler, written
from onnx import helper

import edgeqkv
from edgeqkv.backends.hexagon import compiler, compiling
from edgeqkv.backends.hexagon.simulated import Comparison
from edgeqkv.budget import budget
from edgeqkv.budget.encoders import EncoderReport
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.errors import UnsupportedError
from edgeqkv.progress import silent
from edgeqkv.run.session import Session


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """One of every kind of matrix: int4 in blocks, and a head in int8."""
    out = tmp_path_factory.mktemp("compiled") / "out"
    model = edgeqkv.load(DATA / "k_eq_v_gqa.pt")
    return edgeqkv.export(model, "hexagon", out=out, weights="int4", context=24, chunk=8, soc="v79", verify=False)


def ends(values: Any) -> list[tuple[str, list[int]]]:
    return [(each.name, [size.dim_value for size in each.type.tensor_type.shape.dim]) for each in values]


@needs_qualcomms_compiler
def test_prefill_and_decode_are_one_binary(compiled: Bundle) -> None:
    artifact = compiled.target().artifact
    made = artifact.compiled
    assert made is not None
    assert made.soc == "v79"
    assert set(made.graphs) == {"prefill", "decode"}
    assert made.binary_bytes == (compiled.path / made.binary).stat().st_size
    for graph in artifact.graphs:
        file = onnx.load(compiled.path / made.graphs[graph.name]).graph
        (node,) = file.node
        assert node.op_type == "EPContext", "nothing is left to the CPU"
        names = {each.name: each for each in node.attribute}
        assert names["ep_cache_context"].s.decode() == made.binary
        assert ends(file.input) == [(spec.name, list(spec.shape)) for spec in graph.inputs]
        assert ends(file.output) == [(spec.name, list(spec.shape)) for spec in graph.outputs]
    assert set(made.files) <= set(artifact.files)


@needs_qualcomms_compiler
def test_a_model_that_keeps_both_takes_twice_the_state(compiled: Bundle, tmp_path: Path) -> None:
    """Into what was compiled and out of it, as its own files say."""
    model = edgeqkv.load(DATA / "gqa.pt")
    apart = edgeqkv.export(
        model, "hexagon", out=tmp_path / "out", weights="int4", context=24, chunk=8, soc="v79", verify=False
    )

    def state(bundle: Bundle, name: str) -> int:
        made = bundle.target().artifact.compiled
        assert made is not None
        file = onnx.load(bundle.path / made.graphs[name]).graph
        return sum(
            int(np.prod(shape))
            for each, shape in ends([*file.input, *file.output])
            if each.startswith(("past_", "new_"))
        )

    for name in ("prefill", "decode"):
        assert state(apart, name) == 2 * state(compiled, name) > 0


@needs_qualcomms_compiler
def test_the_budget_of_a_compiled_encoder(tmp_path: Path) -> None:
    """Its NPU runs it, and the memory is what the compiler says."""
    model = edgeqkv.load(read_encoder_golden("vit_digits_q_ne_k_eq_v").path)
    bundle = edgeqkv.export(model, "hexagon", out=tmp_path / "out", soc="v75", verify=False)
    report = budget(bundle.path, device=["hexagon-v75", "galaxy-s24", "galaxy-s25"])
    assert isinstance(report, EncoderReport)
    assert [(each.alone, each.answer.verdict) for each in report.npus] == [
        (True, "runs"),
        (False, "runs"),
        (False, "cannot run"),
    ]
    assert report.passed, "a phone is judged by its memory"
    assert not budget(bundle.path, device="hexagon-v79").passed
    told = {each.name: each for each in report.npus[0].answer.constraints}
    assert told.keys() >= {"compiled for it", "fast memory"}
    made = bundle.target().artifact.compiled
    assert made is not None
    assert made.binary in told["compiled for it"].detail
    weights = next(term for term in report.predictions[0].footprint.terms if term.name == "weights")
    assert weights.bytes == made.binary_bytes


@needs_qualcomms_compiler
def test_the_simulation_was_compared_with_the_graphs(compiled: Bundle) -> None:
    made = compiled.target().artifact.compiled
    assert made is not None
    assert made.calls == 5, "a chunk, a filled up one, two tokens, and the last position"
    assert 0 < made.max_abs_error <= made.tolerance
    assert made.max_code_error <= 1


@needs_qualcomms_compiler
def test_a_session_in_the_simulation(compiled: Bundle) -> None:
    """The same tokens on the CPU and in the simulation, as a user of the bundle has them."""
    simulated, on_cpu = (edgeqkv.open(compiled.path, engine=engine) for engine in ("simulator", "onnxruntime"))
    assert isinstance(simulated, Session)
    assert isinstance(on_cpu, Session)
    for tokens in ([3, 1, 4, 1, 5], [9]):
        got, wanted = simulated.feed(tokens), on_cpu.feed(tokens)
        assert np.abs(got - wanted).max() < 0.02 * np.ptp(wanted)


@needs_qualcomms_compiler
def test_the_budget_says_that_it_runs_there(compiled: Bundle) -> None:
    report = budget(compiled.path, device=["galaxy-s25", "galaxy-s24", "hexagon-v79"])
    assert [answer.npu_verdict for answer in report.answers] == ["runs", "cannot run", "runs"]
    assert [answer.verdict for answer in report.answers] == ["fits", "fits", "fits"]
    assert report.passed
    made = compiled.target().artifact.compiled
    assert made is not None
    weights = next(term for term in report.candidates[0].footprint.terms if term.name == "weights")
    assert weights.bytes == made.binary_bytes


@needs_qualcomms_compiler
def test_an_operation_that_is_left_to_the_cpu_is_named(compiled: Bundle, tmp_path: Path) -> None:
    """A graph with something that the NPU has not, in a bundle that is otherwise as it was."""
    for file in compiled.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    path = tmp_path / "hexagon_decode.onnx"
    model = onnx.load(path, load_external_data=False)
    last = model.graph.node[-1]
    assert last.output == ["logits"]
    last.output[0] = "before"
    model.graph.node.append(helper.make_node("Hardmax", ["before"], ["logits"], name="the_odd_one", axis=-1))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        UnsupportedError, match=r"1 operations of hexagon_decode.onnx to the CPU: Hardmax \('the_odd_one'"
    ):
        compiling.compiled(tmp_path, compiled.target().artifact, "v79", silent)


def test_a_comparison_that_fails_says_by_how_much() -> None:
    wanted = np.array([0.0, 1.0, 2.0], np.float32)
    same = Comparison(1, 0, [wanted], [wanted])
    assert same.failure == ""
    wrong = Comparison(1, 0, [wanted + 0.5], [wanted])
    assert "logits differ by 0.5 in 1 calls" in wrong.failure
    assert "not a number" not in wrong.failure
    assert Comparison(1, 0, [wanted * np.nan], [wanted]).failure
    assert "differ by 9 codes" in Comparison(1, 9, [wanted], [wanted]).failure


def test_a_bundle_of_another_target_is_not_compiled(tmp_path: Path) -> None:
    bundle = written("hexagon", DATA / "qkv.pt", tmp_path / "out", context=16, chunk=4, verify=False)
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["targets"]["hexagon"]["artifact"]["details"]["soc"] == "v75"
    model = edgeqkv.load(DATA / "qkv.pt")
    other = edgeqkv.export(model, "onnx", out=tmp_path / "onnx", context=16, chunk=4, verify=False)
    assert compiler.main([str(other.path), "--soc", "v75", "--out", str(tmp_path / "made")]) == 2
