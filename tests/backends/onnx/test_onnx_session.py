"""How ONNX Runtime is told to hold and multiply weights, and what comes out of it."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import Golden
from onnx_sessions import every_position

import edgeqkv
from edgeqkv import BundleError
from edgeqkv.backends import backend
from edgeqkv.backends.onnx.runner import opened, settings
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import open_artifact

IN_FLOAT32, UNPACKED = {"mlas.qnbit.force_fp32": "1"}, {"session.disable_prepacking": "1"}

Write = Callable[[QuantConfig], tuple[Model, Artifact]]


@pytest.fixture
def write(gqa_golden: Golden, tmp_path: Path) -> Write:
    def export(recipe: QuantConfig) -> tuple[Model, Artifact]:
        stored = apply(edgeqkv.load(gqa_golden.path), recipe)
        spec = TargetSpec("portable", recipe.weights, "fp32", 64, 16)
        return stored, backend("onnx").export(stored, tmp_path, spec, silent)

    return export


@pytest.mark.parametrize("recipe", [QuantConfig("int4"), QuantConfig("int8"), QuantConfig("int4", "int8")], ids=str)
@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_exact_multiplies_the_stored_codes_in_float32(
    gqa_golden: Golden, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: QuantConfig, machine: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    model, artifact = write(recipe)
    expected = sequence_logits(model, gqa_golden.ids)[19:]
    exact, fast = (
        every_position(open_artifact(tmp_path, artifact, engine), gqa_golden.ids, 20)
        for engine in ("exact", "onnxruntime")
    )
    # float32 in another order of summation. Measured: 3e-6, and 1e-2 where activations are rounded to int8.
    assert np.abs(exact - expected).max() < 1e-4
    assert np.abs(fast - expected).max() > 1e-3


def test_there_are_float32_kernels_for_4_bits_on_x86_64(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    _, four = write(QuantConfig("int4"))
    _, mixed = write(QuantConfig("int4", "int8"))
    _, plain = write(QuantConfig("fp16"))
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert settings("exact", four) == IN_FLOAT32
    assert settings("exact", mixed) == settings("exact", plain) == settings("onnxruntime", plain) == UNPACKED
    assert settings("onnxruntime", four) == settings("onnxruntime", mixed) == {}
    assert settings("exact", Artifact.model_validate_json(four.model_dump_json())) == IN_FLOAT32
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert settings("exact", four) == UNPACKED


def test_a_graph_that_the_runtime_refuses_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"ONNX Runtime cannot load model\.onnx"):
        opened(tmp_path / "model.onnx", {}, 1)
