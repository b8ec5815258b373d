"""The budget of encoders: work counted from the graph, terms from the files, limits of devices."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from conftest import ENCODERS, EncoderGolden, read_encoder_golden

import edgeqkv
from edgeqkv.backends.onnx.liveness import onnx_steps
from edgeqkv.budget.answers import Verdict
from edgeqkv.budget.encoders import budget_encoder
from edgeqkv.budget.plan import ModelShape
from edgeqkv.errors import InputError


def counted(path: Path) -> tuple[int, int]:
    """Numbers in an exported graph's weights, and its multiply-adds."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = [tensor for tensor in graph.initializer if tensor.external_data]
    numbers = sum(
        int(entry.value) // 4 for tensor in weights for entry in tensor.external_data if entry.key == "length"
    )
    return numbers, sum(step.multiply_adds for step in onnx_steps(path, {}, {}))


def test_the_graph_has_what_the_shapes_say(encoder_golden: EncoderGolden, tmp_path: Path) -> None:
    model = edgeqkv.load(encoder_golden.path)
    edgeqkv.export(model, "onnx", out=tmp_path / "b", weights="fp32", verify=False)
    parameters, work = counted(tmp_path / "b" / "model.onnx")
    assert parameters == model.parameters
    planned = ModelShape.of(model.config, model.variant)
    assert (planned.parameters, planned.multiply_adds) == (parameters, work)


@pytest.mark.parametrize("family", ["encoder_reverse", "vit_digits"])
def test_a_shared_projection_saves_its_work(family: str, tmp_path: Path) -> None:
    work, parameters = {}, {}
    for name, variant in ENCODERS.items():
        if name.startswith(family):
            bundle = edgeqkv.export(
                edgeqkv.load(read_encoder_golden(name).path), "onnx", out=tmp_path / name, weights="fp32", verify=False
            )
            parameters[variant], work[variant] = counted(bundle.path / "model.onnx")
    tokens, width, layers = (16 if family == "encoder_reverse" else 10), 48, 2
    one = layers * tokens * width * width
    assert work["qkv"] - work["q-k=v"] == one
    assert work["qkv"] - work["q=k=v+2d"] == 2 * one
    assert work["qvv3"] == work["q-k=v"]
    assert parameters["qkv"] - parameters["q-k=v"] == layers * (width * width + width)
    assert parameters["qvv3"] == parameters["q-k=v"]


@pytest.mark.parametrize("target", ["onnx", "coreml"])
def test_a_report(target: str, tmp_path: Path) -> None:
    model = edgeqkv.load(read_encoder_golden("vit_digits_q_ne_k_eq_v").path)
    bundle = edgeqkv.export(model, target, out=tmp_path / "b", weights="int8", verify=False)
    report = edgeqkv.budget(bundle.path, ["iphone-15", "pixel-8"])
    assert report == budget_encoder(bundle, ["iphone-15", "pixel-8"])
    (prediction,) = report.predictions
    parts = prediction.footprint.parts()
    assert parts.keys() == {"weights", "activations", "runtime"}
    stored = sum(card.bytes for name, card in bundle.manifest.files.items() if name.endswith((".data", ".bin")))
    # Packed weights and a sum a block in ONNX Runtime; the file itself, with its alignment, in Core ML.
    assert 0.5 * stored < parts["weights"] < 2.5 * stored
    assert {limit.verdict for limit in report.limits} <= {Verdict.FITS, Verdict.UNKNOWN}
    assert report.passed
    savings = {each.variant: each for each in report.savings}
    assert savings["q-k=v"].is_this
    assert savings["q-k=v"].parameters == model.parameters
    for name in ("vit_digits_qkv", "vit_digits_qvv3"):
        other = edgeqkv.load(read_encoder_golden(name).path)
        assert savings[str(other.variant)].parameters == other.parameters
        assert savings[str(other.variant)].multiply_adds == ModelShape.of_model(other).multiply_adds
    json.dumps(report.to_json())


def test_activations_grow_with_the_batch(tmp_path: Path) -> None:
    model = edgeqkv.load(read_encoder_golden("encoder_reverse_qkv").path)
    peaks = []
    for batch in (1, 4):
        bundle = edgeqkv.export(model, "onnx", out=tmp_path / str(batch), batch=batch, verify=False)
        peaks.append(budget_encoder(bundle).predictions[0].footprint.parts()["activations"])
    assert peaks[1] == 4 * peaks[0]


def test_a_language_model_is_none(tmp_path: Path) -> None:
    bundle = edgeqkv.export(
        edgeqkv.load(Path(__file__).parents[1] / "data/checkpoints/qkv.pt"), "onnx", out=tmp_path / "b"
    )
    with pytest.raises(InputError, match="holds a language model"):
        budget_encoder(bundle)
