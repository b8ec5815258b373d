"""Every checkpoint in every form, saved and evaluated: the numbers, the state, the weights, the descriptions."""

from __future__ import annotations

from itertools import product
from math import prod
from pathlib import Path

import numpy as np
import pytest
from conftest import VARIANTS
from coreml_packages import CHUNK, CONTEXT, DATA, Exported, export
from matrix import kept, sampled

from edgeqkv.backends.coreml import TARGET
from edgeqkv.backends.target import forms_of
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.errors import ContextFull
from edgeqkv.mil.evaluator import Evaluator
from edgeqkv.mil.package import Package
from edgeqkv.mil.weight_file import Blob

NAMES = sorted(VARIANTS)
MERGED = {"k_eq_v", "k_eq_v_gqa", "k_eq_v_mqa", "q_eq_k_eq_v"}
OWN_FORMS = ["linear", "linear-onehot", "conv", "conv-slice"]
RUNNER_FORMS = ["swift-transformers", "swift-transformers-1"]
# Every form of one checkpoint, which other tests use as well, and of one without merged keys and values; and every one.
CASES = sampled(
    product(NAMES, OWN_FORMS + RUNNER_FORMS),
    lambda name, form: form if name == "k_eq_v_gqa" else None,
    lambda name, form: (form, name in MERGED),
    lambda name, _: name,
)
# Prefill at the start, after decode and up against decode again; 5 and 9 are less than a chunk.
PIECES = [CHUNK, 1, 1, CHUNK, 5, CHUNK, 9]


def tolerance(exported: Exported) -> float:
    """What another order of summation can make of float32 numbers; measured: 4e-6."""
    return 1e-4 * max(1.0, float(np.abs(exported.reference).max()))


@pytest.mark.parametrize(("name", "form"), CASES)
def test_a_package_computes_what_the_checkpoint_does(name: str, form: str) -> None:
    exported = export(name, form)
    session = exported.session()
    one_by_one = np.stack([session.feed([token]) for token in exported.tokens])
    assert np.abs(one_by_one - exported.reference).max() <= tolerance(exported)

    session.reset()
    ends = np.cumsum(PIECES)
    in_pieces = [session.feed(exported.tokens[end - size : end]) for size, end in zip(PIECES, ends, strict=True)]
    assert np.abs(np.stack(in_pieces) - exported.reference[ends - 1]).max() <= tolerance(exported)

    assert session.position == CONTEXT
    with pytest.raises(ContextFull):
        session.feed([0])


@pytest.mark.parametrize(("name", "form"), dict(kept(CASES)).items())
def test_it_computes_what_the_original_class_did(name: str, form: str) -> None:
    """Rounding the weights to fp16 is all that lies between them: 5e-4 of each weight. Measured: 2e-3."""
    session = export(name, form).session()
    with np.load(DATA / f"{name}.golden.npz") as golden:
        ids, logits = golden["ids"][0], golden["logits"][0]
    got = np.stack([session.feed([token]) for token in ids])
    assert np.abs(got - logits).max() <= 2e-2


@pytest.mark.parametrize(("name", "form"), [case for case in CASES if case.values[1] in OWN_FORMS])
def test_the_state_is_one_tensor_where_keys_are_values(name: str, form: str) -> None:
    exported = export(name, form)
    model, artifact = exported.model, exported.artifact
    assert [tensor.role for tensor in artifact.state_tensors] == (["kv"] if name in MERGED else ["k", "v"])
    for function in Package(exported.package).functions.values():
        shapes = {state: spec.shape for state, spec in function.states.items()}
        assert shapes == {tensor.name: tensor.shape for tensor in artifact.state_tensors}
        assert sum(prod(shape) for shape in shapes.values()) * 2 == model.state_bytes(CONTEXT, 2)
        attentions = [op for op in function.operations if op.type == "scaled_dot_product_attention"]
        assert len(attentions) == model.config.layers
        for op in attentions:
            assert (op.inputs["key"] == op.inputs["value"]) == (name in MERGED)
    assert artifact.state_bytes == exported.session().state_bytes == model.state_bytes(CONTEXT, 2)


@pytest.mark.parametrize("form", OWN_FORMS)
def test_every_weight_is_stored_once(form: str) -> None:
    """The tied table serves as embedding and head, and prefill and decode share everything.

    All-zero constants are not counted: MIL's ``linear`` has no form without a bias.
    """
    exported = export("k_eq_v_gqa", form)
    assert exported.model.config.tied_head
    package = Package(exported.package)
    users: dict[int, set[str]] = {}
    sizes: dict[int, int] = {}
    for function in package.functions.values():
        for op in function.operations:
            if isinstance(op.constant, Blob) and op.constant.dtype.name == "fp16" and op.constant.data.any():
                users.setdefault(op.constant.offset, set()).add(function.name)
                sizes[op.constant.offset] = op.constant.data.nbytes
    assert sum(sizes.values()) == exported.model.weight_bytes
    assert all(functions == {"prefill", "decode"} for functions in users.values())
    # Besides: a header, a record and up to 63 bytes of padding for each, and the indices 0 … 63, a few times.
    assert exported.weight_file.stat().st_size < exported.model.weight_bytes + 128 * (len(sizes) + 8) + 8 * 4 * CONTEXT


