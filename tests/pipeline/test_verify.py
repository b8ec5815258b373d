"""The verification must catch what can go wrong; each test breaks an export in one way."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from reference_session import TorchSession

import edgeqkv
from edgeqkv import BundleError, InputError, VerificationFailed
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.pipeline.proof import Proof, load_proof, make_proof, pieces
from edgeqkv.pipeline.verify import verify, verify_artifact


@given(context=st.integers(1, 3000), data=st.data())
def test_pieces_fill_the_context(context: int, data: st.DataObject) -> None:
    chunk = data.draw(st.integers(1, context))
    lengths = pieces(context, chunk)
    assert sum(lengths) == context
    assert min(lengths) >= 1
    if context >= 2 and context >= chunk + 20:
        assert lengths[-1] == 1, "the last position is reached by decode"
        assert lengths[1] == 1, "and there is a hand-over from prefill"
    if context >= 4 * chunk + 32 and chunk > 1:
        assert lengths[0] > chunk, "a chunk boundary is crossed"
        assert lengths[0] % chunk, "and a chunk is left unfilled"


@pytest.fixture
def bundle(tiny_model: Model, tmp_path: Path) -> Bundle:
    return edgeqkv.export(tiny_model, "onnx", out=tmp_path / "bundle", chunk=8, weights="fp32")


def test_what_was_exported_is_proven_again_with_and_without_the_original(bundle: Bundle, tiny_model: Model) -> None:
    alone = verify(bundle)
    assert alone.passed
    assert 64 <= alone.compared < 97  # a sample of the vocabulary, with the best tokens in it
    full = verify(bundle, against=tiny_model)
    assert full.passed
    assert full.compared == 97
    assert full.positions == 48
    assert full.argmax_equal == full.steps
    assert 0 < full.max_abs_error < 1e-5


def test_without_a_proof_the_original_is_needed(tiny_model: Model, tmp_path: Path) -> None:
    bundle = edgeqkv.export(tiny_model, "onnx", out=tmp_path / "bundle", verify=False)
    assert bundle.target().verification is None
    with pytest.raises(BundleError, match="exported without verification; say --against"):
        verify(bundle)
    assert verify(bundle, against=tiny_model).passed


def test_another_model_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    sizes = {"n_layer": 1, "n_embd": 32, "n_head": 4, "n_positions": 48, "vocab_size": 97}
    other = edgeqkv.load(write_random_checkpoint(tmp_path / "other.pt", "q-k=v+gqa2", **sizes))
    with pytest.raises(InputError, match=r"other\.pt .*1 layers.* is not the model that was exported.*2 layers"):
        verify(bundle, against=other)


def test_the_same_shape_with_other_weights_fails(bundle: Bundle, tmp_path: Path) -> None:
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 48, "vocab_size": 97}
    other = edgeqkv.load(write_random_checkpoint(tmp_path / "other.pt", "q-k=v+gqa2", std=0.2, seed=1, **sizes))
    result = verify(bundle, against=other)
    assert not result.passed
    assert "logits differ" in result.failure


def mutate(bundle: Bundle, change: Any) -> None:
    path = bundle.path / "model.onnx"
    proto = onnx.load(path, load_external_data=False)
    change(proto.graph)
    path.write_bytes(proto.SerializeToString())


def corrupt_one_weight(bundle: Bundle) -> None:
    """One number of one matrix, changed by a tenth."""
    path = bundle.path / "model.onnx.data"
    values = np.fromfile(path, np.float32)
    values[len(values) // 2] += 0.1
    values.tofile(path)


def shift_positions(bundle: Bundle) -> None:
    def change(graph: onnx.GraphProto) -> None:
        gather = next(n for n in graph.node if n.op_type == "Gather" and n.input[0] == "wpe.weight")
        one = onnx.numpy_helper.from_array(np.array(-1, np.int64), "shift")
        graph.initializer.append(one)
        at = list(graph.node).index(gather)
        graph.node.insert(at, onnx.helper.make_node("Add", [gather.input[1], "shift"], ["shifted"]))
        graph.node[at + 1].input[1] = "shifted"

    mutate(bundle, change)


def see_the_future(bundle: Bundle) -> None:
    """The mask lets every position through. Only prefill can show it: decode has no future."""

    def change(graph: onnx.GraphProto) -> None:
        for tensor in graph.initializer:
            embedded = tensor.data_location != onnx.TensorProto.EXTERNAL
            if embedded and np.isneginf(numpy_helper.to_array(tensor)).all():
                tensor.CopyFrom(numpy_helper.from_array(np.array(0, np.float32), tensor.name))

    mutate(bundle, change)


def forget_the_state(bundle: Bundle) -> None:
    """Layer 1 reads the past and does not keep it."""

    def change(graph: onnx.GraphProto) -> None:
        for node in graph.node:
            node.output[:] = ["kept_back" if name == "present_kv_1" else name for name in node.output]
            node.input[:] = ["kept_back" if name == "present_kv_1" else name for name in node.input]
        graph.node.append(onnx.helper.make_node("Identity", ["past_kv_1"], ["present_kv_1"]))

    mutate(bundle, change)


def swap_layers(bundle: Bundle) -> None:
    """Two layers' states trade places on the way in."""

    def change(graph: onnx.GraphProto) -> None:
        swap = {"past_kv_0": "past_kv_1", "past_kv_1": "past_kv_0"}
        for node in graph.node:
            node.input[:] = [swap.get(name, name) for name in node.input]

    mutate(bundle, change)


