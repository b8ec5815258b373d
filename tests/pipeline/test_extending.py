"""A target and a family, a file each and registered by a line each, go through everything that users call."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import toy_family
import toy_target
from conftest import read_encoder_golden

import edgeqkv
from edgeqkv import checkpoints
from edgeqkv.backends import REGISTRY
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.pipeline.verify import verify
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.generate import Generation


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FORMATS", checkpoints.FORMATS)
    monkeypatch.setitem(REGISTRY, "toy", "")  # so that it is gone afterwards
    # Where the processes that run artifacts find it; a target that people install is found without.
    monkeypatch.setenv("PYTHONPATH", str(Path(toy_target.__file__).parent), prepend=":")
    toy_target.register()
    toy_family.register()


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("weights", ["fp32", "int8"])
def test_a_new_family_on_a_new_target(tmp_path: Path, weights: str) -> None:
    toy_family.write(tmp_path / "toy.pt")
    model = edgeqkv.load(tmp_path / "toy.pt")
    out = tmp_path / "out"
    bundle = edgeqkv.export(model, "toy", out=out, weights=weights, chunk=16, variant="qk_v+gqa2")
    proof = bundle.target().verification
    assert proof is not None
    assert proof.passed
    assert verify(Bundle(out), against=model).passed
    session = edgeqkv.open(out)
    prompt = [3, 1, 4, 1, 5]
    generated = list(Generation(session, prompt, max_tokens=10))
    assert session.state_bytes == model.state_bytes(toy_family.POSITIONS, 4)
    if weights == "fp32":
        logits = sequence_logits(model, prompt + generated)
        assert generated == logits.argmax(1)[len(prompt) - 1 : -1].tolist()
    (measured,) = edgeqkv.bench(out, prompt=20, generate=4, fills=[24], repeats=2, rounds=1)
    assert (measured.target, measured.count, measured.decode[0].fill) == ("toy", 20, 24)
    assert measured.prompt_per_second > 0


@pytest.mark.usefixtures("toys")
def test_an_encoder_on_a_new_target(tmp_path: Path) -> None:
    golden = read_encoder_golden("vit_digits_q_eq_k_eq_v_2d")
    bundle = edgeqkv.export(edgeqkv.load(golden.path), "toy", out=tmp_path / "out", weights="fp32", batch=3)
    assert bundle.target().verification is not None
    outputs = edgeqkv.open(tmp_path / "out").run(golden.inputs)
    assert np.abs(outputs - golden.logits).max() <= 1e-4


@pytest.mark.usefixtures("toys")
def test_other_targets_hold_a_new_family_too(tmp_path: Path) -> None:
    """Whose tensors' names begin with digits, which are no names to Core ML."""
    toy_family.write(tmp_path / "toy.pt")
    bundle = edgeqkv.export(edgeqkv.load(tmp_path / "toy.pt"), "coreml", out=tmp_path / "out", weights="int8")
    assert (verification := bundle.target("coreml").verification) is not None
    assert verification.passed
