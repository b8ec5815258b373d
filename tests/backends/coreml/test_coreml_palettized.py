"""Palettized weights in a Core ML package: our tables and places, once, and the logits of what they stand for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, read_golden

import edgeqkv
from edgeqkv import UnsupportedError, quantize
from edgeqkv.backends.coreml import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.mil.constants import ConstantPool
from edgeqkv.mil.package import Operand, Package
from edgeqkv.model.model import Model
from edgeqkv.model.weights import PalettizedWeight
from edgeqkv.pipeline.proof import make_proof
from edgeqkv.pipeline.verify import verify
from edgeqkv.progress import silent
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import open_artifact

FORMS = ["linear", "conv"]


def palettized(path: Path, context: int = 64) -> Model:
    return quantize.apply(edgeqkv.load(path).with_context(context), quantize.QuantConfig("lut4"))


def export(model: Model, directory: Path, form: str) -> Artifact:
    spec = TargetSpec(form=form, weights="lut4", state="fp16", context=model.config.positions, chunk=16)
    return TARGET.export(model, directory, spec, silent)


@pytest.mark.parametrize("form", FORMS)
def test_it_computes_with_what_the_tables_say(form: str, tmp_path: Path) -> None:
    golden = read_golden("k_eq_v_gqa")
    model = palettized(golden.path)
    artifact = export(model, tmp_path, form)
    expected = sequence_logits(model, golden.ids)
    session = open_artifact(tmp_path, artifact, "evaluator")
    got = np.stack([session.feed(golden.ids[:40]), *(session.feed([token]) for token in golden.ids[40:])])
    # float32 in another order of summation.
    assert np.abs(got - expected[39:]).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(got - golden.logits[39:]).max() > 1e-2  # and not with what they were made from


@pytest.mark.parametrize("form", FORMS)
def test_the_package_holds_our_numbers_once(form: str, tmp_path: Path) -> None:
    model = palettized(read_golden("k_eq_v_gqa").path)
    export(model, tmp_path, form)
    package = Package(tmp_path / "model.mlpackage")
    matrices = [weight for weight in model.weights if isinstance(weight, PalettizedWeight)]
    for function in package.functions.values():
        names = [next(iter(op.outputs)) for op in function.operations if op.type == "constexpr_lut_to_dense"]
        assert len(names) == len(matrices)
        pool = ConstantPool(package, function)
        found = [pool.value(Operand(name=name)) for name in names]
        for weight in matrices:
            values = weight.values()
            assert any(torch.equal(each.float().reshape(-1), values.reshape(-1)) for each in found), weight.name
    stored = (tmp_path / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert model.weight_bytes < stored < model.weight_bytes + 128 * (2 * len(model.weights) + 20)  # records, alignment


def test_a_vocabulary_in_parts_shares_its_tables_out(tmp_path: Path) -> None:
    sizes = {**TINY, "n_layer": 1, "vocab_size": 16384 + 32}
    model = palettized(write_random_checkpoint(tmp_path / "wide.pt", "q-k=v+gqa2", std=0.2, **sizes), 32)
    artifact = export(model, tmp_path, "conv")
    session = open_artifact(tmp_path, artifact, "evaluator")
    ids = np.array([3, 16383, 16384, 16400, 16415, 0])
    got = np.stack([session.feed([token]) for token in ids])
    assert np.abs(got - sequence_logits(model, ids)).max() < 1e-4 * np.abs(got).max()


def test_one_wrong_entry_is_found(tmp_path: Path) -> None:
    model = palettized(read_golden("k_eq_v_gqa").path)
    spoiled = model.network.blocks[1].mlp.down.weight
    assert isinstance(spoiled, PalettizedWeight)
    tables = spoiled.tables.clone()
    tables[0, 15] = -tables[0, 15]
    wrong = model.with_changed_weights(lambda each: replace(each, tables=tables) if each is spoiled else each)  # type: ignore[call-arg]
    artifact = export(wrong, tmp_path, "linear")
    session = open_artifact(tmp_path, artifact, "evaluator")
    assert make_proof(wrong, artifact).compare(session, "evaluator").passed
    assert not make_proof(model, artifact).compare(session, "evaluator").passed


def test_an_export_is_proven_and_proven_again(tmp_path: Path) -> None:
    model = edgeqkv.load(read_golden("k_eq_v_gqa").path)
    edgeqkv.export(model, "coreml", out=tmp_path / "b", weights="lut4", head="int8", chunk=16)
    bundle = Bundle(tmp_path / "b")
    assert verify(bundle, against=model).passed
    quantization = bundle.target().quantization
    assert quantization is not None
    assert (quantization.weights, quantization.head) == ("lut4", "int8")


@pytest.mark.parametrize("choice", ["weights", "head"])
@pytest.mark.parametrize(("target", "title"), [("onnx", "ONNX"), ("executorch", "ExecuTorch")])
def test_other_targets_say_who_can(target: str, title: str, choice: str, tmp_path: Path) -> None:
    model = edgeqkv.load(read_golden("k_eq_v_gqa").path)
    told = rf"{title} cannot do weights 'lut4'; it can do int4, .*\. For weights 'lut4': --target coreml"
    with pytest.raises(UnsupportedError, match=told):
        edgeqkv.export(model, target, out=tmp_path / "b", **{choice: "lut4"})  # type: ignore[arg-type]
