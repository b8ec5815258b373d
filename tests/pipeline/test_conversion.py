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
    assert stages[0] == "converting 2 layers"
    assert stages[-1] == "writing"


def test_what_loses_too_much_is_not_written(model: Model, spec: ConvertSpec) -> None:
    with pytest.raises(VerificationFailed, match=r"more, where 0\.0% is allowed\. Nothing was written"):
        run_convert(model, replace(spec, text=spec.calibrate, max_degradation=0.0))
    assert not spec.out.exists()


def test_a_size_of_the_state_leaves_the_layers_that_lose_most(model: Model, spec: ConvertSpec) -> None:
    # A layer takes 2 · 64 · 64 · 2 bytes as it was, and a quarter of that converted.
    done = run_convert(model, replace(spec, auto=True, state_budget=16384 + 4096))
    (converted,) = done.conversion.layers
    first, second = done.conversion.lost
    assert first is not None
    assert second is not None
    assert edgeqkv.load(spec.out).state_bytes(64, 2) == 16384 + 4096
    both = run_convert(model, replace(spec, auto=True, state_budget=10000, overwrite=True))
    assert both.conversion.layers == (0, 1)
    assert edgeqkv.load(spec.out).state_bytes(64, 2) == 8192
    assert converted in (0, 1)


def test_as_many_layers_are_converted_as_the_degradation_allows(
    model: Model, spec: ConvertSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = replace(spec, text=spec.calibrate, auto=True)
    one = run_convert(model, replace(spec, max_degradation=None, state_budget=16384 + 4096))
    for allowed, layers in ((0.25, (0, 1)), (0.15, one.conversion.layers)):
        # a tenth more for each layer that was converted

        def perplexity(of: Model, *_: object) -> tuple[float, int]:
            return 10.0 + sum(block.attention.merged for block in of.network.blocks), 100

        monkeypatch.setattr("edgeqkv.pipeline.selection.original_perplexity", perplexity)
        done = run_convert(model, replace(spec, max_degradation=allowed, overwrite=True))
        assert done.conversion.layers == layers
        assert done.quality is not None
        assert done.quality.degradation == pytest.approx(0.1 * len(layers))
    before = spec.out.read_bytes()
    with pytest.raises(VerificationFailed, match=r"10\.0% more, where 5\.0% is allowed"):
        run_convert(model, replace(spec, max_degradation=0.05, overwrite=True))
    assert spec.out.read_bytes() == before


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
        ({"layers": (2,)}, InputError, "there is no layer 2 in model.pt: its layers are 0 to 1"),
        ({"auto": True}, InputError, "--layers auto needs to know how many"),
        ({"layers": (0,), "state_budget": 20000}, InputError, "--state-budget chooses the layers itself"),
        ({"auto": True, "state_budget": 100}, InputError, r"with all layers q-k=v\+gqa2 it takes 8.2 kB for 64 tokens"),
        ({"auto": True, "state_budget": 10**6}, InputError, "nothing has to be converted"),
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
