"""A conversion from files to a file: what is checked before, what is measured, and when nothing is written."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgeqkv
from edgeqkv import InputError, UnsupportedError, VerificationFailed, demo
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.pipeline.conversion import ConvertSpec, run_convert
from edgeqkv.pipeline.distillation import Amount

SIZES = {"n_layer": 2, "n_embd": 64, "n_head": 4, "n_positions": 64, "vocab_size": 1024}


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "qkv", std=0.2, **SIZES))


@pytest.fixture
def spec(tmp_path: Path) -> ConvertSpec:
    text = tmp_path / "text.txt"
    text.write_text(demo.heldout_path().read_text(encoding="utf-8")[:4000], encoding="utf-8")
    return ConvertSpec("q-k=v+gqa2", text, tmp_path / "out.pt", tokenizer=demo.tokenizer_path())


def test_a_conversion_is_measured_and_written(model: Model, spec: ConvertSpec) -> None:
    stages: list[str] = []
    done = run_convert(model, replace(spec, text=spec.calibrate), lambda stage, part=None: stages.append(stage))
    assert done.quality is not None
    assert done.quality.original is not None
    assert done.quality.perplexity > done.quality.original > 1
    assert len(done.conversion.lost) == 2
    read = edgeqkv.load(spec.out)
    assert str(read.variant) == "q-k=v+gqa2"
    made = torch.load(spec.out, weights_only=True)["train_config"]
    assert made == {"converted_from": "qkv", "calibrated_on": "text.txt"}
    assert stages[0] == "converting layer 1 of 2"
    assert stages[-1] == "writing"


def test_what_loses_too_much_is_not_written(model: Model, spec: ConvertSpec) -> None:
    with pytest.raises(VerificationFailed, match=r"more, where 0\.0% is allowed\. Nothing was written"):
        run_convert(model, replace(spec, text=spec.calibrate, max_degradation=0.0))
    assert not spec.out.exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"variant": "q=k=v"}, UnsupportedError, "nothing converts to q=k=v"),
        ({"tokenizer": None}, InputError, "give it with --tokenizer"),
        ({"max_degradation": 0.01}, InputError, "give one with --text"),
        ({"max_degradation": -0.01, "text": Path("text.txt")}, InputError, "--max-degradation -1 is impossible"),
        ({"text": Path("missing.txt")}, InputError, "cannot read missing.txt"),
        ({"out": Path("/")}, InputError, "is a folder"),
        ({"windows": 0}, InputError, "0 windows"),
    ],
)
def test_what_makes_no_sense_is_said_and_nothing_is_written(
    changes: dict[str, object], error: type[Exception], message: str, model: Model, spec: ConvertSpec
) -> None:
    with pytest.raises(error, match=message):
        run_convert(model, replace(spec, **changes))
    assert not spec.out.exists()


def test_distillation_is_taken_only_if_it_helps(
    model: Model, spec: ConvertSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(spec, distill=Amount(steps=3), overwrite=True)
    done = run_convert(model, spec)
    assert done.distillation is not None
    made = torch.load(spec.out, weights_only=True)["train_config"]
    assert ("distilled_steps" in made) == done.distillation.taken
    left = {path.name for path in spec.out.parent.glob("out.pt*")} - {"out.pt.distilling.tensorboard"}
    assert left == {"out.pt", "out.pt.distilling.jsonl"}

    closed = run_convert(model, replace(spec, distill=None)).conversion.model
    for better in (True, False):
        # the closed form leaves the token table as it is, distillation does not
        def perplexity(of: Model, *_: object, better: bool = better) -> tuple[float, int]:
            is_closed = torch.equal(of.network.token_table.values(), closed.network.token_table.values())
            return (10.0 if is_closed == better else 9.0), 1

        monkeypatch.setattr("edgeqkv.pipeline.distillation.original_perplexity", perplexity)
        done = run_convert(model, spec)
        assert done.distillation is not None
        assert done.distillation.taken == better
        kept = done.conversion.model.network.token_table.values()
        assert torch.equal(kept, closed.network.token_table.values()) != better