@pytest.mark.parametrize("damage", [corrupt_one_weight, shift_positions, see_the_future, forget_the_state, swap_layers])
def test_every_kind_of_damage_is_caught(bundle: Bundle, tiny_model: Model, damage: Any) -> None:
    damage(bundle)
    artifact = bundle.target().artifact
    result = verify_artifact(bundle.path, artifact, make_proof(tiny_model, artifact))
    assert not result.passed
    assert result.failure
    sampled = make_proof(tiny_model, artifact).sampled()
    assert not verify_artifact(bundle.path, artifact, sampled).passed


def test_an_export_that_fails_its_proof_leaves_no_bundle(
    tiny_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*arguments: Any) -> Proof:
        proof = make_proof(*arguments)
        proof.logits[3] += 1  # type: ignore[attr-defined]
        return proof

    monkeypatch.setattr("edgeqkv.pipeline.export.make_proof", wrong)
    with pytest.raises(VerificationFailed, match=r"does not compute what tiny\.pt does: logits differ by 1 at"):
        edgeqkv.export(tiny_model, "onnx", out=tmp_path / "bundle", chunk=8)
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.pt"]


class Ends(TorchSession):
    """A session that goes wrong in a way that only its surroundings show."""

    leaks = False
    overruns = False

    def reset(self) -> None:
        if not self.leaks:
            super().reset()

    def _checked(self, tokens: Any) -> Any:
        return np.asarray(tokens) if self.overruns else super()._checked(tokens)

    def _step(self, ids: Any, position: int) -> Any:
        return super()._step(ids, min(position, self.capacity - len(ids)))


def test_a_session_that_takes_tokens_past_its_end_is_caught(tiny_model: Model) -> None:
    session = Ends(tiny_model, chunk=8)
    session.overruns = True
    result = make_proof(tiny_model, session.artifact).compare(session, "torch")
    assert not result.passed
    assert result.failure == "it took a token past its context of 48"


def test_logits_that_are_not_numbers_are_caught(tiny_model: Model) -> None:
    class Broken(TorchSession):
        def _step(self, ids: Any, position: int) -> Any:
            return super()._step(ids, position) * (np.nan if position > 20 else 1)

    session = Broken(tiny_model, chunk=8)
    result = make_proof(tiny_model, session.artifact).compare(session, "torch")
    assert not result.passed
    assert result.max_abs_error == np.inf


def test_a_runtime_that_crashes_is_a_failed_verification(
    bundle: Bundle, tiny_model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # A package that ends the process, in front of the real one, stands in for a crash in native code.
    (tmp_path / "crash").mkdir()
    (tmp_path / "crash" / "onnxruntime.py").write_text(f"import os\nos.kill(os.getpid(), {int(signal.SIGSEGV)})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "crash") + os.pathsep + os.environ.get("PYTHONPATH", ""))
    with pytest.raises(VerificationFailed, match=r"ONNX \(exact\) was ended by SIGSEGV"):
        verify(bundle)


def test_proofs_that_cannot_be_read(tmp_path: Path) -> None:
    for content in (b"PK nonsense", b"PK\x03\x04 cut off", b""):
        (tmp_path / "x.npz").write_bytes(content)
        with pytest.raises(BundleError, match="cannot be read"):
            load_proof(tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens", np.zeros(47, np.int64)),
        ("tokens", np.zeros((48, 1), np.int64)),
        ("tokens", np.zeros(48)),
        ("lengths", np.array([49, -1])),
        ("lengths", np.array([48])),
        ("columns", np.array([97])),
        ("columns", np.array([-1])),
        ("logits", np.zeros((1, 1), np.float32)),
        ("argmax", np.zeros(0, np.int64)),
    ],
)
def test_a_proof_of_other_sizes_is_refused(tiny_model: Model, name: str, value: Any) -> None:
    session = TorchSession(tiny_model, chunk=8)
    proof = make_proof(tiny_model, session.artifact).sampled()
    setattr(proof, name, value)
    with pytest.raises(BundleError, match="the proof is not of this model: export it again"):
        proof.compare(session, "torch")