def test_a_large_vocabulary_is_split_for_the_neural_engine(tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 1, "n_positions": 32, "vocab_size": 2 * 16384 + 5}
    path = write_random_checkpoint(tmp_path / "wide.pt", "q-k=v", std=0.2, **sizes)
    exported = export(path, "conv", chunk=8, context=32)
    assert_matches(exported, [0, 16383, 16384, 32767, 32768, 32772, 5, 20000, 16384, 0])
    package = Package(exported.package)
    blobs = {
        op.constant.offset: op.constant
        for function in package.functions.values()
        for op in function.operations
        if isinstance(op.constant, Blob)
    }
    assert max(max(blob.shape) for blob in blobs.values()) == 16384
    fp16 = [blob.data.nbytes for blob in blobs.values() if blob.dtype.name == "fp16" and blob.data.any()]
    assert sum(fp16) == exported.model.weight_bytes


@pytest.mark.parametrize("form", ["linear", "conv"])
@pytest.mark.parametrize("options", [{"use_bias": False}, {"tie_word_embeddings": False}])
def test_models_without_biases_or_with_a_head_of_their_own(tmp_path: Path, form: str, options: dict[str, bool]) -> None:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 24, "vocab_size": 97}
    path = write_random_checkpoint(tmp_path / "other.pt", "q-k=v+gqa2", std=0.2, **sizes, **options)
    exported = export(path, form, chunk=8, context=24)
    assert_matches(exported, list(exported.tokens))


@pytest.mark.parametrize(
    ("context", "chunk", "functions"),
    [(64, 1, ["decode"]), (64, 64, ["prefill", "decode"]), (7, 3, ["prefill", "decode"])],
)
def test_contexts_and_chunks_of_any_size(context: int, chunk: int, functions: list[str]) -> None:
    exported = export("k_eq_v_gqa", "linear", context=context, chunk=chunk)
    assert [graph.name for graph in exported.artifact.graphs] == functions
    assert_matches(exported, list(exported.tokens))


def assert_matches(exported: Exported, tokens: list[int]) -> None:
    """The whole of the tokens fed at once, and one by one, gives the reference's last logits."""
    from edgeqkv.reference.outputs import sequence_logits

    reference = sequence_logits(exported.model, tokens)
    allowed = 1e-4 * max(1.0, float(np.abs(reference).max()))
    session = exported.session()
    assert np.abs(session.feed(tokens) - reference[-1]).max() <= allowed
    session.reset()
    assert np.abs(np.stack([session.feed([token]) for token in tokens]) - reference).max() <= allowed


@pytest.mark.parametrize(
    ("form", "mask", "shape"),
    [
        ("swift-transformers", "fullAttentionMask", "fp16[1, 1, 1..64, 1..64]"),
        ("swift-transformers-1", "causalMask", "fp16[1, 1, 1, 2..65]"),
    ],
)
def test_swift_transformers_finds_what_it_looks_for(form: str, mask: str, shape: str) -> None:
    """Its runner picks inputs, states and the output by name, and wants a ranged last axis of the tokens."""
    package = Package(export("k_eq_v_gqa", form).package)
    assert package.default_function == "main"
    main = package.function()
    assert {name: str(spec) for name, spec in main.inputs.items()} == {"inputIds": "int32[1, 1..64]", mask: shape}
    assert {name: spec.shape for name, spec in main.states.items()} == {
        "keyCache": (2, 4, CONTEXT, 8),
        "valueCache": (1, 1, 1, 1),
    }
    logits = Evaluator(package).run(
        {
            "inputIds": np.array([[5, 6, 7]]),
            mask: np.zeros((1, 1, 3, 3) if "full" in mask else (1, 1, 1, 4), np.float16),
        },
        Evaluator(package).new_state(),
    )["logits"]
    assert logits.shape == (1, 3, 257)
    unshared = Package(export("qkv", form).package).function()
    assert unshared.states["valueCache"].shape == unshared.states["keyCache"].shape == (2, 8, CONTEXT, 8)


def test_the_package_says_what_it_is() -> None:
    exported = export("k_eq_v_gqa")
    package = Package(exported.package)
    assert package.default_function == "prefill"
    facts = package.metadata
    assert facts["edgeqkv.variant"] == "q-k=v+gqa4"
    assert facts["edgeqkv.state"] == "kv_cache (kv) fp16 [2x4x64x8]"
    assert (facts["edgeqkv.context"], facts["edgeqkv.chunk"]) == ("64", "16")
    assert all(facts[key] for key in ("author", "license", "description", "version", "edgeqkv.version"))


@pytest.mark.parametrize("form", list(forms_of(TARGET, causal=True)))
def test_every_feature_is_described(form: str) -> None:
    from edgeqkv.backends.coreml.mil import ct

    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString((export("k_eq_v_gqa", form).package / "Data/com.apple.CoreML/model.mlmodel").read_bytes())
    for function in spec.description.functions or [spec.description]:
        for feature in (*function.input, *function.output, *function.state):
            assert feature.shortDescription


def test_graphs_are_described_as_they_were_saved() -> None:
    exported = export("k_eq_v_gqa")
    package = Package(exported.package)
    for graph in exported.artifact.graphs:
        function = package.function(graph.name)
        for spec in graph.inputs:
            assert (function.inputs[spec.name].dtype, function.inputs[spec.name].shape) == (spec.dtype, spec.shape)
        for spec in graph.outputs:
            assert (function.outputs[spec.name].dtype, function.outputs[spec.name].shape) == (spec.dtype, spec.shape)
