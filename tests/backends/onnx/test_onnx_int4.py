"""int4 in blocks of every size, and products of one value as one, against the reference on the same codes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx_sessions import every_position
from random_networks import HALVES, POSITIONS, VOCABULARY, Random

from edgeqkv import quantize
from edgeqkv.backends.onnx import TARGET
from edgeqkv.backends.onnx.joined import joined
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.model.layers import Attention, Heads, Linear
from edgeqkv.model.model import Model
from edgeqkv.model.schemes import with_block
from edgeqkv.model.weights import Weight
from edgeqkv.progress import silent
from edgeqkv.quantize import QuantConfig
from edgeqkv.quantize.nearest import nearest
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

CHUNK = 16

# Of the largest logit. float32 in another order of summation; of an int8 state, numbers between two codes that fall on
# the other one.
TOLERANCES = {"fp32": 1e-4, "int8": 2e-2}


class Tame(Random):
    """Weights so small that layers do not blow up what was rounded in those before."""

    def weight(self, *shape: int, mean: float = 0.0, std: float = 0.1) -> Weight:
        return super().weight(*shape, mean=mean, std=std)


def with_biases(r: Random, attention: Attention) -> Attention:
    """The same with a bias in every projection; a shared one stays one."""
    biased: dict[Linear, Linear] = {}
    for linear in (attention.q, attention.k, attention.v, attention.out):
        biased.setdefault(linear, Linear(linear.weight, r.weight(linear.weight.shape[0])))
    return replace(attention, **{name: biased[getattr(attention, name)] for name in ("q", "k", "v", "out")})


def model_of(kv: int, *, merged: bool, biases: bool = False) -> Model:
    """Two layers of 128 channels, the second with a gated MLP; rotated where keys and values are apart."""
    r, heads = Tame(1, width=128, inner=256), Heads(4, kv, 32)
    plain = r.attention(heads, merged=merged)
    turned = r.attention(heads, merged=merged, rope=None if merged else HALVES)
    if biases:
        plain, turned = with_biases(r, plain), with_biases(r, turned)
    return r.model([r.block(plain), r.block(turned, mlp=r.mlp(gated=True, activation="silu"))], learned=True)


MODELS = {
    "merged gqa": model_of(2, merged=True),
    "merged mqa, biases": model_of(1, merged=True, biases=True),
    "separate, biases": model_of(2, merged=False, biases=True),
}


def exported(
    model: Model, directory: Path, block: int | None, form: str, state: str, weights: str = "int4"
) -> tuple[Artifact, Model]:
    config = QuantConfig(weights, schemes=with_block(TARGET.schemes, block))
    stored = with_state(quantize.apply(model.with_context(POSITIONS), config, silent), state, None)
    spec = TargetSpec(form=form, weights=weights, state=state, context=POSITIONS, chunk=CHUNK, block=block)
    return TARGET.export(stored, directory, spec, silent), stored


def products(directory: Path) -> list[tuple[int, int]]:
    """Rows and block of every product of codes."""
    graph = onnx.load(directory / "model.onnx", load_external_data=False).graph
    found = [
        {attribute.name: attribute.i for attribute in node.attribute}
        for node in graph.node
        if node.op_type == "MatMulNBits"
    ]
    return [(each["N"], each["block_size"]) for each in found]


CASES = [
    ("merged gqa", 32, "portable", "int8"),
    ("merged gqa", 64, "portable", "fp32"),
    ("merged gqa", 128, "ort", "int8"),
    ("merged mqa, biases", 64, "static", "int8"),
    ("merged mqa, biases", 128, "portable", "fp32"),
    ("separate, biases", 128, "ort", "fp32"),
    ("separate, biases", 128, "portable", "int8"),
]


@pytest.mark.parametrize(("name", "block", "form", "state"), CASES)
def test_it_computes_what_the_codes_say(name: str, block: int, form: str, state: str, tmp_path: Path) -> None:
    artifact, stored = exported(MODELS[name], tmp_path, block, form, state)
    assert (artifact.block, artifact.details["code_layouts"]) == (block, [[4, block]])
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, POSITIONS)
    expected = sequence_logits(stored, tokens)
    session = open_artifact(tmp_path, artifact, "exact")
    assert isinstance(session, Session)
    for prompt in (1, CHUNK + 1, 40):  # alone, across a chunk's boundary, across two
        logits = every_position(session, tokens, prompt)
        assert np.abs(logits - expected[prompt - 1 :]).max() < TOLERANCES[state] * np.abs(expected).max()
    # What an app runs rounds what the codes meet, to int8: a part in a hundred of the logits.
    app = open_artifact(tmp_path, artifact, "onnxruntime")
    assert np.abs(app.feed(tokens) - expected[-1]).max() < 0.1 * np.abs(expected).max()


def test_products_of_one_value_are_one(tmp_path: Path) -> None:
    exported(MODELS["merged gqa"], tmp_path, 128, "portable", "fp32")
    both, out, up, down = 128 + 64, 128, 256, 128
    assert products(tmp_path) == [(rows, 128) for rows in (both, out, up, down, both, out, 2 * 256, down, VOCABULARY)]


def test_int8_and_separate_keys_and_values_are_one_product_too(tmp_path: Path) -> None:
    artifact, stored = exported(MODELS["separate, biases"], tmp_path, None, "portable", "fp32", weights="int8")
    assert products(tmp_path)[0][0] == 128 + 2 * 64
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, POSITIONS)
    logits = open_artifact(tmp_path, artifact, "exact").feed(tokens)
    assert np.allclose(logits, sequence_logits(stored, tokens)[-1], atol=5e-3)


def test_a_bias_on_one_alone_keeps_products_apart(tmp_path: Path) -> None:
    r = Random(2, width=128, inner=256)
    attention = r.attention(Heads(4, 2, 32), merged=True)
    attention = replace(attention, q=Linear(attention.q.weight, r.weight(128)))
    artifact, stored = exported(r.model([r.block(attention)]), tmp_path, 64, "portable", "fp32")
    assert [rows for rows, _ in products(tmp_path)][:2] == [128, 64]
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, POSITIONS)
    logits = open_artifact(tmp_path, artifact, "exact").feed(tokens)
    assert np.allclose(logits, sequence_logits(stored, tokens)[-1], atol=5e-3)


def test_what_is_stored_in_different_ways_is_not_joined() -> None:
    r = Random(width=128)
    one, other = (r.weight(32, 128) for _ in range(2))
    schemes = TARGET.schemes
    rounded = {name: nearest(one, scheme) for name, scheme in schemes.items() if scheme is not None}
    wide = nearest(other, with_block(schemes, 128)["int4"])
    assert joined([one, other]) is None
    assert joined([rounded["int4"]]) is None
    assert joined([rounded["int4"], wide]) is None
    assert joined([rounded["int8"], rounded["int4"]]) is None
    both = joined([rounded["int4"], rounded["int4"]])
    assert both is not None
    assert both.shape == (64, 128)
    assert np.array_equal(both.values(), np.concatenate([rounded["int4"].values()] * 2))


def test_a_larger_block_makes_a_smaller_file(tmp_path: Path) -> None:
    sizes = []
    for block in (32, 64, 128):
        folder = tmp_path / str(block)
        folder.mkdir()
        exported(MODELS["merged gqa"], folder, block, "portable", "fp32")
        sizes.append((folder / "model.onnx.data").stat().st_size)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
