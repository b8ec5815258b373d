"""Encoders in ONNX Runtime: the original classes' logits, answers on fresh data, batches, quantized weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import ENCODERS, EncoderGolden, read_encoder_golden
from sklearn.datasets import load_digits

import edgeqkv
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic_encoders import random_set_model, write_random_vit
from edgeqkv.errors import InputError, UnsupportedError
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.reference.outputs import encoder_outputs
from edgeqkv.run.session import open_bundle

# float32 in another order of summation; measured: 1.4e-5 (a softmax that is nearly one-hot).
TOLERANCE = 1e-4

REVERSE = [name for name in ENCODERS if name.startswith("encoder")]
DIGITS = [name for name in ENCODERS if name.startswith("vit")]


def load(path: Path) -> Model:
    model = edgeqkv.load(path)
    assert isinstance(model, Model)
    return model


def exported(model: Model, folder: Path, **options: object) -> Bundle:
    return edgeqkv.export(model, "onnx", out=folder / "out", overwrite=True, **options)


@pytest.mark.parametrize("batch", [1, 3])
def test_the_original_classes_logits(encoder_golden: EncoderGolden, tmp_path: Path, batch: int) -> None:
    bundle = exported(load(encoder_golden.path), tmp_path, weights="fp32", batch=batch, verify=False)
    onnx.checker.check_model(tmp_path / "out" / "model.onnx", full_check=True)
    outputs = open_bundle(bundle).run(encoder_golden.inputs)  # 16 of them: no multiple of 3
    assert np.abs(outputs - encoder_golden.logits).max() < TOLERANCE


@pytest.mark.parametrize("weights", ["fp16", "int8", "int4"])
@pytest.mark.parametrize("name", ["encoder_reverse_q_eq_k_eq_v_2d", "vit_digits_q_ne_k_eq_v"])
def test_stored_numbers_are_what_is_computed_with(name: str, weights: str, tmp_path: Path) -> None:
    golden = read_encoder_golden(name)
    bundle = exported(load(golden.path), tmp_path, weights=weights, batch=2)
    verification = bundle.target().verification
    assert verification is not None
    assert verification.engine == "exact"
    assert verification.max_abs_error < TOLERANCE  # against the de-quantized weights
    # The fast kernels round activations to int8 too; the answers are the same.
    outputs = open_bundle(bundle).run(golden.inputs)
    assert (outputs.argmax(-1) == golden.logits.argmax(-1)).all()


@pytest.mark.parametrize("name", REVERSE)
def test_fresh_sequences_are_reversed(name: str, tmp_path: Path) -> None:
    model = load(read_encoder_golden(name).path)
    sequences = np.random.default_rng(7).integers(0, 10, (200, 16))
    original = (encoder_outputs(model, sequences).argmax(-1) == sequences[:, ::-1]).mean()
    assert original > 0.999
    for weights, allowed in (("fp32", 0.0), ("int8", 0.005)):
        session = open_bundle(exported(model, tmp_path, weights=weights, batch=50, verify=False))
        assert abs((session.run(sequences).argmax(-1) == sequences[:, ::-1]).mean() - original) <= allowed


@pytest.mark.parametrize("name", DIGITS)
def test_handwritten_digits(name: str, tmp_path: Path) -> None:
    model = load(read_encoder_golden(name).path)
    digits = load_digits()
    images = (digits.images / 16 - 0.5).astype(np.float32)[:, None]
    original = (encoder_outputs(model, images).argmax(-1) == digits.target).mean()
    assert original > 0.95
    for weights, allowed in (("fp32", 0.0), ("int8", 0.005)):
        session = open_bundle(exported(model, tmp_path, weights=weights, batch=100, verify=False))
        assert abs((session.run(images).argmax(-1) == digits.target).mean() - original) <= allowed


def test_a_set_model(tmp_path: Path) -> None:
    torch.save(random_set_model(Variant.parse("q-k=v"), std=0.1, n_embd=32, n_layer=2, n_head=4), tmp_path / "set.pt")
    model = load(tmp_path / "set.pt")
    inputs = np.random.default_rng(0).normal(size=(5, 10, 512)).astype(np.float32)
    for batch in (1, 2):
        outputs = open_bundle(exported(model, tmp_path, weights="fp32", batch=batch, verify=False)).run(inputs)
        assert np.abs(outputs - encoder_outputs(model, inputs)).max() < TOLERANCE


@pytest.mark.parametrize("size", [11, 12, 13])
def test_images_are_padded_to_whole_patches(tmp_path: Path, size: int) -> None:
    sizes = {"channels": 3, "patch": 4, "n_classes": 7, "n_embd": 32, "n_layer": 1, "n_head": 4}
    model = load(write_random_vit(tmp_path / "vit.pt", "q=k=v", std=0.2, image_size=size, **sizes))
    bundle = exported(model, tmp_path, weights="fp32", verify=False)
    assert any(node.op_type == "Pad" for node in _graph(bundle).node) == (size % 4 != 0)
    images = np.random.default_rng(0).normal(size=(2, 3, size, size)).astype(np.float32)
    assert np.abs(open_bundle(bundle).run(images) - encoder_outputs(model, images)).max() < TOLERANCE


def test_a_shared_projection_is_computed_once(encoder_golden: EncoderGolden, tmp_path: Path) -> None:
    model = load(encoder_golden.path)
    products = [
        node for node in _graph(exported(model, tmp_path, weights="fp32", verify=False)).node if node.op_type == "Gemm"
    ]
    projections = {"qkv": 3, "q=k-v": 2, "q-k=v": 2, "qvv3": 2, "q=k=v": 1}[str(model.variant.sharing)]
    layers, outside = model.config.layers, 2 if model.config.input.kind == "image" else 1
    assert len(products) == layers * (projections + 3) + outside


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (np.zeros((1, 15), np.int64), r"takes token ids of shape \[n, 16\], not int64 of shape \[1, 15\]"),
        (np.zeros((1, 16), np.float32), "takes token ids .* not float32"),
        (np.zeros((0, 16), np.int64), "not int64 of shape"),
        (np.full((1, 16), 10), "token 10 is not in this model's vocabulary, 0 to 9"),
        (np.full((1, 16), -1), "token -1 is not"),
    ],
)
def test_inputs_that_the_model_does_not_take(inputs: np.ndarray, message: str, tmp_path: Path) -> None:
    bundle = exported(load(read_encoder_golden("encoder_reverse_qkv").path), tmp_path, verify=False)
    with pytest.raises(InputError, match=message):
        open_bundle(bundle).run(inputs)


def test_pixels_that_are_no_numbers(tmp_path: Path) -> None:
    bundle = exported(load(read_encoder_golden("vit_digits_qkv").path), tmp_path, verify=False)
    with pytest.raises(InputError, match="NaN or infinity"):
        open_bundle(bundle).run(np.full((1, 1, 8, 8), np.nan, np.float32))


def test_what_onnx_cannot_do(tmp_path: Path) -> None:
    model = load(read_encoder_golden("vit_digits_qkv").path)
    for options, error, message in (
        ({"image_input": True, "mean": [0.5], "std": [1.0]}, UnsupportedError, "ONNX has no type for images"),
        ({"form": "portable"}, UnsupportedError, "cannot do form 'portable'; it can do static"),
        ({"weights": "int2"}, UnsupportedError, "cannot do weights 'int2'"),
        ({"batch": 0}, InputError, "a batch of 0 is impossible"),
        ({"mean": [0.5, 0.5], "std": [1.0, 1.0]}, InputError, "it needs 1 numbers, one a channel"),
        ({"mean": [0.5]}, InputError, "mean and std go together"),
        ({"mean": [0.5], "std": [0.0]}, InputError, "std 0 is impossible, as a deviation of pixels"),
    ):
        with pytest.raises(error, match=message):
            exported(model, tmp_path, **options)
        assert not (tmp_path / "out").exists()


def _graph(bundle: Bundle) -> onnx.GraphProto:
    return onnx.load(bundle.path / "model.onnx", load_external_data=False).graph
