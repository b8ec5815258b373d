"""Models of which some layers are converted: found, written, read and exported."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY

import edgeqkv
from edgeqkv import CheckpointError, InputError
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.checkpoints.writing import write
from edgeqkv.convert.choice import most_that_hold, parse_layers, within_budget
from edgeqkv.convert.conversion import Candidates, Conversion, candidates
from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import sequence_logits

SIZES = {**TINY, "n_layer": 3}
TOKENS = np.random.default_rng(0).integers(0, TINY["vocab_size"], 48 * 8)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return edgeqkv.load(
        write_random_checkpoint(tmp_path_factory.mktemp("mixed") / "teacher.pt", "qkv", std=0.2, **SIZES)
    )


@pytest.fixture(scope="module")
def found(teacher: Model) -> Candidates:
    return candidates(teacher, "q-k=v+gqa2", TOKENS, windows=8)


@pytest.fixture(scope="module")
def mixed(found: Candidates) -> Model:
    return found.taken((0, 2)).model


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_mixed_model_is_written_and_read(mixed: Model, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"mixed{suffix}"
    write(mixed, path)
    read = edgeqkv.load(path)
    assert read.described == mixed.described == "q-k=v+gqa2, 1 of 3 layers qkv"
    assert (read.variant, read.config) == (mixed.variant, mixed.config)
    assert read.source.model_class == "GPT_Q_GQA and GPT"
    assert [block.attention.roles for block in read.network.blocks] == [("kv",), ("k", "v"), ("kv",)]
    assert read.state_bytes(10, 2) == mixed.state_bytes(10, 2)
    np.testing.assert_array_equal(sequence_logits(read, TOKENS[:40]), sequence_logits(mixed, TOKENS[:40]))


def test_layers_that_stay_compute_what_they_did(teacher: Model, found: Candidates) -> None:
    """Converted by themselves, from what the original passes on: any can be taken without the others."""
    alone = candidates(teacher, "q-k=v+gqa2", TOKENS, windows=8, layers=[1])
    assert list(alone.attentions) == [1]
    assert torch.equal(alone.attentions[1].k.weight.tensor, found.attentions[1].k.weight.tensor)
    assert alone.taken((1,)).lost == (None, found.lost[1], None)
    blocks = alone.taken((1,)).model.network.blocks
    assert blocks[0].attention is teacher.network.blocks[0].attention
    assert blocks[1].attention is alone.attentions[1]


def test_one_form_of_layers_is_named_as_ever(found: Candidates, tmp_path: Path) -> None:
    write(found.taken((0, 1, 2)).model, tmp_path / "whole.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())["model_config"]
    assert "edgeqkv" not in config
    assert config["n_kv_groups"] == 2


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (None, r"layer 1 .* is qkv, layer 0 is q-k=v\+gqa2; .* if their config lists"),
        ({"layers": ["q-k=v+gqa2", "q-k=v", "q-k=v+gqa2"]}, "layer 1 .* is qkv, and its config says that it is q-k=v"),
        ({"layers": ["q-k=v+gqa2", "qkv"]}, "not a list of 3 variants"),
        ({"layers": "qkv"}, "is 'qkv', not a list of 3 variants"),
        ({"layers": [1, 2, 3]}, "layer 0 .* its config says that it is 1"),
        ({"activation": "tanh"}, "'activation' in .* is 'tanh'; edgeqkv knows gelu, gelu_tanh"),
        ({"window": 5}, "'window' in .* is 5, which edgeqkv does not know"),
        ([], "'edgeqkv' in the model_config of .*, not a dict"),
    ],
    ids=["unsaid", "another", "too few", "a word", "numbers", "activation", "unknown", "no dict"],
)
def test_what_a_config_says_of_its_layers_is_held_against_them(
    mixed: Model, own: Any, message: str, tmp_path: Path
) -> None:
    write(mixed, tmp_path / "mixed.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_config"]["edgeqkv"] = own
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=message):
        edgeqkv.load(tmp_path / "mixed.safetensors")


@pytest.mark.parametrize("target", ["onnx", "executorch", "coreml"])
def test_a_mixed_model_is_exported_and_proven(mixed: Model, target: str, tmp_path: Path) -> None:
    pytest.importorskip({"onnx": "onnxruntime", "executorch": "executorch", "coreml": "coremltools"}[target])
    write(mixed, tmp_path / "mixed.pt")
    bundle = edgeqkv.export(edgeqkv.load(tmp_path / "mixed.pt"), target, out=tmp_path / "out", chunk=16)
    card = bundle.target()
    assert card.verification is not None
    assert card.verification.passed
    assert [(layer.merged, layer.kv_heads) for layer in bundle.manifest.model.layers] == [
        (True, 2),
        (False, 4),
        (True, 2),
    ]
    assert bundle.manifest.model.variant == "q-k=v+gqa2"


def test_a_mixed_model_can_be_converted_further(mixed: Model) -> None:
    rest = edgeqkv.convert(mixed, "q-k=v+gqa2", tokens=TOKENS, windows=4)
    assert rest.described == "q-k=v+gqa2"
    assert rest.network.blocks[0].attention is mixed.network.blocks[0].attention
    with pytest.raises(InputError, match=r"layer 0 of teacher\.pt is q-k=v\+gqa2, and q-k=v\+gqa2 would store no less"):
        edgeqkv.convert(mixed, "q-k=v+gqa2", tokens=TOKENS, windows=4, layers=[0, 1])


def ranked(found: Candidates, harm: dict[int, float]) -> Candidates:
    return replace(found, harm=harm)


def test_the_layers_that_lose_most_stay(found: Candidates, teacher: Model) -> None:
    layer, small = 48 * 32 * 2 * 2, 48 * 16 * 2
    harms = ranked(found, {0: 0.3, 1: 0.1, 2: 0.2})
    assert harms.ranked == (1, 2, 0)
    for budget, layers in [(2 * layer + small, (1,)), (layer + 2 * small, (1, 2)), (3 * small, (0, 1, 2))]:
        assert within_budget(harms, budget).layers == layers
        assert within_budget(harms, budget).model.state_bytes(48, 2) <= budget
        assert edgeqkv.convert(teacher, "q-k=v+gqa2", tokens=TOKENS, windows=8, state_budget=budget).state_bytes(
            48, 2
        ) == (budget)


@pytest.mark.parametrize("allowed", [0, 1, 2, 3])
def test_as_many_layers_as_hold_are_found(found: Candidates, allowed: int) -> None:
    asked: list[int] = []

    def holds(conversion: Conversion) -> bool:
        asked.append(len(conversion.layers))
        return len(conversion.layers) <= allowed

    assert len(most_that_hold(found, holds).layers) == max(allowed, 1)
    assert len(asked) <= 3


def test_layers_are_named_by_number() -> None:
    assert parse_layers("0-2,5, 7 - 8") == (0, 1, 2, 5, 7, 8)
    for wrong in ("", "a", "3-1", "1,,2", "-1", "1-2-3", "9" * 9):
        with pytest.raises(InputError, match="names no layers; write them as 0-5,8"):
            parse_layers(wrong)


@pytest.mark.parametrize("memory", [1, 100_000])
def test_what_memory_has_no_room_for_lies_in_a_file(found: Candidates, memory: int, teacher: Model) -> None:
    other = candidates(teacher, "q-k=v+gqa2", TOKENS, windows=8, memory=memory)
    for layer, attention in found.attentions.items():
        for name in ("q", "k", "out"):
            one, two = (getattr(each, name).weight.tensor for each in (attention, other.attentions[layer]))
            assert torch.equal(one, two)
        assert other.attentions[layer].k is other.attentions[layer].v
