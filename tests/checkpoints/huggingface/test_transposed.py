"""Weights that are stored the other way round are quantized as if they were not."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hugging_face import VOCABULARY, named

import edgeqkv
from edgeqkv import quantize
from edgeqkv.backends import backend
from edgeqkv.model.model import Model
from edgeqkv.quantize import QuantConfig
from edgeqkv.reference.outputs import sequence_logits

TOKENS = np.random.default_rng(4).integers(3, VOCABULARY, (4, 32))


@pytest.fixture(scope="module")
def transposed(tmp_path_factory: pytest.TempPathFactory) -> Model:
    _, directory = named("gpt2", tmp_path_factory.mktemp("hf") / "gpt2", n_inner=64)
    model = edgeqkv.load(directory)
    assert not model.network.blocks[0].mlp.up.weight.tensor.is_contiguous()
    return model


@pytest.mark.parametrize(
    ("target", "weights", "calibrated", "steps"),
    [("onnx", "int8", False, 0), ("onnx", "int4", True, 2), ("coreml", "lut4", True, 2), ("coreml", "lut4", False, 0)],
)
def test_it_makes_no_difference(transposed: Model, target: str, weights: str, calibrated: bool, steps: int) -> None:
    plain = transposed.with_changed_weights(
        lambda weight: dataclasses.replace(weight, tensor=weight.tensor.contiguous().clone())
    )
    config = QuantConfig(weights, None, TOKENS if calibrated else None, steps, backend(target).schemes)
    one, other = (sequence_logits(quantize.apply(model, config), TOKENS[0]) for model in (transposed, plain))
    assert np.abs(one - other).max() <= 1e-5
    assert np.abs(one - sequence_logits(transposed, TOKENS[0])).max() > 1e-3
