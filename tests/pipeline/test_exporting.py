from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Golden

import edgeqkv
from edgeqkv import CheckpointError, InputError, UnsupportedError, VariantError, demo
from edgeqkv.checkpoints.synthetic import random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.reference.outputs import sequence_logits


def test_the_sentence_we_live_by(golden: Golden, tmp_path: Path) -> None:
    """``edgeqkv export model.pt --target onnx --variant …`` on every class; the golden logits at every position."""
    model = edgeqkv.load(golden.path)
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "out", variant=golden.variant, chunk=16, weights="fp32")
    result = bundle.target().verification
    assert result is not None
    assert result.passed
    session = edgeqkv.open(tmp_path / "out")
    rows = [session.feed(golden.ids[:20]), *(session.feed([token]) for token in golden.ids[20:])]
    assert np.abs(np.stack(rows) - golden.logits[19:]).max() <= 1e-4
    assert session.state_bytes == model.state_bytes(64, 4)


@pytest.mark.parametrize("claim", ["qk_v+gqa4", "q-k=v+gqa-4", "Q-K=V+gqa4"])
def test_a_true_claim_in_any_spelling(gqa_golden: Golden, claim: str, tmp_path: Path) -> None:
    edgeqkv.export(edgeqkv.load(gqa_golden.path), "onnx", out=tmp_path / "out", variant=claim, verify=False)


def test_a_false_claim_is_told_what_the_checkpoint_is(gqa_golden: Golden, tmp_path: Path) -> None:
    model = edgeqkv.load(gqa_golden.path)
    for claim in ("qkv", "qk_v", "qk_v+gqa2", "mqa"):
        with pytest.raises(VariantError, match=r"is q-k=v\+gqa4, not .*--variant q-k=v\+gqa4"):
            edgeqkv.export(model, "onnx", out=tmp_path / "out", variant=claim)
    with pytest.raises(VariantError, match="8 query heads do not divide among 3"):
        edgeqkv.export(model, "onnx", out=tmp_path / "out", variant="qk_v+gqa3")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"context": 49}, "context of 49 is impossible.*trained for 48 positions"),
        ({"context": 0}, "context of 0 is impossible"),
        ({"chunk": 0}, "chunk of 0 is impossible"),
        ({"chunk": 49}, "chunk of 49 is impossible with a context of 48"),
        ({"weights": "int3"}, "ONNX cannot do weights 'int3'; it can do int4, int8, fp16, fp32"),
        ({"state": "fp8"}, "ONNX cannot do state 'fp8'; it can do fp32"),
        (
            {"target": "coreml", "state": "int8"},
            "Core ML cannot do state 'int8'; it can do fp16. For state 'int8': --target onnx or executorch",
        ),
        ({"form": "fast"}, "ONNX cannot do form 'fast'; it can do portable, static"),
        ({"target": "tflite"}, "unknown target 'tflite'; edgeqkv exports to onnx"),
        ({"target": []}, "no target was given"),
        ({"tokenizer": "nowhere.json"}, r"nowhere\.json: there is no such tokenizer file"),
    ],
)
def test_choices_that_make_no_sense(
    tiny_model: Model, tmp_path: Path, choices: dict[str, object], message: str
) -> None:
    with pytest.raises((InputError, UnsupportedError), match=message):
        edgeqkv.export(tiny_model, **{"target": "onnx", "out": tmp_path / "out", **choices})  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_context_may_be_anything_that_the_model_was_trained_for(tiny_model: Model, tmp_path: Path) -> None:
    for context in (1, 2, 3, 7, 48):
        bundle = edgeqkv.export(tiny_model, "onnx", out=tmp_path / str(context), context=context)
        artifact = bundle.target().artifact
        assert (artifact.context, artifact.chunk) == (context, context)
        assert artifact.state_bytes == tiny_model.state_bytes(context, 4)


def test_not_a_number_stops_before_anything_is_written(tmp_path: Path) -> None:
    from conftest import TINY

    checkpoint = random_checkpoint(edgeqkv.Variant.parse("q-k=v"), **TINY)
    checkpoint["model_state_dict"]["wte.weight"][0, 0] = torch.nan
    torch.save(checkpoint, tmp_path / "nan.pt")
    with pytest.raises(CheckpointError, match=r"'wte\.weight' in nan\.pt holds 1 values that are NaN"):
        edgeqkv.export(edgeqkv.load(tmp_path / "nan.pt"), "onnx", out=tmp_path / "out")
    assert [entry.name for entry in tmp_path.iterdir()] == ["nan.pt"]


def test_weights_beyond_half_precision_are_named(tmp_path: Path) -> None:
    from conftest import TINY

    checkpoint = random_checkpoint(edgeqkv.Variant.parse("q-k=v"), **TINY)
    checkpoint["model_state_dict"]["h.0.mlp.c_fc.weight"][0, 0] = -70000
    torch.save(checkpoint, tmp_path / "m.pt")
    with pytest.raises(UnsupportedError, match=r"'h\.0\.mlp\.c_fc\.weight' reaches 7e\+04, beyond fp16's"):
        edgeqkv.export(edgeqkv.load(tmp_path / "m.pt"), "onnx", out=tmp_path / "out", weights="fp16")


def test_rounded_weights_are_a_model_of_their_own(gqa_golden: Golden) -> None:
    model = edgeqkv.load(gqa_golden.path)
    rounded = model.with_weights("fp16")
    attention = rounded.network.blocks[0].attention
    assert attention.k is attention.v
    assert rounded.network.head is rounded.network.token_table
    assert rounded.parameters == model.parameters
    assert rounded.weight_bytes * 2 == model.weight_bytes
    table = rounded.network.token_table.values()
    assert torch.equal(table, model.network.token_table.tensor.half().float())
    assert np.abs(sequence_logits(rounded, gqa_golden.ids) - gqa_golden.logits).max() < 1e-2


def test_pages_that_were_given_back_are_read_again(gqa_golden: Golden) -> None:
    model = edgeqkv.load(gqa_golden.path)
    before = [weight.tensor.clone() for weight in model.weights]
    for weight in model.weights:
        weight.release_pages()
    assert all(torch.equal(weight.tensor, kept) for weight, kept in zip(model.weights, before, strict=True))


def test_the_manifest_says_which_tokenizer_was_taken_and_what_ends_a_text(tmp_path: Path) -> None:
    model = edgeqkv.load(demo.checkpoint_path())
    content = json.loads(demo.tokenizer_path().read_text(encoding="utf-8"))
    cut = {"direction": "Right", "max_length": 16, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "mine.json").write_text(json.dumps({**content, "truncation": cut}))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [3, 5]}')
    told: list[tuple[dict[str, Any], tuple[int, ...], str]] = [
        ({}, (3, 5), "generation_config.json"),
        ({"eos": 7}, (7,), "--eos"),
        ({"eos": ["<|endoftext|>", 9]}, (0, 9), "--eos"),
    ]
    for asked, ids, source in told:
        bundle = edgeqkv.export(
            model, out=tmp_path / "b", tokenizer=tmp_path / "mine.json", verify=False, overwrite=True, **asked
        )
        card = bundle.manifest.tokenizer
        assert card is not None
        assert (card.source, card.eos_token_ids, card.eos_source) == ("mine.json", ids, source)
        (note,) = card.notes
        assert note == "mine.json asks for truncation, which is switched off: a text is encoded whole"
    assert json.loads((tmp_path / "b" / "tokenizer.json").read_text())["truncation"] is None
