"""The reference of encoders against the original classes, and against an independent set model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EncoderGolden, read_encoder_golden
from torch import nn

import edgeqkv
from edgeqkv.checkpoints.synthetic_encoders import random_set_model
from edgeqkv.model.model import Model
from edgeqkv.model.variants import Variant
from edgeqkv.reference.outputs import encoder_outputs

# float32 in another order of summation, grown through a softmax that is nearly one-hot. Measured: 1.3e-5.
TOLERANCE = 1e-4


def load(path: Path) -> Model:
    model = edgeqkv.load(path)
    assert isinstance(model, Model)
    return model


def test_the_original_classes_logits(encoder_golden: EncoderGolden) -> None:
    outputs = encoder_outputs(load(encoder_golden.path), encoder_golden.inputs)
    assert outputs.shape == encoder_golden.logits.shape
    assert np.abs(outputs - encoder_golden.logits).max() < TOLERANCE


def test_a_wrong_position_term_would_be_seen() -> None:
    """The tolerance is far below what the 2-D term does."""
    golden = read_encoder_golden("encoder_reverse_q_eq_k_eq_v_2d")
    model = load(golden.path)
    term = model.network.blocks[0].attention.term
    assert term is not None
    term.bias.tensor.mul_(1.1)
    assert np.abs(encoder_outputs(model, golden.inputs) - golden.logits).max() > 10 * TOLERANCE


@pytest.mark.parametrize("variant", ["qkv", "q-k=v", "q=k-v+2d", "q=k=v", "qvv3"])
def test_a_set_model_against_plain_modules(variant: str, tmp_path: Path) -> None:
    checkpoint = random_set_model(Variant.parse(variant), std=0.1, n_embd=32, n_layer=2, n_head=4)
    torch.save(checkpoint, tmp_path / "set.pt")
    inputs = np.random.default_rng(0).normal(size=(3, 10, 512)).astype(np.float32)
    expected = _set_logits(checkpoint["model_state_dict"], torch.from_numpy(inputs))
    assert np.abs(encoder_outputs(load(tmp_path / "set.pt"), inputs) - expected.numpy()).max() < TOLERANCE


@torch.inference_mode()
def _set_logits(state: dict[str, torch.Tensor], x: torch.Tensor, heads: int = 4) -> torch.Tensor:
    """The model as its description has it, written another way: a loop over heads."""

    def linear(name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    def norm(name: str, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"])

    x = linear("embed", x)
    for layer in range(2):
        name = f"blocks.{layer}"
        h, at = norm(f"{name}.ln1", x), f"{name}.attn"
        if f"{at}.c_qkv.weight" in state:
            q = k = v = linear(f"{at}.c_qkv", h)
        elif f"{at}.c_qk.weight" in state:
            q, v = linear(f"{at}.c_qk", h), linear(f"{at}.c_v", h)
            k = q
        elif f"{at}.c_kv.weight" in state:
            q, k = linear(f"{at}.c_q", h), linear(f"{at}.c_kv", h)
            v = k
        elif f"{at}.c_q1.weight" in state:
            q, k = linear(f"{at}.c_q2", linear(f"{at}.c_q1", h)), linear(f"{at}.c_v", h)
            v = k
        else:
            q, k, v = (linear(f"{at}.c_{part}", h) for part in "qkv")
        mixed = []
        for part in range(heads):
            rows = slice(part * 8, part * 8 + 8)
            scores = q[..., rows] @ k[..., rows].transpose(1, 2) / 8**0.5
            if f"{at}.pos2d" in state:
                encoded = scores[..., None] + state[f"{at}.pos2d"]
                scores = encoded @ state[f"{at}.pos_w"] + state[f"{at}.pos_b"]
            mixed.append(scores.softmax(-1) @ v[..., rows])
        x = x + linear(f"{at}.c_proj", torch.cat(mixed, -1))
        x = x + linear(f"{name}.mlp.2", nn.functional.gelu(linear(f"{name}.mlp.0", norm(f"{name}.ln2", x))))
    return linear("head", norm("ln_f", x)).squeeze(-1)
