"""An encoder's proof finds what is wrong, and survives being saved."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from conftest import read_encoder_golden

import edgeqkv
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact, Graph, TensorSpec
from edgeqkv.errors import BundleError, InputError
from edgeqkv.pipeline.proof import InputsProof, load_proof, proof_inputs
from edgeqkv.pipeline.verify import verify
from edgeqkv.reference.runner import ReferenceRunner
from edgeqkv.run.session import EncoderSession

ARTIFACT = Artifact(
    target="onnx",
    form="static",
    weights="fp32",
    batch=2,
    graphs=(
        Graph(
            name="model",
            file="none",
            inputs=(TensorSpec(name="pixels", dtype="fp32", shape=(2, 1, 2, 2), role="pixels"),),
            outputs=(TensorSpec(name="logits", dtype="fp32", shape=(2, 4), role="logits"),),
        ),
    ),
)


class Flatten(EncoderSession):
    """A model whose logits are its pixels; ``mistake`` is what it does to a batch of them."""

    def __init__(self, mistake: str = "") -> None:
        super().__init__(ARTIFACT, ReferenceRunner(edgeqkv.load(read_encoder_golden("vit_digits_qkv").path)))
        self.mistake = mistake

    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        logits = batch.reshape(len(batch), -1).astype(np.float32)
        match self.mistake:
            case "mixed":
                return logits[::-1]
            case "first only":
                return np.repeat(logits[:1], len(batch), 0)
            case "small":
                return logits + np.float32(3e-3)
            case "not numbers":
                return logits * np.float32(np.nan)
        return logits


@pytest.fixture
def proof() -> InputsProof:
    inputs = proof_inputs(ARTIFACT)
    return InputsProof(inputs, inputs.reshape(len(inputs), -1).astype(np.float32))


def test_it_has_more_inputs_than_batches_are_long(proof: InputsProof) -> None:
    assert len(proof.inputs) == 5  # two batches and one more
    assert len({each.tobytes() for each in proof.inputs}) == 5
    result = proof.compare(Flatten(), "none")
    assert (result.passed, result.max_abs_error, result.positions, result.argmax_equal) == (True, 0.0, 5, 5)


@pytest.mark.parametrize("mistake", ["mixed", "first only", "small", "not numbers"])
def test_mistakes_are_found(proof: InputsProof, mistake: str) -> None:
    result = proof.compare(Flatten(mistake), "none")
    assert not result.passed
    assert "is allowed" in result.failure


def test_it_survives_being_saved(proof: InputsProof, tmp_path: Path) -> None:
    ids = InputsProof(proof_inputs(ARTIFACT.model_copy(update={"vocab_size": 10})), proof.outputs)
    for each in (proof, ids):
        each.save(tmp_path / "p.npz")
        again = load_proof(tmp_path / "p.npz")
        assert isinstance(again, InputsProof)
        assert again.inputs.dtype == each.inputs.dtype
        assert np.array_equal(again.inputs, each.inputs)
        assert np.array_equal(again.outputs, each.outputs)
    (tmp_path / "p.npz").write_bytes(b"no")
    with pytest.raises(BundleError, match="cannot be read"):
        load_proof(tmp_path / "p.npz")


def test_a_changed_weight_is_found(tmp_path: Path) -> None:
    golden = read_encoder_golden("vit_digits_q_ne_k_eq_v")
    model = edgeqkv.load(golden.path)
    edgeqkv.export(model, "onnx", out=tmp_path / "b", weights="fp32")
    assert verify(Bundle(tmp_path / "b")).passed
    assert verify(Bundle(tmp_path / "b"), against=model).passed
    graph = onnx.load(tmp_path / "b" / "model.onnx")
    bias = next(t for t in graph.graph.initializer if t.name == "blocks.1.attn.c_kv.bias")
    numbers = onnx.numpy_helper.to_array(bias).copy()
    numbers[3] += 0.05
    bias.CopyFrom(onnx.numpy_helper.from_array(numbers, bias.name))
    onnx.save(graph, tmp_path / "b" / "model.onnx")
    changed = Bundle(tmp_path / "b", check=False)
    assert not verify(changed).passed
    assert not verify(changed, against=model).passed
    with pytest.raises(BundleError, match="is not the file that was exported"):
        Bundle(tmp_path / "b")


def test_another_model_is_not_the_original(tmp_path: Path) -> None:
    one, other = (edgeqkv.load(read_encoder_golden(f"vit_digits_{name}").path) for name in ("qkv", "qvv3"))
    bundle = edgeqkv.export(one, "onnx", out=tmp_path / "b", verify=False)
    with pytest.raises(InputError, match="is not the model that was exported"):
        verify(bundle, against=other)
    with pytest.raises(BundleError, match="exported without verification"):
        verify(bundle)
    assert verify(bundle, against=one).passed
