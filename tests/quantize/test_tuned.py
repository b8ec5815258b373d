from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Golden

import edgeqkv
from edgeqkv import InputError, demo
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.model.weights import QuantizedWeight
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig, apply, tuning_steps
from edgeqkv.quantize.tuned import tune
from edgeqkv.reference.outputs import sequence_logits

STEPS = 120


def text(seed: int, sequences: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 257, (sequences, 32))


def divergence(model: Model, original: Model, ids: np.ndarray) -> float:
    """Of a model's predictions from the original's, in nats a token."""
    ours, theirs = (torch.from_numpy(sequence_logits(each, ids)).log_softmax(-1) for each in (model, original))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


@pytest.fixture(scope="module")
def original() -> Model:
    from conftest import read_golden

    return edgeqkv.load(read_golden("k_eq_v_gqa").path)


@pytest.fixture(scope="module")
def rounded(original: Model) -> Model:
    """To nearest, where there is more to learn than after a calibration."""
    return apply(original, QuantConfig("int4", "int8"))


@pytest.fixture(scope="module")
def tuned(original: Model, rounded: Model) -> Model:
    return tune(original, rounded, text(0, 32), STEPS, silent)


def test_it_comes_closer_to_the_original_on_other_text(original: Model, rounded: Model, tuned: Model) -> None:
    other = text(1, 4)
    before, after = (np.mean([divergence(each, original, ids) for ids in other]) for each in (rounded, tuned))
    assert 0 < after < 0.8 * before


def test_what_is_tuned_is_stored_as_what_is_not(rounded: Model, tuned: Model) -> None:
    assert tuned.network.head is tuned.network.token_table
    assert all(block.attention.k is block.attention.v for block in tuned.network.blocks)
    assert tuned.weight_bytes == rounded.weight_bytes
    for weight in tuned.weights:
        if not isinstance(weight, QuantizedWeight):
            assert weight.precision == "fp16"
            continue
        scheme = weight.scheme
        assert weight.codes.dtype == torch.int8
        assert scheme.lowest <= weight.codes.min() < weight.codes.max() <= scheme.highest
        every_code = torch.arange(scheme.lowest, scheme.highest + 1).float()
        products = every_code[:, None] * weight.scales.flatten()[None]
        assert torch.equal(products.half().float(), products)


def test_everything_takes_part(rounded: Model, tuned: Model) -> None:
    changed = {4: 0, 8: 0}
    for before, after in zip(rounded.weights, tuned.weights, strict=True):
        assert before.name == after.name
        assert not torch.equal(before.values(), after.values()), after.name
        if isinstance(before, QuantizedWeight) and isinstance(after, QuantizedWeight):
            changed[after.scheme.bits] += int((before.codes != after.codes).sum())
            # int8 scales have too few digits to be moved.
            assert torch.equal(before.scales, after.scales) == (after.scheme.bits == 8), after.name
    assert all(changed.values())


def test_a_backend_that_rounds_int8_again_starts_from_what_was_tuned(tuned: Model) -> None:
    head = tuned.network.head
    assert isinstance(head, QuantizedWeight)
    steps = head.scales.repeat_interleave(head.scheme.block, 1)
    assert bool(((head.tensor - head.values()).abs() <= 0.500001 * steps).all())


def test_the_same_text_gives_the_same_weights(gqa_golden: Golden) -> None:
    first, second = (
        apply(edgeqkv.load(gqa_golden.path), QuantConfig("int4", calibration=text(0, 8), tuning=3)) for _ in range(2)
    )
    for one, other in zip(first.weights, second.weights, strict=True):
        assert torch.equal(one.values(), other.values())


def test_it_says_how_far_it_is(gqa_golden: Golden) -> None:
    told: list[float | None] = []
    apply(
        edgeqkv.load(gqa_golden.path),
        QuantConfig("int4", calibration=text(0, 2), tuning=4),
        lambda stage, part: told.append(part) if stage == "tuning" else None,
    )
    assert told == [0, 0.25, 0.5, 0.75]


def test_unless_asked_it_is_for_small_models_at_four_bits(tmp_path: Path) -> None:
    small = edgeqkv.load(demo.checkpoint_path())
    assert tuning_steps(small, "int4") == 300
    assert tuning_steps(small, "int8") == tuning_steps(small, "fp16") == 0
    sizes = {"n_layer": 1, "n_embd": 64, "n_head": 4, "n_positions": 8, "vocab_size": 160_000}
    large = edgeqkv.load(write_random_checkpoint(tmp_path / "large.pt", "q-k=v+gqa2", **sizes))
    assert tuning_steps(large, "int4") == 0


def test_the_manifest_says_how_it_was_done(tmp_path: Path) -> None:
    words = demo.tokenizer_path()
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 64, "vocab_size": 1024}
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "q-k=v+gqa2", std=0.2, **sizes))
    text = tmp_path / "some.txt"
    text.write_text(demo.heldout_path().read_text(encoding="utf-8")[:2000], encoding="utf-8")

    def card(**choices: object) -> dict[str, object]:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        bundle = edgeqkv.export(model, out=out, tokenizer=words, verify=False, context=64, **choices)  # type: ignore[arg-type]
        quantization = bundle.target().quantization
        assert quantization is not None
        return quantization.model_dump(exclude={"weights", "head"})

    assert card(calibrate=text, tune=2) == {"method": "gptq+tuned", "tuning": 2, "calibration": "some.txt"}
    assert card(calibrate=text, tune=0) == {"method": "gptq", "tuning": 0, "calibration": "some.txt"}
    assert card(calibrate=text, weights="int8") == {"method": "gptq", "tuning": 0, "calibration": "some.txt"}
    assert card() == {"method": "nearest", "tuning": 0, "calibration": None}
    with pytest.raises(InputError, match="tuning needs a text; give one with --calibrate"):
        card(tune=5)
    with pytest.raises(InputError, match="-1 steps of tuning are impossible"):
        card(calibrate=text, tune=-1)
