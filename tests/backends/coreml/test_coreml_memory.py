"""The memory of a Core ML package: what is read of it, and what is assumed."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeqkv
from edgeqkv.backends.coreml.memory import coreml_steps
from edgeqkv.budget.plan import ModelShape, footprint_of, plan_of
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.mil.package import Package
from edgeqkv.reference.liveness import peak

pytest.importorskip("coremltools")

SIZES = {"n_layer": 4, "n_embd": 256, "n_head": 16, "n_positions": 512, "vocab_size": 12288, "n_inner": 1024}


def test_core_mls_graph_is_resolved_too(tmp_path: Path, tiny_checkpoint: Path) -> None:
    bundle = edgeqkv.export(edgeqkv.load(tiny_checkpoint), "coreml", out=tmp_path / "b", chunk=16, verify=False)
    package = Package(bundle.path / bundle.target().artifact.graphs[0].file)
    prefill, decode = (peak(coreml_steps(package.function(name))).bytes for name in ("prefill", "decode"))
    assert prefill > decode > 0


def test_a_reshapes_memory_is_what_it_reshapes_and_not_the_shape(tmp_path: Path, tiny_checkpoint: Path) -> None:
    bundle = edgeqkv.export(edgeqkv.load(tiny_checkpoint), "coreml", out=tmp_path / "b", chunk=16, verify=False)
    package = Package(bundle.path / bundle.target().artifact.graphs[0].file)
    function = package.function("prefill")
    reshapes = [operation for operation in function.operations if operation.type == "reshape"]
    targets = {operand.name for operation in reshapes for operand in operation.inputs["shape"]}
    aliases = [step.alias for step in coreml_steps(function) if step.alias is not None]
    assert aliases
    assert not targets.intersection(aliases)


def test_the_packages_weights_count_once_and_are_said_to_be_assumed(tmp_path: Path) -> None:
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "m.pt", "q-k=v+gqa4", **SIZES))
    bundle = edgeqkv.export(model, "coreml", out=tmp_path / "b", weights="fp16", chunk=128, verify=False)
    artifact = bundle.target().artifact
    found = footprint_of(bundle.path, artifact, plan_of(ModelShape.of_card(bundle.manifest.model), artifact, 0))
    assert found.parts()["weights"] == pytest.approx(model.parameters * 2, rel=0.05)
    assert found.parts()["state"] == 4 * 4 * 16 * 512 * 2
    assert found.assumes
