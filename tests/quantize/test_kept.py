"""Calibrated weights that are kept when an export comes to nothing."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import edgeqkv
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.errors import InputError, VerificationFailed
from edgeqkv.model import walk
from edgeqkv.model.schemes import INT4, LUT4
from edgeqkv.quantize import QuantConfig, apply
from edgeqkv.quantize.kept import Kept, place

SIZES = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 16, "vocab_size": 64}
TOKENS = np.random.default_rng(0).integers(0, 64, (4, 16))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("kept") / "model.pt"
    return edgeqkv.load(write_random_checkpoint(path, "q-k=v", std=0.2, **SIZES))


@pytest.fixture(params=[INT4, LUT4], ids=["int4", "lut4"])
def config(request: pytest.FixtureRequest) -> QuantConfig:
    return QuantConfig(request.param.name, calibration=TOKENS, tuning=2)


def failing(out: Path, model: Any, config: QuantConfig) -> Any:
    """What was quantized by an export whose check failed afterwards."""
    quantized = apply(model, config)
    kept = Kept(out, resume=False)
    with pytest.raises(VerificationFailed):
        keeping(kept, model, config, quantized, VerificationFailed("its perplexity is too high"))
    return quantized


def keeping(kept: Kept, model: Any, config: QuantConfig, quantized: Any, error: BaseException | None) -> None:
    """An export that keeps its weights and then ends so."""
    with kept:
        kept.keep(model, config, quantized)
        assert kept.path.exists()
        if error is not None:
            raise error


def test_they_come_back_as_they_were(tmp_path: Path, model: Any, config: QuantConfig) -> None:
    out = tmp_path / "phone"
    quantized = failing(out, model, config)
    with Kept(out, resume=True) as kept:
        taken = kept.take(model, config)
    assert taken is not None
    for one, other in zip(quantized.weights, taken.weights, strict=True):
        assert type(one) is type(other)
        assert (one.name, one.precision, one.stored_bytes) == (other.name, other.precision, other.stored_bytes)
        assert torch.equal(one.values(), other.values())
    assert taken.network.token_table is taken.network.head, "what is tied stays tied"
    assert set(walk.form(taken.network)) == set(walk.form(quantized.network)), "its layers are compared by this"
    assert not place(out).exists(), "it is removed once there is a bundle"


@pytest.mark.parametrize("error", [InputError("the disk is full"), None], ids=["another error", "success"])
def test_nothing_stays_that_is_of_no_use(tmp_path: Path, model: Any, error: Exception | None) -> None:
    config = QuantConfig("int4", calibration=TOKENS)
    with suppress(InputError):
        keeping(Kept(tmp_path / "phone", resume=False), model, config, apply(model, config), error)
    assert list(tmp_path.iterdir()) == []


def test_they_stay_for_who_is_interrupted(tmp_path: Path, model: Any) -> None:
    config = QuantConfig("int4", calibration=TOKENS)
    kept = Kept(tmp_path / "phone", resume=False)
    with pytest.raises(KeyboardInterrupt):
        keeping(kept, model, config, apply(model, config), KeyboardInterrupt())
    assert "--resume starts from them" in kept.told
    assert [file.name for file in tmp_path.iterdir()] == ["phone.quantized.npz"]


@pytest.mark.parametrize(
    "changed",
    [{"weights": "int8"}, {"tuning": 3}, {"head": "fp16"}, {"calibration": TOKENS[:3]}],
    ids=lambda changed: next(iter(changed)),
)
def test_what_was_kept_of_something_else_is_not_taken(tmp_path: Path, model: Any, changed: dict[str, Any]) -> None:
    asked = {"weights": "int4", "calibration": TOKENS, "tuning": 2}
    failing(tmp_path / "phone", model, QuantConfig(**asked))
    with pytest.raises(InputError, match="was kept of another"), Kept(tmp_path / "phone", resume=True) as kept:
        kept.take(model, QuantConfig(**(asked | changed)))
    assert place(tmp_path / "phone").exists()


def test_of_another_model_neither(tmp_path: Path, model: Any) -> None:
    config = QuantConfig("int4", calibration=TOKENS)
    failing(tmp_path / "phone", model, config)
    other = edgeqkv.load(write_random_checkpoint(tmp_path / "other.pt", "q-k=v", seed=1, std=0.2, **SIZES))
    with pytest.raises(InputError, match="was kept of another"), Kept(tmp_path / "phone", resume=True) as kept:
        kept.take(other, config)


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no .*phone.quantized.npz to resume from; leave out --resume"):
        Kept(tmp_path / "phone", resume=True)
    place(tmp_path / "phone").write_bytes(b"not an archive")
    with pytest.raises(InputError, match="cannot be read"):
        Kept(tmp_path / "phone", resume=True)


def test_what_is_somebody_elses_is_not_replaced(tmp_path: Path, model: Any) -> None:
    config = QuantConfig("int4", calibration=TOKENS)
    place(tmp_path / "phone").write_bytes(b"mine")
    with pytest.raises(InputError), Kept(tmp_path / "phone", resume=False) as kept:
        kept.keep(model, config, apply(model, config))
    assert place(tmp_path / "phone").read_bytes() == b"mine"


def test_an_export_that_fails_can_be_resumed(tmp_path: Path) -> None:
    from tokenizer_files import write_tokenizer

    path = write_random_checkpoint(tmp_path / "model.pt", "q-k=v", std=0.2, **SIZES)
    write_tokenizer(tmp_path / "tokenizer.json")
    text = tmp_path / "text.txt"
    text.write_text("ab b a ab a b " * 60)
    options: dict[str, Any] = {
        "out": tmp_path / "b",
        "weights": "int4",
        "tokenizer": tmp_path / "tokenizer.json",
        "calibrate": text,
        "text": text,
        "verify": False,
    }
    loaded = edgeqkv.load(path)
    seen: list[str] = []
    with pytest.raises(VerificationFailed, match=r"No bundle was written\. The calibrated weights are kept in .*b\.q"):
        edgeqkv.export(loaded, "onnx", max_degradation=0.0, tune=1, **options)

    def note(stage: str, _: float | None) -> None:
        seen.append(stage)

    bundle = edgeqkv.export(loaded, "onnx", max_degradation=9.0, tune=1, resume=True, on_progress=note, **options)
    assert bundle.target().quality is not None
    assert not {"calibrating", "tuning", "quantizing"} & set(seen)
    assert not place(tmp_path / "b").exists()


def test_a_try_that_was_stopped_half_way_goes_on_where_it_was(tmp_path: Path, model: Any) -> None:
    first, second = QuantConfig("int4", calibration=TOKENS), QuantConfig("int8", calibration=TOKENS)
    failing(tmp_path / "phone", model, first)
    kept = Kept(tmp_path / "phone", resume=True)
    assert kept.take(model, first) is not None
    assert kept.take(model, second) is None, "it is worked out now"
    kept.keep(model, second, apply(model, second))
    again = Kept(tmp_path / "phone", resume=True)
    assert again.take(model, first) is not None
    assert again.take(model, second) is not None


@pytest.mark.parametrize("part", ["codes", "scales", "scheme"])
def test_a_damaged_file_is_an_error(tmp_path: Path, model: Any, part: str) -> None:
    config = QuantConfig("int4", calibration=TOKENS)
    failing(tmp_path / "phone", model, config)
    with np.load(place(tmp_path / "phone")) as file:
        arrays = dict(file)
    (name, *_) = (name for name in arrays if name.endswith(part))
    arrays[name] = arrays[name][:1]
    np.savez(place(tmp_path / "phone"), **arrays)
    with pytest.raises(InputError, match="is damaged"):
        Kept(tmp_path / "phone", resume=True).take(model, config)
