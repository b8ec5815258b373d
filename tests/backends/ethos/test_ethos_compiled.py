"""What Vela makes of the graphs, and the program around it: where their packages are installed.

One graph is compiled for all of them, because importing ExecuTorch takes longer than the rest.
"""

from __future__ import annotations

import json
import shutil
from math import prod
from pathlib import Path

import pytest
from conftest import DATA, read_encoder_golden
from npu_bundles import needs_arms_compiler

import edgeqkv
from edgeqkv.backends.ethos import compiler, compiling
from edgeqkv.budget import budget
from edgeqkv.budget.encoders import EncoderReport
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.cli.summaries import bundle_rows
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.progress import silent


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("ethos") / "out"
    model = edgeqkv.load(DATA / "k_eq_v_gqa.pt")
    options = {"soc": "512", "memory_mode": "Dedicated_Sram_384KB", "system_config": "Ethos_U85_SYS_DRAM_High"}
    return edgeqkv.export(model, "ethos-u85", out=out, context=8, chunk=1, **options)


@needs_arms_compiler
def test_a_call_is_one_call_of_the_npu(compiled: Bundle) -> None:
    from edgeqkv.backends.executorch.methods import called
    from edgeqkv.backends.executorch.program import ProgramFile

    made = compiled.target().artifact.compiled
    assert made is not None
    file = ProgramFile(compiled.path / made.binary)
    assert file.method_names() == ("decode",)
    kernels, delegates = called(file, "decode")
    assert delegates == {"EthosUBackend": 1}
    assert sorted(kernels) == ["dim_order_ops::_to_dim_order_copy", "mul"], "of the logits' codes, and nothing else"


@needs_arms_compiler
def test_velas_figures_are_in_the_manifest(compiled: Bundle) -> None:
    made = compiled.target().artifact.compiled
    assert made is not None
    assert made.soc == "512"
    assert made.system == "Ethos_U85_SYS_DRAM_High, Dedicated_Sram_384KB"
    assert set(made.figures) == {"decode"}
    found = made.figures["decode"]
    assert min(found.cycles, found.sram_bytes) > 0
    # Weights lie in DRAM in this mode: the head's and the layers' in 8 bits, and the token table in 16.
    assert found.dram_bytes > 2 * 257 * 64
    assert made.binary_bytes == (compiled.path / made.binary).stat().st_size > found.dram_bytes
    rows = dict(bundle_rows(compiled))
    assert f"{found.cycles:,} cycles" in str(rows["- decode"])


@needs_arms_compiler
def test_a_model_that_keeps_both_takes_twice_the_state(compiled: Bundle, tmp_path: Path) -> None:
    """Into the program and out of it, as the program's own method says."""
    from edgeqkv.backends.executorch.methods import held
    from edgeqkv.backends.executorch.program import ProgramFile

    model = edgeqkv.load(DATA / "gqa.pt")
    apart = edgeqkv.export(model, "ethos-u85", out=tmp_path / "out", context=8, chunk=1, verify=False)
    sizes = []
    for bundle in (compiled, apart):
        artifact = bundle.target().artifact
        assert artifact.compiled is not None
        (graph,) = artifact.graphs
        found = held(ProgramFile(bundle.path / artifact.compiled.binary), graph)
        ends = [
            (spec, tensors[spec.name])
            for specs, tensors in ((graph.inputs, found.inputs), (graph.outputs, found.outputs))
            for spec in specs
        ]
        sizes.append(sum(prod(low for low, _ in tensor.sizes) for spec, tensor in ends if spec.role == "state"))
    assert sizes[1] == 2 * sizes[0] > 0


@needs_arms_compiler
def test_the_budget_of_a_compiled_encoder(tmp_path: Path) -> None:
    model = edgeqkv.load(read_encoder_golden("vit_digits_q_ne_k_eq_v").path)
    bundle = edgeqkv.export(model, "ethos-u85", out=tmp_path / "out", verify=False)
    report = budget(bundle.path, device="ethos-u85")
    assert isinstance(report, EncoderReport)
    (found,) = report.npus
    assert (found.answer.verdict, report.passed) == ("runs", True)
    (working,) = (each for each in report.predictions[0].footprint.terms if each.name == "activations")
    made = bundle.target().artifact.compiled
    assert made is not None
    assert working.bytes == made.figures["model"].sram_bytes + made.figures["model"].dram_bytes


@needs_arms_compiler
def test_a_budget_counts_what_vela_says(compiled: Bundle) -> None:
    (answer,) = budget(compiled.path, device=["ethos-u85"]).answers
    assert answer.npu_verdict == "runs"
    assert answer.on_npu is not None
    assert any("ethos-u-vela" in each.detail for each in answer.on_npu.constraints)
    (working,) = (each for each in answer.candidate.footprint.terms if each.name == "activations")
    made = compiled.target().artifact.compiled
    assert made is not None
    assert working.bytes == made.figures["decode"].sram_bytes + made.figures["decode"].dram_bytes


@needs_arms_compiler
def test_a_program_that_is_not_what_the_manifest_says(compiled: Bundle, tmp_path: Path) -> None:
    shutil.copytree(compiled.path, tmp_path / "bundle")
    file = tmp_path / "bundle" / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["targets"]["ethos-u85"]["artifact"]["compiled"]["binary"] = "ethos_decode.tosa"
    file.write_text(json.dumps(manifest))
    with pytest.raises(BundleError):
        edgeqkv.open(tmp_path / "bundle")


@needs_arms_compiler
def test_what_the_npu_has_not_fails_the_export_by_name(compiled: Bundle, tmp_path: Path) -> None:
    from edgeqkv.backends.ethos.graph import TosaGraph

    graph = TosaGraph()
    given = graph.input("given", "int32", [1, 8], "tokens")
    graph.output(graph.whole_op("POW", given, graph.number(3, 2)), "result", "fp32", "logits")
    (tmp_path / "ethos_decode.tosa").write_bytes(graph.serialized())
    with pytest.raises(UnsupportedError, match=r"Vela refuses ethos_decode\.tosa for Ethos-U85: .*Pow"):
        compiling.compiled(tmp_path, compiled.target().artifact, silent)
    assert [each.name for each in tmp_path.iterdir()] == ["ethos_decode.tosa"]


def test_what_is_left_to_the_cpu_fails_the_export() -> None:
    compiler.check_whole("x.tosa", "CPU operators = 0 (0.0%)\nNPU operators = 7 (100.0%)\n")
    with pytest.raises(UnsupportedError, match=r"leaves a part of x\.tosa to the CPU: CPU operators = 2"):
        compiler.check_whole("x.tosa", "CPU operators = 2 (0.4%)\nNPU operators = 7 (100.0%)\n")
    with pytest.raises(UnsupportedError, match="it does not say what it did"):
        compiler.check_whole("x.tosa", "")
