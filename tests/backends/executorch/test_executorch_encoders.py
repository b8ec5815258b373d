"""Encoders in ExecuTorch: the original classes' logits, batches, quantized weights."""

from __future__ import annotations

import shutil
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from conftest import ENCODERS, read_encoder_golden
from matrix import sampled

import edgeqkv
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic_encoders import write_random_vit
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import encoder_outputs
from edgeqkv.run.session import open_bundle

# float32 in another order of summation; measured: 1.4e-5 (a softmax that is nearly one-hot).
TOLERANCE = 1e-4


def exported(path: Path, folder: Path, **options: object) -> Bundle:
    model = edgeqkv.load(path)
    return edgeqkv.export(model, "executorch", out=folder / "out", overwrite=True, **options)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(read_encoder_golden("vit_digits_qvv3").path, tmp_path_factory.mktemp("vit"), weights="fp32")


CASES = sampled(
    ((name,) for name in ENCODERS),
    lambda name: name.startswith("vit"),
    lambda name: ENCODERS[name].removesuffix("+2d"),
    lambda name: name.endswith("2d"),
)


@pytest.mark.parametrize("name", CASES)
def test_the_original_classes_logits(name: str, tmp_path: Path) -> None:
    encoder_golden = read_encoder_golden(name)
    bundle = exported(encoder_golden.path, tmp_path, weights="fp32", batch=3, verify=False)
    outputs = open_bundle(bundle).run(encoder_golden.inputs)  # 16 of them: no multiple of 3
    assert np.abs(outputs - encoder_golden.logits).max() < TOLERANCE
    # Every product of matrices is XNNPACK's.
    rows = bundle.target().artifact.details["delegation"]
    kept = {row["operator"] for row in rows if row["kept"]}
    assert kept <= {"aten.native_layer_norm", "aten.embedding", "aten.constant_pad_nd", "aten.expand_copy"}
    assert sum(row["delegated"] for row in rows if row["operator"] == "aten.bmm") == 2 * 2


SMALLER = sampled(
    product(["encoder_reverse_q_eq_k_eq_v_2d", "vit_digits_qvv3"], ["fp16", "int8"]),
    lambda name, _: name,
    lambda _, weights: weights,
)


@pytest.mark.parametrize(("name", "weights"), SMALLER)
def test_smaller_weights(name: str, weights: str, tmp_path: Path) -> None:
    golden = read_encoder_golden(name)
    outputs = open_bundle(exported(golden.path, tmp_path, weights=weights, verify=False)).run(golden.inputs)
    # fp16 keeps 11 bits; XNNPACK also rounds what goes into an int8 product. Measured: 1e-2 and 1.1e-1, of 8.
    assert np.abs(outputs - golden.logits).max() < (0.05 if weights == "fp16" else 0.4)
    assert (outputs.argmax(-1) == golden.logits.argmax(-1)).all()


def test_int4(tmp_path: Path) -> None:
    """Blocks of 32 columns are what XNNPACK takes; the encoders of 48 channels have none."""
    with pytest.raises(UnsupportedError, match=r"48 columns, which do not divide into blocks of 32 .*use weights int8"):
        exported(read_encoder_golden("vit_digits_qkv").path, tmp_path, weights="int4")
    sizes = {"image_size": 12, "channels": 2, "patch": 4, "n_classes": 7, "n_embd": 64, "n_layer": 1, "n_head": 4}
    path = write_random_vit(tmp_path / "vit.pt", "q-k=v", std=0.1, **sizes)
    bundle = exported(path, tmp_path, weights="int4")
    model = edgeqkv.load(path)
    assert isinstance(model, Model)
    images = np.random.default_rng(0).normal(size=(2, 2, 12, 12)).astype(np.float32)
    assert np.corrcoef(open_bundle(bundle).run(images).ravel(), encoder_outputs(model, images).ravel())[0, 1] > 0.95


def test_an_export_is_proven(proven: Bundle) -> None:
    verification = proven.target().verification
    assert verification is not None
    assert verification.passed
    assert verification.max_abs_error < TOLERANCE


def test_a_damaged_file(proven: Bundle, tmp_path: Path) -> None:
    bundle = Bundle(shutil.copytree(proven.path, tmp_path / "copy"))
    (bundle.path / "model.pte").write_bytes(b"nothing")
    with pytest.raises(BundleError, match=r"model\.pte"):
        open_bundle(bundle)
