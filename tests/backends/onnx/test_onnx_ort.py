"""The ort form: fused attention on one buffer, which is past and present, keys and values."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import TINY, Golden
from matrix import sampled
from onnx_sessions import every_position, names_of
from reference_session import TorchSession

import edgeqkv
from edgeqkv import ContextFull, UnsupportedError
from edgeqkv.backends import backend
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.model.model import Model
from edgeqkv.model.state import StateScales
from edgeqkv.pipeline.proof import TOLERANCES
from edgeqkv.pipeline.verify import make_proof, verify, verify_artifact
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
        spec = TargetSpec(form="ort", **{**chosen, **choices})
        artifact = backend("onnx").export(model.with_context(spec.context), tmp_path, spec, silent)
        session = open_artifact(tmp_path, artifact, "onnxruntime")
        assert isinstance(session, Session)
        return artifact, session

    return export


def test_it_computes_what_the_original_class_did(golden: Golden, write: Write) -> None:
    model = edgeqkv.load(golden.path)
    artifact, session = write(model)
    for prompt in (1, 16, 17, 40):  # within a chunk, a whole one, across its boundary, across two
        assert np.abs(every_position(session, golden.ids, prompt) - golden.logits[prompt - 1 :]).max() < TOLERANCE
    with pytest.raises(ContextFull):
        session.feed([1])
    assert session.state_bytes == artifact.state_bytes == model.state_bytes(64, 4)


def test_the_graph_takes_one_state_a_merged_layer(golden: Golden, write: Write, tmp_path: Path) -> None:
    artifact, _ = write(edgeqkv.load(golden.path))
    onnx.checker.check_model(tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx", load_external_data=False).graph
    expected = names_of(golden.variant)
    assert [tensor.name for tensor in artifact.state_tensors] == expected
    assert [i.name for i in graph.input if i.name.startswith("past_")] == [f"past_{name}" for name in expected]
    outputs = [name for tensor in artifact.state_tensors for name in (tensor.output, *tensor.aliases)]
    assert [o.name for o in graph.output] == ["logits", *outputs]
    attentions = [node for node in graph.node if node.op_type == "GroupQueryAttention"]
    assert len(attentions) == 2
    for node in attentions:
        # Keys and values, their pasts: one value twice where they are shared, two where they are not.
        assert [node.input[1] == node.input[2], node.input[3] == node.input[4]] == [expected[0] == "kv_0"] * 2
    # One state for keys and values is what keeps the whole graph from needing anything else of full length.
    assert not {node.op_type for node in graph.node} & {"ScatterND", "Concat", "Softmax", "Identity"}


@pytest.mark.parametrize("state", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("variant", ["q-k=v+mqa", "qkv+gqa2"])
def test_the_state_stays_where_it_is_and_is_written_there(
    tmp_path: Path, write: Write, variant: str, state: str
) -> None:
    checkpoint = write_random_checkpoint(tmp_path / "m.pt", variant, std=0.2, **{**TINY, "n_positions": 300})
    model = with_state(edgeqkv.load(checkpoint), state, None)
    artifact, session = write(model, state=state)
    addresses = session.runner.state_addresses
    tokens = np.random.default_rng(0).integers(0, 97, 300)
    session.feed(tokens[:100])
    # A NumPy view of the memory itself, made before it is filled: what appears in it was written there.
    held = {tensor.name: session.runner._state[tensor.name].numpy() for tensor in artifact.state_tensors}
    for tensor in artifact.state_tensors:
        view = held[tensor.name]
        assert view.ctypes.data == addresses[tensor.name]
        assert np.abs(view[0, :, 99].astype(np.float32)).max() > 0
        assert not view[0, :, 100:].any()
    for position in range(100, 300):
        before = {name: view[0, :, :position].copy() for name, view in held.items()}
        session.feed([tokens[position]])
        for name, view in held.items():
            assert np.array_equal(view[0, :, :position], before[name])
            assert view[0, :, position].any()
    assert session.runner.state_addresses == addresses
    assert not verify_artifact(tmp_path, artifact, make_proof(model, artifact)).failure


def test_a_present_that_is_bound_elsewhere_would_go_unnoticed(gqa_golden: Golden, write: Write) -> None:
    """Why a session must bind the aliases: without it the operator copies the whole state and says nothing."""
    artifact, session = write(edgeqkv.load(gqa_golden.path))
    session.feed(gqa_golden.ids[:8])
    runner = next(iter(session.runner._opened.values()))
    binding = runner._binding
    for tensor in artifact.state_tensors:
        for alias in tensor.aliases:
            binding.bind_output(alias)
    logits = session.feed(gqa_golden.ids[8:9])
    copies = dict(zip([o.name for o in artifact.graphs[0].outputs], binding.get_outputs(), strict=True))
    for tensor in artifact.state_tensors:
        assert copies[tensor.aliases[0]].data_ptr() != session.runner.state_addresses[tensor.name]
    assert np.abs(logits - gqa_golden.logits[8]).max() < TOLERANCE


def test_half_precision_state(golden: Golden, write: Write) -> None:
    model = edgeqkv.load(golden.path)
    artifact, session = write(model, state="fp16")
    assert session.precision == "fp16"
    assert session.state_bytes == artifact.state_bytes == model.state_bytes(64, 2)
    # The state's rounding, and the operator's own arithmetic in fp16. Measured: 1.3e-3.
    assert np.abs(every_position(session, golden.ids, 20) - golden.logits[19:]).max() < 5e-3


def test_int8_state(golden: Golden, write: Write) -> None:
    original = edgeqkv.load(golden.path)
    model = with_state(original, "int8", None)
    artifact, session = write(model, state="int8")
    assert session.precision == "int8"
    assert session.state_bytes == artifact.state_bytes == original.state_bytes(64, 1)
    assert list(artifact.details["state_scales"]) == names_of(golden.variant)
    reference = sequence_logits(model, golden.ids)
    for prompt in (1, 17, 40):
        errors = np.abs(every_position(session, golden.ids, prompt) - reference[prompt - 1 :]).max(1)
        # The reference rounds as the operator does. A number in the middle between two codes may still fall to the
        # other side elsewhere; that touches few positions.
        assert np.quantile(errors, 0.9) < TOLERANCE
        assert errors.max() < TOLERANCES["int8"] * np.abs(reference).max()
    # And the rounding is there: the original's logits are another matter.
    assert np.abs(reference - golden.logits).max() > 100 * TOLERANCE


def test_the_reference_with_a_state_rounds_too(gqa_golden: Golden) -> None:
    model = with_state(edgeqkv.load(gqa_golden.path), "int8", None)
    session = TorchSession(model, chunk=16)
    rows = np.stack([session.feed(gqa_golden.ids[:20]), *(session.feed([t]) for t in gqa_golden.ids[20:])])
    assert np.quantile(np.abs(rows - sequence_logits(model, gqa_golden.ids)[19:]).max(1), 0.9) < TOLERANCE


def test_scales_fit_the_largest_number_and_cut_off_what_is_larger() -> None:
    scales = StateScales({"kv_0": 0.5})
    rows = torch.tensor([[0.0, 0.24, 0.26, -0.76, 63.5, 100.0, -100.0]])
    assert scales.rounded("kv_0", rows).tolist() == [[0.0, 0.0, 0.5, -1.0, 63.5, 63.5, -64.0]]


def test_calibration_text_decides_the_scales(gqa_golden: Golden) -> None:
    model = edgeqkv.load(gqa_golden.path)

    def scales(calibration: np.ndarray | None) -> dict[str, float]:
        calibrated = with_state(model, "int8", calibration).state_scales
        assert calibrated is not None
        return dict(calibrated.of)

    assert scales(None) == scales(None)
    one = scales(np.full((2, 32), 7))
    more = scales(np.concatenate([np.full((2, 32), 7), gqa_golden.ids[None, :32], gqa_golden.ids[None, 32:]]))
    assert one != scales(None)
    assert all(more[name] >= one[name] for name in one)
    assert with_state(model, "fp32", None) is model


@pytest.mark.parametrize(
    ("form", "variant"),
    sampled(
        product(["ort", "portable", "static"], ["q-k=v+gqa4", "qkv"]),
        lambda form, variant: form if variant == "q-k=v+gqa4" else None,
        lambda _, variant: variant,
    ),
)
def test_an_int8_state_is_proven_and_a_wrong_scale_is_not(tmp_path: Path, form: str, variant: str) -> None:
    # 300 positions, so that the fixed graphs have two windows.
    checkpoint = write_random_checkpoint(tmp_path / "m.pt", variant, std=0.2, **{**TINY, "n_positions": 300})
    model = edgeqkv.load(checkpoint)
    bundle = edgeqkv.export(model, "onnx", out=tmp_path / "out", form=form, state="int8", weights="int8", chunk=16)
    card = bundle.target()
    assert card.verification is not None
    assert card.verification.passed
    assert card.artifact.state_bytes == model.state_bytes(300, 1)
    assert verify(bundle).passed
    assert verify(bundle, against=model).passed
    told = {name: 0.5 * scale for name, scale in card.artifact.details["state_scales"].items()}
    lying = card.artifact.model_copy(update={"details": {**card.artifact.details, "state_scales": told}})
    card = card.model_copy(update={"artifact": lying})
    bundle.manifest.targets["onnx"] = card
    assert not verify(bundle, against=model).passed


def test_heads_that_the_operator_does_not_take(tmp_path: Path) -> None:
    sizes = {**TINY, "n_embd": 16}
    model = edgeqkv.load(write_random_checkpoint(tmp_path / "m.pt", "q-k=v", **sizes))
    with pytest.raises(UnsupportedError, match=r"heads of 4 channels: .* multiples of 8.*--form portable"):
        edgeqkv.export(model, "onnx", out=tmp_path / "out", form="ort", weights="fp32")
    assert not (tmp_path / "out").exists()
