"""Layers that are copied: the file is byte for byte the one in which every layer was traced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from random_networks import HALVES, Random

from edgeqkv import quantize
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.model import walk
from edgeqkv.model.layers import Block, Heads
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig
from edgeqkv.quantize.state import with_state

pytest.importorskip("executorch")

from edgeqkv.backends.executorch import export as exporting
from edgeqkv.backends.executorch.repeated import Repetition, repetition

R = Random(11, width=32, inner=64)


def near() -> Block:
    """Keys and values apart, rotated, in a ring."""
    return R.block(R.attention(Heads(4, 2, 8), rope=HALVES, window=6), mlp=R.mlp(gated=True, activation="silu"))


def far() -> Block:
    """One merged state of all positions."""
    return R.block(R.attention(Heads(4, 1, 8), merged=True))


ALIKE = R.model([far() for _ in range(4)], learned=True).with_context(32)
ROTATED = R.model([near() for _ in range(5)]).with_context(32)
IN_TURN = R.model([block for _ in range(4) for block in (near(), far())]).with_context(32)


@pytest.mark.parametrize(
    ("model", "found"),
    [
        (ALIKE, Repetition(first=1, period=1, count=3)),
        (ROTATED, Repetition(first=1, period=1, count=4)),
        (IN_TURN, Repetition(first=2, period=2, count=3)),
        (R.model([near(), far(), far(), far(), far()]), Repetition(first=2, period=1, count=3)),
    ],
)
def test_layers_repeat_from_where_all_of_their_kinds_were_there(model: Model, found: Repetition) -> None:
    assert repetition(model.network.blocks) == found
    assert found.first + found.count * found.period == len(model.network.blocks)
    assert found.traced < len(model.network.blocks)


@pytest.mark.parametrize(
    "blocks",
    [
        [far(), far(), far()],
        [near(), far(), near(), far(), near(), near()],
        [far(), replace(far(), residual_scale=0.5), far(), replace(far(), residual_scale=0.25)],
    ],
)
def test_what_comes_twice_or_out_of_turn_does_not(blocks: list[Block]) -> None:
    assert repetition(blocks) is None


def test_a_weight_in_two_places_is_not_two_weights() -> None:
    one = far()
    apart = R.linear(8, 32)
    assert walk.form(one) == walk.form(far())
    assert walk.form(one) != walk.form(replace(one, attention=replace(one.attention, v=apart)))


FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("model", "form", "weights"),
    [
        (ALIKE, "stock", "int4"),
        pytest.param(IN_TURN, "static", "fp32", marks=FULL),
        pytest.param(ROTATED, "stock", "fp16", marks=FULL),
        pytest.param(ROTATED, "portable", "int8", marks=FULL),
        pytest.param(IN_TURN, "stock", "int4", marks=FULL),
    ],
)
def test_the_file_is_the_one_of_a_whole_trace(
    model: Model, form: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if weights.startswith("int"):
        model = quantize.apply(model, QuantConfig(weights, schemes=TARGET.schemes))
    spec = TargetSpec(form=form, weights=weights, state="fp32", context=32, chunk=8)
    artifacts = []
    for name in ("copied", "traced"):
        (tmp_path / name).mkdir()
        if name == "traced":
            monkeypatch.setattr(exporting, "_repetition", lambda _: None)
        artifacts.append(TARGET.export(model, tmp_path / name, spec, silent))
    copied, traced = ((tmp_path / name / exporting.FILE).read_bytes() for name in ("copied", "traced"))
    assert copied == traced
    assert artifacts[0] == artifacts[1]


@pytest.mark.full
def test_numbers_that_differ_by_layer_are_found_in_the_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An int8 state's scales are constants of their layers: such a program is traced as a whole."""
    model = with_state(ROTATED, "int8", np.arange(64).reshape(2, 32) % 31)
    spec = TargetSpec(form="stock", weights="fp32", state="int8", context=32, chunk=8)
    monkeypatch.setattr(exporting, "_repetition", lambda model: repetition(model.network.blocks))
    steps: list[str] = []
    TARGET.export(model, tmp_path, spec, lambda step, _: steps.append(step))
    assert steps.count("trace forward") == 2
