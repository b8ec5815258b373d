"""What stays of a conversion that was killed while it distilled, and what the same command makes of that."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import edgeqkv
from edgeqkv import InputError, VerificationFailed, demo
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.convert import distill
from edgeqkv.model.model import Model
from edgeqkv.pipeline import conversion
from edgeqkv.pipeline.conversion import ConvertSpec, run_convert
from edgeqkv.pipeline.distillation import Amount

SIZES = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 32, "vocab_size": 1024}
STEPS = 4


@pytest.fixture
def model(tmp_path: Path) -> Model:
    return edgeqkv.load(write_random_checkpoint(tmp_path / "model.pt", "qkv", std=0.2, **SIZES))


@pytest.fixture
def spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ConvertSpec:
    monkeypatch.setattr(distill, "_SAVE_SECONDS", 0.0)
    text = tmp_path / "text.txt"
    text.write_text(demo.heldout_path().read_text(encoding="utf-8")[:4000], encoding="utf-8")
    return ConvertSpec(
        "q-k=v", text, tmp_path / "out.pt", demo.tokenizer_path(), windows=4, distill=Amount(steps=STEPS, batch=2)
    )


def killed(model: Model, spec: ConvertSpec, at: str, part: float | None) -> None:
    def told(stage: str, done: float | None = None) -> None:
        if stage == at and done == part:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_convert(model, spec, told)
    assert not spec.out.exists()


def solved_again(*_: object, **__: object) -> None:
    pytest.fail("what was solved is solved again")


@pytest.mark.parametrize(("stage", "part"), [("distilling", 0.5), ("validating the distillation", None)])
def test_the_same_command_goes_on_to_the_same_result(
    stage: str, part: float | None, model: Model, spec: ConvertSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run_convert(model, replace(spec, out=tmp_path / "whole.pt"))
    killed(model, spec, stage, part)
    folder = tmp_path / "out.pt.distilling"
    assert {path.name for path in folder.iterdir()} == {"lock", "state", "closed.pt", "closed.json"}
    monkeypatch.setattr(conversion, "chosen", solved_again)
    parts: list[float] = []
    resumed = run_convert(model, spec, lambda _, done=None: parts.append(done))
    assert 0.0 not in parts
    assert resumed.distillation == whole.distillation
    assert resumed.conversion.lost == whole.conversion.lost
    assert resumed.conversion.layers == whole.conversion.layers == (0,)
    files = [torch.load(path, weights_only=True)["model_state_dict"] for path in (spec.out, tmp_path / "whole.pt")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert not folder.exists()


def test_what_was_kept_of_another_conversion_is_not_taken_up(model: Model, spec: ConvertSpec) -> None:
    killed(model, spec, "distilling", 0.5)
    for other in (replace(spec, variant="q-k=v+mqa"), replace(spec, windows=5)):
        with pytest.raises(InputError, match=r"out\.pt\.distilling is of another conversion; delete it to begin anew"):
            run_convert(model, other)
    with pytest.raises(InputError, match="state is of another distillation"):
        run_convert(model, replace(spec, distill=Amount(steps=STEPS + 1, batch=2)))
    assert not spec.out.exists()
    assert run_convert(model, spec).distillation is not None


def test_layers_that_a_loss_chose_are_of_its_bound_and_its_text(
    model: Model, spec: ConvertSpec, tmp_path: Path
) -> None:
    spec = replace(spec, auto=True, text=spec.calibrate, max_degradation=9.0)
    killed(model, spec, "distilling", 0.5)
    (tmp_path / "other.txt").write_text(spec.calibrate.read_text()[100:])
    for other in (replace(spec, max_degradation=8.0), replace(spec, text=tmp_path / "other.txt")):
        with pytest.raises(InputError, match=r"out\.pt\.distilling is of another conversion"):
            run_convert(model, other)
    assert run_convert(model, replace(spec, memory=10**6)).conversion.layers == (0,)


def test_what_was_too_bad_to_be_written_is_not_distilled_again(
    model: Model, spec: ConvertSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_bad(*_: object) -> None:
        raise VerificationFailed("too bad")

    with monkeypatch.context() as patch:
        patch.setattr(conversion, "check_quality", too_bad)
        with pytest.raises(VerificationFailed):
            run_convert(model, replace(spec, text=spec.calibrate, max_degradation=0.0))
    monkeypatch.setattr(conversion, "chosen", solved_again)
    stages: list[str] = []
    run_convert(model, spec, lambda stage, _=None: stages.append(stage))
    assert "distilling" not in stages
    assert spec.out.exists()
