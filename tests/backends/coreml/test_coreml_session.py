"""The session's two engines, the fp16 estimate, and the export from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from coreml_packages import CHUNK, CONTEXT, DATA, export

import edgeqkv
from edgeqkv.backends.coreml import TARGET, runner
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.errors import UnsupportedError
from edgeqkv.mil.evaluator import Evaluator
from edgeqkv.model.variants import Variant
from edgeqkv.pipeline.proof import TOLERANCES, make_proof
from edgeqkv.pipeline.ranges import estimate_ranges
from edgeqkv.run.session import Session, open_artifact

# What coremltools says while it is imported and converts, none of which concerns a user of edgeqkv.
NOISE = ("Torch version", "scikit-learn", "libcoremlpython", "Running MIL", "torchao", "Warning")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Exported and verified by the command line, in a fresh process."""
    out = tmp_path_factory.mktemp("bundle") / "out"
    command = ["export", str(DATA / "k_eq_v_gqa.pt"), "--target", "coreml", "--chunk", str(CHUNK), "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "edgeqkv", *command, "--json"], capture_output=True, text=True, check=True
    )
    return out, done


def test_an_export_is_verified_and_quiet(bundle: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    _, done = bundle
    verification = json.loads(done.stdout)["targets"]["coreml"]["verification"]
    assert verification["passed"]
    assert verification["positions"] == CONTEXT
    assert verification["engine"] == "evaluator"
    # Of how far the logits are from their mean, which is less than the largest of them.
    assert 0.5 * TOLERANCES["fp32"] < verification["tolerance"] / verification["scale"] < TOLERANCES["fp32"]
    assert not [line for line in done.stderr.splitlines() if any(word in line for word in NOISE)]


def test_a_bundle_opens_and_every_file_can_be_read_by_others(
    bundle: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    opened = edgeqkv.open(bundle[0], target="coreml", engine="evaluator")
    assert opened.feed([1, 2, 3]).shape == (257,)
    for item in (bundle[0] / "model.mlpackage").rglob("*"):
        assert item.stat().st_mode & 0o044 == 0o044


def test_core_ml_is_called_as_the_evaluator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for coremltools' MLModel, with its documented signature; no test of Core ML itself."""
    exported = export("k_eq_v_gqa")

    class MLModel:
        def __init__(self, model: str, compute_units: str, function_name: str | None = None) -> None:
            assert compute_units == "CPU_AND_GPU"
            self.evaluator = Evaluator(model, function_name, "fp16")

        def make_state(self) -> Any:
            return self.evaluator.new_state()

        def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
            return self.evaluator.run(data, state)

    units = SimpleNamespace(ALL="ALL", CPU_AND_GPU="CPU_AND_GPU")
    stand_in = SimpleNamespace(models=SimpleNamespace(MLModel=MLModel), ComputeUnit=units)
    monkeypatch.setattr(runner, "import_coremltools", lambda _: stand_in)
    opened = Session(exported.artifact, TARGET.open(exported.directory, exported.artifact, "coreml"))
    assert opened.precision == "fp16"
    got = np.stack([opened.feed(exported.tokens[:20]), opened.feed(exported.tokens[20:21])])
    reference = exported.reference[[19, 20]]
    assert np.abs(got - reference).max() <= TOLERANCES["fp16"] * np.abs(reference).max()

    one_function = export("k_eq_v_gqa", "swift-transformers")
    opened = Session(one_function.artifact, TARGET.open(one_function.directory, one_function.artifact, "coreml"))
    assert np.abs(opened.feed(exported.tokens[:20]) - reference[0]).max() <= TOLERANCES["fp16"] * 10


def test_an_engine_that_does_not_exist() -> None:
    exported = export("k_eq_v_gqa")
    with pytest.raises(UnsupportedError, match="no engine 'ane'"):
        open_artifact(exported.directory, exported.artifact, "ane")


@pytest.mark.parametrize("form", ["linear", "conv"])
@pytest.mark.parametrize("name", ["qkv", "k_eq_v_gqa"])
def test_what_fp16_arithmetic_costs(name: str, form: str) -> None:
    exported = export(name, form)
    estimate = estimate_ranges(exported.directory, exported.artifact, make_proof(exported.model, exported.artifact))
    # fp16 keeps 11 bits, and some twenty roundings lie behind a logit. Zero would mean that nothing was rounded.
    assert 1e-4 < estimate["max_abs_error"] <= TOLERANCES["fp16"] * estimate["scale"]
    assert estimate["argmax_equal"] >= estimate["steps"] - 1
    assert estimate["overflowed"] == []
    headrooms = [place["headroom"] for place in estimate["narrowest"]]
    assert len(headrooms) == 5
    assert headrooms == sorted(headrooms)
    assert all("mask" not in place["operation"] for place in estimate["narrowest"])
    json.dumps(estimate)


def test_an_activation_beyond_fp16_is_named(tmp_path: Path) -> None:
    """Weights that fit, and products that do not: fp32 arithmetic passes, the estimate tells what would happen."""
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 1, "n_positions": 32, "vocab_size": 61}
    checkpoint = random_checkpoint(Variant.parse("q-k=v"), std=0.2, **sizes)
    checkpoint["model_state_dict"]["h.0.mlp.c_fc.bias"][0] = 6e4
    checkpoint["model_state_dict"]["h.0.mlp.c_proj.weight"][:, 0] = 2.0
    torch.save(checkpoint, tmp_path / "loud.pt")
    exported = export(tmp_path / "loud.pt", "linear", chunk=8, context=32)
    estimate = estimate_ranges(exported.directory, exported.artifact, make_proof(exported.model, exported.artifact))
    assert any("prefill/" in place for place in estimate["overflowed"])
    assert estimate["narrowest"][0]["type"] == "linear"
    assert estimate["narrowest"][0]["headroom"] < 1


def test_the_backend_offers_core_ml_on_a_mac_alone() -> None:
    own = ("evaluator", "evaluator-fp16")
    assert TARGET.engines == (("coreml", *own) if sys.platform == "darwin" else own)
    listed = (
        "import sys, edgeqkv.backends; sys.platform = 'darwin'; "
        "from edgeqkv.backends.coreml import TARGET; print(*TARGET.engines)"
    )
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["coreml", *own]


def test_running_a_package_imports_nothing_that_builds_one() -> None:
    """Every process that proves one would spend four seconds on it."""
    listed = "import sys; from edgeqkv.backends.coreml import runner, held; print('coremltools' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_offering_it_imports_nothing_heavy() -> None:
    listed = "import sys, edgeqkv.backends.coreml; print([m for m in ('torch', 'coremltools') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", listed], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
