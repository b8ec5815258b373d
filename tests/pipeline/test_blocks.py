"""The block of int4, from the option to every target's files, the manifest, the budget and back."""

from __future__ import annotations

from pathlib import Path

import pytest

import edgeqkv
from edgeqkv import InputError, UnsupportedError, demo
from edgeqkv.backends import backend
from edgeqkv.budget.plan import ModelShape, plan_of
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import INT4, INT8, LUT4, Scheme, with_block
from edgeqkv.pipeline.spec import ExportSpec
from edgeqkv.pipeline.verify import verify, verify_package

SIZES = {"n_layer": 1, "n_embd": 128, "n_head": 4, "n_positions": 32, "vocab_size": 97, "n_inner": 256}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    path = tmp_path_factory.mktemp("blocks") / "model.pt"
    return edgeqkv.load(write_random_checkpoint(path, "q-k=v+gqa2", std=0.1, **SIZES))


def blocks(model: Model, **asked: object) -> dict[str, int | None]:
    given = {"targets": ("onnx", "executorch", "coreml"), **asked}
    return {name: spec.block for name, spec in ExportSpec(**given).resolve(model).targets.items()}  # type: ignore[arg-type]


def test_a_block_is_the_schemes_own_unless_it_is_asked_for(model: Model, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("text")
    calibrated = {"calibrate": text, "tokenizer": demo.tokenizer_path()}
    demo_model = edgeqkv.load(demo.checkpoint_path())
    for weights in ("int4", "int8"):
        assert set(blocks(demo_model, weights=weights).values()) == {None}
        assert set(blocks(demo_model, weights=weights, **calibrated).values()) == {None}
    assert set(blocks(demo_model, weights="int4", block=128, **calibrated).values()) == {128}
    assert set(blocks(model, weights="int4", block=64).values()) == {64}
    assert set(blocks(model, weights="int8", head="int4", block=64).values()) == {64}


@pytest.mark.parametrize("block", [16, 48, 256])
def test_a_block_that_no_kernel_takes(model: Model, block: int) -> None:
    with pytest.raises(UnsupportedError, match=rf"ONNX has no blocks of {block} in int4; choose --block 32, 64 or 128"):
        blocks(model, weights="int4", block=block)


def test_precisions_that_leave_no_choice(model: Model) -> None:
    for weights in ("int8", "fp16"):
        with pytest.raises(InputError, match=rf"--block 64 is for weights int4; ONNX stores {weights} in one way only"):
            blocks(model, targets=("onnx",), weights=weights, block=64)
    with pytest.raises(InputError, match="blocks of 0 are impossible"):
        blocks(model, weights="int4", block=0)


def test_schemes_with_a_choice_take_the_block() -> None:
    schemes = {"int4": INT4, "int8": INT8, "lut4": LUT4, "fp16": None}
    changed = with_block(schemes, 64)
    assert isinstance(changed["int4"], Scheme)
    assert changed["int4"].block == 64
    assert {name: changed[name] for name in ("int8", "lut4", "fp16")} == {"int8": INT8, "lut4": LUT4, "fp16": None}
    assert with_block(schemes, None) is schemes


@pytest.mark.parametrize("target", ["onnx", "executorch", "coreml"])
def test_every_target_stores_them_and_is_proven(target: str, model: Model, tmp_path: Path) -> None:
    bundle = edgeqkv.export(model, target, out=tmp_path / "bundle", weights="int4", block=128)
    card = bundle.target(target)
    assert card.verification is not None
    assert card.verification.passed
    assert card.artifact.block == 128
    assert verify(bundle, against=model).passed
    if target == "coreml":  # which says so itself
        assert verify_package(bundle.path / card.artifact.graphs[0].file, target, model).passed
    # The plan is that of the blocks that were asked for.
    shape, small = ModelShape.of_model(model), {}
    plan = plan_of(shape, card.artifact, 0)
    for block in (None, 128):
        small[block] = plan.memory.stored_bytes(shape.network, plan.changed(block=block).spec)
    assert plan.spec.block == 128
    assert small[128] < small[None]


def test_an_export_in_larger_blocks_is_not_one_in_smaller_ones(model: Model, tmp_path: Path) -> None:
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "bundle", weights="int4", block=128, verify=False)
    artifact = bundle.target("onnx").artifact
    assert artifact.details["code_layouts"] == [[4, 128]]
    assert backend("onnx").schemes["int4"] == INT4
