"""Packages without their bundle, and quantized weights in packages."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path
from typing import Any

import coreml_packages  # noqa: F401 - one torch thread
import numpy as np
import pytest
from commands import run_here
from conftest import read_golden
from matrix import sampled
from mil_packages import edit

import edgeqkv
from edgeqkv import BundleError, InputError, UnsupportedError
from edgeqkv.backends.coreml.standalone import examine, read_artifact
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.model.model import Model
from edgeqkv.pipeline.verify import verify, verify_package
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import open_bundle


@pytest.fixture(scope="module")
def model() -> Model:
    return edgeqkv.load(read_golden("k_eq_v_gqa").path)


@pytest.fixture(scope="module")
def bundle(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("standalone") / "bundle"
    return edgeqkv.export(model, "coreml", out=out, chunk=16, weights="int4")


def test_a_package_alone_is_proven_against_the_original(bundle: Bundle, model: Model, tmp_path: Path) -> None:
    moved = tmp_path / "renamed.mlpackage"
    shutil.copytree(bundle.path / "model.mlpackage", moved)
    result = verify_package(moved, "coreml", model)
    assert result.passed
    assert result.positions == 64
    described, exported = read_artifact(moved), bundle.target().artifact
    assert described.state_tensors == exported.state_tensors
    assert [graph.inputs for graph in described.graphs] == [graph.inputs for graph in exported.graphs]
    with pytest.raises(InputError, match=r"qkv\.pt is qkv, and .* a model that is q-k=v\+gqa4"):
        verify_package(moved, "coreml", edgeqkv.load(read_golden("qkv").path))


def test_any_package_is_run_on_its_own(bundle: Bundle) -> None:
    found = examine(bundle.path / "model.mlpackage")
    assert set(found) == {"prefill", "decode"}
    for function in found.values():
        assert function["finite"]
        assert function["operations"]["scaled_dot_product_attention"] == 2
        assert function["operations"]["constexpr_blockwise_shift_scale"] > 5
        assert set(function["states"]) == {"kv_cache"}
        assert 0 < function["fp16_difference"] < 0.1


def test_what_edgeqkv_did_not_export_cannot_be_compared(bundle: Bundle, model: Model, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.mlpackage"
    shutil.copytree(bundle.path / "model.mlpackage", foreign)
    file = next(foreign.rglob("*.mlmodel"))
    file.write_bytes(file.read_bytes().replace(b"edgeqkv.form", b"somebody.els"))
    with pytest.raises(UnsupportedError, match="was not exported by edgeqkv"):
        verify_package(foreign, "coreml", model)


def test_on_the_command_line(bundle: Bundle, model: Model) -> None:
    def run(*arguments: object) -> str:
        done = run_here("verify", bundle.path / "model.mlpackage", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "runs: on zeros, in fp32 and in fp16" in run()
    assert json.loads(run("--json"))["functions"]["decode"]["finite"]
    assert "verified: yes: 64 tokens" in run("--against", model.source.path)


def test_the_estimate_of_half_precision_is_an_engine(bundle: Bundle) -> None:
    exact, rounded = verify(bundle), verify(bundle, engine="evaluator-fp16")
    assert exact.passed
    assert rounded.passed
    assert rounded.max_abs_error > 10 * exact.max_abs_error


@pytest.mark.parametrize(
    ("weights", "form"),
    sampled(product(["int4", "int8"], ["linear", "conv"]), lambda *case: case[0], lambda *case: case[1]),
)
def test_quantized_weights_compute_what_their_codes_say(model: Model, tmp_path: Path, form: str, weights: str) -> None:
    golden = read_golden("k_eq_v_gqa")
    bundle = edgeqkv.export(model, "coreml", out=tmp_path / "b", chunk=16, weights=weights, form=form, verify=False)
    session = open_bundle(bundle)
    rows = [session.feed(golden.ids[:20]), *(session.feed([token]) for token in golden.ids[20:])]
    stored = apply(model, QuantConfig(weights))
    reference = sequence_logits(stored, golden.ids)[19:]
    # The same numbers in float32: codes times scales are exact in float16. Measured: 3e-6.
    assert np.abs(np.stack(rows) - reference).max() < 1e-4
    assert (np.stack(rows).argmax(1) == reference.argmax(1)).all()
    held = next(bundle.path.rglob("weight.bin")).stat().st_size
    expected = _stored_bytes(stored)
    assert expected <= held <= expected + 128 * 4 * len(stored.weights), "every weight once, the table too"


def _stored_bytes(stored: Any) -> int:
    """Codes and scales, which a package stores in fp16."""
    scales = sum(weight.scales.numel() for weight in stored.weights if hasattr(weight, "scales"))
    return int(stored.weight_bytes - 2 * scales)


@pytest.mark.parametrize(("fact", "value"), [("form", "x"), ("context", "many"), ("context", "-1"), ("chunk", "0")])
def test_what_a_package_says_of_itself_is_not_trusted(bundle: Bundle, tmp_path: Path, fact: str, value: str) -> None:
    copy = Path(shutil.copytree(bundle.path / "model.mlpackage", tmp_path / "copy.mlpackage"))
    edit(copy, lambda spec: spec.description.metadata.userDefined.update({f"edgeqkv.{fact}": value}))
    with pytest.raises(BundleError, match="is damaged: what it says of itself makes no sense"):
        read_artifact(copy)
