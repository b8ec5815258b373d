"""The genai form, as far as edgeqkv itself sees it: the graph, the files beside it, the proof."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import TINY, Golden
from onnx_sessions import every_position, names_of

import edgeqkv
from edgeqkv import ContextFull, UnsupportedError, demo
from edgeqkv.backends import backend
from edgeqkv.backends.onnx.genai_tokenizer import CL100K, tokenizer_config
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.pipeline.proof import TOLERANCES
from edgeqkv.pipeline.verify import verify
from edgeqkv.progress import silent
from edgeqkv.quantize.state import with_state
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_artifact

# float32 in another order of summation than the original's. Measured: 3.5e-6 with logits up to 4.5.
TOLERANCE = 1e-4

Write = Callable[..., tuple[Artifact, Session]]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def export(model: Model, **choices: Any) -> tuple[Artifact, Session]:
        chosen = {"weights": "fp32", "state": "fp32", "context": model.config.positions, "chunk": 16}
        spec = TargetSpec(form="genai", eos_token_ids=(0,), **{**chosen, **choices})
        artifact = backend("onnx").export(model.with_context(spec.context), tmp_path, spec, silent)
        session = open_artifact(tmp_path, artifact, "onnxruntime")
        assert isinstance(session, Session)
        return artifact, session

    return export


def config_in(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "genai_config.json").read_text())


def test_it_computes_what_the_original_class_did(golden: Golden, write: Write) -> None:
    model = edgeqkv.load(golden.path)
    artifact, session = write(model)
    for prompt in (1, 16, 17, 40):  # within a chunk, a whole one, across its boundary, across two
        assert np.abs(every_position(session, golden.ids, prompt) - golden.logits[prompt - 1 :]).max() < TOLERANCE
    with pytest.raises(ContextFull):
        session.feed([1])
    assert session.state_bytes == artifact.state_bytes == model.state_bytes(64, 4)


@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_neighbouring_tensors_pose_as_key_and_value(golden: Golden, write: Write, tmp_path: Path, state: str) -> None:
    artifact, _ = write(with_state(edgeqkv.load(golden.path), state, None), state=state)
    held = names_of(golden.variant)
    halves = [f"{layer}.{half}" for layer in range(len(held) // 2) for half in ("key", "value")]
    assert [tensor.name for tensor in artifact.state_tensors] == held
    assert [tensor.input for tensor in artifact.state_tensors] == [f"past_key_values.{half}" for half in halves]
    assert [tensor.output for tensor in artifact.state_tensors] == [f"present.{half}" for half in halves]
    assert not any(tensor.aliases for tensor in artifact.state_tensors)

    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    assert [i.name for i in graph.input if not i.name.startswith("past_")] == [
        "input_ids",
        "attention_mask",
        "position_ids",
    ]
    outputs = {o.name: [d.dim_param or d.dim_value for d in o.type.tensor_type.shape.dim] for o in graph.output}
    kv_heads, dim = artifact.state_tensors[0].shape[1], artifact.state_tensors[0].shape[3]
    room = [1, kv_heads, "context", dim]
    assert outputs == {"logits": [1, 1, 257]} | {f"present.{half}": room for half in halves}
    assert config_in(tmp_path)["model"]["decoder"]["num_hidden_layers"] == len(held) // 2


def test_a_present_that_nobody_wants_is_read_before_the_next_is_made(
    gqa_golden: Golden, write: Write, tmp_path: Path
) -> None:
    """Else the runtime keeps all of them to the end of the call: a second state."""
    write(with_state(edgeqkv.load(gqa_golden.path), "int8", None), state="int8")
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    maker = {output: node for node in graph.node for output in node.output}
    first, second = [node for node in graph.node if node.op_type == "GroupQueryAttention"]

    def ancestors(name: str) -> set[str]:
        node = maker.get(name)
        return {name}.union(*(ancestors(each) for each in node.input if each)) if node else {name}

    assert first.output[2] not in [output.name for output in graph.output]
    (reader,) = [node for node in graph.node if first.output[2] in node.input]
    assert reader.op_type == "Shape"
    assert reader.output[0] in ancestors(second.input[6])


@pytest.mark.parametrize("state", ["fp32", "int8"])
def test_an_odd_number_of_merged_layers_leaves_one_tensor_unused(tmp_path: Path, write: Write, state: str) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "m.pt", "q-k=v+gqa2", std=0.2, **{**TINY, "n_layer": 3})
    model = with_state(edgeqkv.load(checkpoint), state, None)
    artifact, session = write(model, state=state)
    assert [tensor.name for tensor in artifact.state_tensors] == ["kv_0", "kv_1", "kv_2", "unused"]
    assert artifact.state_tensors[-1].input == "past_key_values.1.value"
    assert config_in(tmp_path)["model"]["decoder"]["num_hidden_layers"] == 2
    assert session.state_bytes == artifact.state_bytes == model.state_bytes(48, 4 if state == "fp32" else 1) // 3 * 4
    tokens = np.random.default_rng(0).integers(0, 97, 48)
    errors = np.abs(every_position(session, tokens, 20) - sequence_logits(model, tokens)[19:]).max(1)
    # With int8, a number in the middle between two codes may fall to the other side; that touches few positions.
    assert np.quantile(errors, 0.9) < TOLERANCE
    assert not session.runner._state["unused"].numpy().any()


@pytest.mark.parametrize("variant", ["q-k=v+mqa", "qkv+gqa2"])
def test_the_state_stays_where_it_is(tmp_path: Path, write: Write, variant: str) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "m.pt", variant, std=0.2, **{**TINY, "n_positions": 300})
    artifact, session = write(edgeqkv.load(checkpoint))
    addresses = session.runner.state_addresses
    held = {tensor.name: session.runner._state[tensor.name].numpy() for tensor in artifact.state_tensors}
    tokens = np.random.default_rng(0).integers(0, 97, 300)
    session.feed(tokens[:100])
    assert all(view[0, :, :100].any(-1).all() and not view[0, :, 100:].any() for view in held.values())
    for token in tokens[100:]:
        session.feed([token])
    assert session.runner.state_addresses == addresses
    assert all(view[0].any(-1).all() for view in held.values())


def test_half_precision_state(golden: Golden, write: Write) -> None:
    model = edgeqkv.load(golden.path)
    artifact, session = write(model, state="fp16")
    assert session.precision == "fp16"
    assert session.state_bytes == artifact.state_bytes == model.state_bytes(64, 2)
    # Keys and values off by 2^-11 of themselves. Measured: 2e-3.
    assert np.abs(every_position(session, golden.ids, 20) - golden.logits[19:]).max() < 1e-2


def test_int8_state(golden: Golden, write: Write) -> None:
    model = with_state(edgeqkv.load(golden.path), "int8", None)
    artifact, session = write(model, state="int8")
    assert session.precision == "int8"
    assert session.state_bytes == artifact.state_bytes == model.state_bytes(64, 1)
    assert list(artifact.details["state_scales"]) == names_of(golden.variant)
    reference = sequence_logits(model, golden.ids)
    for prompt in (1, 17, 40):
        errors = np.abs(every_position(session, golden.ids, prompt) - reference[prompt - 1 :]).max(1)
        # A number in the middle between two codes may fall to the other side; that touches few positions.
        assert np.quantile(errors, 0.9) < TOLERANCE
        assert errors.max() < TOLERANCES["int8"] * np.abs(reference).max()


def test_graphs_are_valid_onnx(gqa_golden: Golden, write: Write, tmp_path: Path) -> None:
    write(edgeqkv.load(gqa_golden.path))
    onnx.checker.check_model(tmp_path / "model.onnx", full_check=True)
    proto = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    assert {entry.domain for entry in proto.opset_import} == {""}


def test_the_bundle_is_one_folder_with_all_that_the_runtime_reads(tmp_path: Path) -> None:
    model = edgeqkv.load(demo.checkpoint_path())
    bundle = edgeqkv.export(
        model,
        out=tmp_path / "out",
        form="genai",
        weights="fp32",
        context=256,
        chunk=64,
        tokenizer=demo.tokenizer_path(),
    )
    assert set(bundle.manifest.files) == {
        "genai_config.json",
        "model.onnx",
        "model.onnx.data",
        "onnx.proof.npz",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    artifact = bundle.target().artifact
    assert artifact.details["genai_config"] == "genai_config.json"
    assert verify(bundle).passed
    assert verify(bundle, against=model).passed

    config = config_in(bundle.path)
    assert config["model"]["eos_token_id"] == [0]
    assert config["model"]["bos_token_id"] == config["model"]["pad_token_id"] == 0
    assert config["model"]["context_length"] == config["search"]["max_length"] == 256
    assert config["search"]["chunk_size"] == 64
    assert config["search"]["past_present_share_buffer"] is True
    decoder = config["model"]["decoder"]
    sizes = {key: decoder[key] for key in ("hidden_size", "head_size", "num_attention_heads", "num_key_value_heads")}
    assert sizes == {
        "hidden_size": model.config.hidden_size,
        "head_size": model.config.head_dim,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    assert decoder["session_options"]["session.disable_prepacking"] == "1"


def test_where_no_end_is_known_the_form_is_refused_before_anything_is_written(
    gqa_golden: Golden, tmp_path: Path
) -> None:
    """The runtime would end a text at token 0, or at any other that it is told to fill up batches with."""
    model = edgeqkv.load(gqa_golden.path)
    with pytest.raises(UnsupportedError, match=r"ends a text at a token, and none is known; name it with --eos ID"):
        edgeqkv.export(model, out=tmp_path / "out", form="genai", weights="int8", verify=False)
    assert not list(tmp_path.iterdir())


def test_an_end_can_be_named_without_a_tokenizer(gqa_golden: Golden, tmp_path: Path) -> None:
    model = edgeqkv.load(gqa_golden.path)
    bundle = edgeqkv.export(model, out=tmp_path / "out", form="genai", weights="int8", verify=False, eos=(7, 256))
    assert "tokenizer_config.json" not in bundle.manifest.files
    config = config_in(bundle.path)
    assert config["model"]["eos_token_id"] == [7, 256]
    assert config["model"]["pad_token_id"] == 7
    assert "bos_token_id" not in config["model"]
    # Quantized weights must be packed for the fast kernels.
    assert "session.disable_prepacking" not in config["model"]["decoder"]["session_options"]


def changed(path: Path, **parts: Any) -> Path:
    """The demo model's tokenizer with parts of it replaced."""
    content = json.loads(demo.tokenizer_path().read_text())
    path.write_text(json.dumps({**content, **parts}))
    return path


BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SPLIT = {"type": "Split", "pattern": {"Regex": CL100K}, "behavior": "Isolated", "invert": False}
DIGITS = {"type": "Digits", "individual_digits": True}
OTHER = {**SPLIT, "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+"}}


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ({"model": {"type": "WordPiece", "vocab": {}}}, "is WordPiece"),
        ({"normalizer": {"type": "NFC"}}, r"normalizes text \(NFC\)"),
        ({"pre_tokenizer": {"type": "Metaspace"}}, "splits text with Metaspace"),
        ({"pre_tokenizer": None}, "splits text with nothing"),
        ({"pre_tokenizer": {**BYTES, "use_regex": True, "add_prefix_space": True}}, "puts a space before"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits"}, BYTES]}},
            "splits text with Digits, ByteLevel",
        ),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{**DIGITS, "individual_digits": False}, BYTES]}},
            "splits text with Digits, ByteLevel",
        ),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, BYTES]}}, "splits text by another pattern"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, SPLIT, BYTES]}},
            "splits text with Digits, Split, ByteLevel",
        ),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{**SPLIT, "behavior": "Removed"}, BYTES]}},
            "splits text by another pattern",
        ),
        ({"pre_tokenizer": {"type": "Sequence", "pretokenizers": [OTHER, BYTES]}}, "splits text by another pattern"),
        ({"pre_tokenizer": BYTES}, "splits text by another pattern"),
        (
            {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [SPLIT, {**BYTES, "use_regex": True}]}},
            "splits text by another pattern",
        ),
        (
            {"added_tokens": [{"id": 0, "content": "<|endoftext|>", "lstrip": True, "rstrip": False}]},
            "has added tokens that strip",
        ),
    ],
)
def test_a_tokenizer_that_the_runtime_reads_otherwise_is_refused(tmp_path: Path, parts: Any, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=rf"which {reason}.*Leave out --tokenizer"):
        tokenizer_config(changed(tmp_path / "tokenizer.json", **parts))


def test_byte_level_tokenizers_are_taken(tmp_path: Path) -> None:
    for splitting in ({**BYTES, "use_regex": True}, {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}):
        assert tokenizer_config(changed(tmp_path / "tokenizer.json", pre_tokenizer=splitting))


def test_a_refused_tokenizer_leaves_no_bundle(tmp_path: Path) -> None:
    model = edgeqkv.load(demo.checkpoint_path())
    refused = changed(tmp_path / "tokenizer.json", normalizer={"type": "NFC"})
    with pytest.raises(UnsupportedError, match="normalizes"):
        edgeqkv.export(model, out=tmp_path / "out", form="genai", weights="fp32", tokenizer=refused)
    assert not (tmp_path / "out").exists()


def test_heads_that_the_operator_does_not_take(tmp_path: Path) -> None:
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "m.pt", "q-k=v", **{**TINY, "n_embd": 16}))
    with pytest.raises(UnsupportedError, match=r"heads of 4 channels: .* multiples of 8.*--state fp32"):
        edgeqkv.export(model, out=tmp_path / "out", form="genai", state="int8", weights="fp32", eos=0)
    assert edgeqkv.export(model, out=tmp_path / "out", form="genai", weights="fp32", eos=0).target().verification
