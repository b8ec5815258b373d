"""Costs: what a network of shapes says of a model, against the model, and by hand."""

from __future__ import annotations

import dataclasses

import pytest
from conftest import EncoderGolden, Golden

import edgeqkv
from edgeqkv.backends.onnx.memory import _StandardOps
from edgeqkv.model import shapes
from edgeqkv.model.architectures import shaped
from edgeqkv.model.config import DecoderConfig, config_of
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.variants import Variant
from edgeqkv.reference.cost import CostOps, ScoresOps, costs, multiply_adds, typical
from edgeqkv.reference.liveness import peak

CONFIG = DecoderConfig(
    layers=6,
    hidden_size=32,
    heads=4,
    kv_heads=2,
    head_dim=8,
    intermediate_size=48,
    vocab_size=97,
    positions=64,
    norm_eps=1e-5,
    tied_head=True,
)


def test_a_decoder_costs_what_its_layers_say(golden: Golden) -> None:
    model = edgeqkv.load(golden.path)
    own, built = shapes.of_network(model.network), shaped(model.config, model.variant)
    assert costs(own).parameters == costs(built).parameters == model.parameters
    assert multiply_adds(own, 5, context=9) == multiply_adds(built, 5, context=9)


def test_an_encoder_does_too(encoder_golden: EncoderGolden) -> None:
    model = edgeqkv.load(encoder_golden.path)
    own, built = shapes.of_network(model.network), shaped(model.config, model.variant)
    given = model.config.input.shape
    assert costs(own, *given).parameters == costs(built, *given).parameters == model.parameters
    assert multiply_adds(own, *given) == multiply_adds(built, *given)


def test_multiply_adds_by_hand() -> None:
    network = shaped(CONFIG, Variant.parse("q-k=v+gqa2"))
    tokens, context = 3, 10
    layer = tokens * (32 * 32 + 16 * 32 + 32 * 32 + 2 * 32 * 48) + 2 * tokens * context * 32
    assert multiply_adds(network, tokens, context=context) == 6 * layer + 97 * 32


def test_a_window_bounds_what_is_attended_to() -> None:
    network = shaped(CONFIG, Variant.parse("qkv"))
    blocks = tuple(
        dataclasses.replace(block, attention=dataclasses.replace(block.attention, window=4)) for block in network.blocks
    )
    windowed = dataclasses.replace(network, blocks=blocks)
    saved = multiply_adds(network, 1, context=10) - multiply_adds(windowed, 1, context=10)
    assert saved == 6 * 2 * 6 * 32


@pytest.mark.parametrize("variant", ["qkv", "q-k=v+gqa2", "q=k=v"])
def test_two_layers_of_many_that_are_alike_tell_what_lives(variant: str) -> None:
    network = shaped(CONFIG, Variant.parse(variant))
    short = typical(network)
    assert len(short.blocks) == 2
    for make in (
        lambda: CostOps(16),
        lambda: ScoresOps(16),
        lambda: _StandardOps(16, Dtype.INT8, reads_all=False),
    ):
        peaks = []
        for each in (network, short):
            ops = make()
            each.outputs(ops, ops.given(8))
            peaks.append(peak(ops.steps))
        assert peaks[0] == peaks[1]


def test_layers_that_differ_all_count() -> None:
    network = shaped(CONFIG, Variant.parse("qkv"))
    other = shapes.as_variant(network, Variant.parse("q=k=v"))
    mixed = dataclasses.replace(network, blocks=(*network.blocks[:3], other.blocks[0], *network.blocks[3:]))
    assert len(typical(mixed).blocks) == 2 + 1 + 2


def test_a_variant_keeps_all_but_its_projections() -> None:
    network = shaped(CONFIG, Variant.parse("qkv"))
    assert shapes.as_variant(network, Variant.parse("q-k=v+mqa")).state(7) == shaped(
        CONFIG, Variant.parse("q-k=v+mqa")
    ).state(7)
    saved = costs(network).parameters - costs(shapes.as_variant(network, Variant.parse("q=k=v"))).parameters
    assert saved == 6 * 2 * (32 * 32 + 32)


def test_dimensions_are_read_back_from_a_manifest(encoder_golden: EncoderGolden) -> None:
    import json

    for config in (CONFIG, edgeqkv.load(encoder_golden.path).config):
        assert config_of(json.loads(json.dumps(dataclasses.asdict(config)))) == config
