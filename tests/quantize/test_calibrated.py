"""Calibration beside the original: what a layer is to produce is what the original's would have produced."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import edgeqkv
from edgeqkv import demo
from edgeqkv.model.model import Model
from edgeqkv.model.weights import Weight
from edgeqkv.quantize import QuantConfig, apply, calibrated, inputs
from edgeqkv.quantize.inputs import Inputs
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.tokenizer import Tokenizer

LENGTH = 128


def windows(text: str, count: int) -> np.ndarray:
    ids = np.array(Tokenizer(demo.tokenizer_path()).encode(text))
    return ids[: len(ids) // LENGTH * LENGTH].reshape(-1, LENGTH)[:count]


def divergence(model: Model, original: Model, tokens: np.ndarray) -> float:
    """Of a model's predictions from the original's, in nats a token."""
    total = 0.0
    for ids in tokens:
        ours, theirs = (torch.from_numpy(sequence_logits(each, ids)).log_softmax(-1) for each in (model, original))
        total += float((theirs.exp() * (theirs - ours)).sum(-1).mean())
    return total / len(tokens)


def test_layers_make_up_for_those_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Text that it is calibrated on is not the text that it is compared on: both are of what no demo was trained on."""
    original = edgeqkv.load(demo.checkpoint_path())
    tokens = windows(demo.heldout_path().read_text(encoding="utf-8"), 32)
    config = QuantConfig("int4", "int8", tokens[:24])
    beside = divergence(apply(original, config), original, tokens[24:])
    monkeypatch.setattr(Inputs, "correction", None)
    alone = divergence(apply(original, config), original, tokens[24:])
    assert 0 < beside < 0.9 * alone


def test_the_matrix_to_be_rounded_comes_closest_to_what_is_wanted() -> None:
    generator = torch.Generator().manual_seed(0)
    wanted = torch.randn(2000, 24, generator=generator)
    x = wanted + 0.3 * torch.randn(2000, 24, generator=generator)
    weight = Weight("w", torch.randn(8, 24, generator=generator))
    target = Inputs(x, wanted).target(weight)
    # Ridge regression from the matrix itself, by another way: rows of zeros that ask the difference to be zero.
    strength = (inputs._CORRECTION_DAMPING * x.square().sum() / 24).sqrt()
    rows = torch.cat([x, strength * torch.eye(24)])
    missing = torch.cat([(wanted - x) @ weight.tensor.T, torch.zeros(24, 8)])
    expected = weight.tensor + torch.linalg.lstsq(rows, missing).solution.T
    assert torch.allclose(target, expected, atol=1e-4)


def test_inputs_as_the_original_has_them_change_nothing() -> None:
    x = torch.randn(100, 16)
    weight = Weight("w", torch.randn(4, 16))
    assert torch.equal(Inputs(x, x).target(weight), weight.tensor)
    assert torch.equal(Inputs(x).target(weight), weight.tensor)
    assert Inputs(x).target(weight) is not weight.tensor, "it is written over"


def test_what_several_matrices_read_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    original = edgeqkv.load(demo.checkpoint_path())
    made: list[Inputs] = []

    def counted(x: torch.Tensor, wanted: torch.Tensor | None = None, alike: float = 0.0) -> Inputs:
        made.append(Inputs(x, wanted, alike))
        return made[-1]

    monkeypatch.setattr(calibrated, "Inputs", counted)
    apply(original, QuantConfig("int4", calibration=windows(demo.heldout_path().read_text(encoding="utf-8"), 4)))
    blocks = original.config.layers
    # Of each block: what queries and keys read, and each of three other matrices; and the head's.
    assert len(made) == 4 * blocks + 1
