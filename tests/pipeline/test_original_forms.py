"""What only some models are made of, in every form that has it, against the original class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hugging_face import SHAPES, VOCABULARY, logits, named, original, saved

import edgeqkv
from edgeqkv import UnsupportedError
from edgeqkv.model.model import Model

TOKENS = np.random.default_rng(5).integers(3, VOCABULARY, 40)

ROWS = "gemma4 merged global layers"
SHARED = "gemma4 shared, merged"
INPUTS = "gemma4 shared, separate, double"
LATENT = "deepseek v3 yarn"
SMALL = "gemma4 two layers of one state", "deepseek v2, one layer"
"""The same for what takes long to export: rows, a shared state and layer inputs; and latent attention."""

FORMS = (
    *((name, "onnx", "portable") for name in (ROWS, SHARED, INPUTS, LATENT)),
    (SHARED, "onnx", "static"),
    (LATENT, "onnx", "static"),
    (LATENT, "onnx", "ort"),
    (LATENT, "onnx", "genai"),
    *((name, "executorch", "stock") for name in SMALL),
    (SMALL[0], "coreml", "linear"),
    (SMALL[1], "coreml", "conv"),
    (SMALL[0], "onnx", "portable"),
)


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Model, np.ndarray[Any, Any]]]:
    """Models, and the logits of `TOKENS` of their original classes."""
    found = {}
    for index, name in enumerate((ROWS, SHARED, INPUTS, LATENT, *SMALL)):
        made, directory = named(name, tmp_path_factory.mktemp("originals") / str(index))
        found[name] = edgeqkv.load(directory), logits(made, TOKENS)
    return found


@pytest.mark.parametrize(("name", "target", "form"), FORMS, ids=lambda part: part.replace(" ", "-"))
def test_it_computes_what_the_original_does(
    name: str, target: str, form: str, originals: dict[str, Any], tmp_path: Path
) -> None:
    model, wanted = originals[name]
    half = target == "coreml"  # which computes in it
    precisions = {"weights": "fp16"} if half else {"weights": "fp32", "state": "fp32"}
    ends = {"eos": 2} if form == "genai" else {}
    # In float32 another order of summation, which in XNNPACK is of approximations, so that it counts in proportion.
    scale = max(1.0, float(np.abs(wanted).max()))
    tolerance = {"onnx": 1e-4, "executorch": 1e-4 * scale, "coreml": 2e-2}
    edgeqkv.export(
        model, target, out=tmp_path / "out", form=form, chunk=16, context=48, verify=False, **precisions, **ends
    )
    session: Any = edgeqkv.open(tmp_path / "out")
    if form in ("portable", "static") and target == "onnx":
        assert session.state_bytes == model.state_bytes(48, 4, 16)
    for _ in range(2):
        for start, stop in ((0, 19), (19, 20), (20, 39), (39, 40)):
            difference = np.abs(session.feed(TOKENS[start:stop]) - wanted[stop - 1]).max()
            assert difference <= tolerance[target]
        session.reset()


QUANTIZED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "rows, a shared state and layer inputs": (
        "gemma4_text",
        SHAPES[SMALL[0]][1] | {"hidden_size_per_layer_input": 16, "intermediate_size": 64},
        "int8",
        "portable",
    ),
    "latent attention": (
        "deepseek_v3",
        SHAPES[LATENT][1]
        | {"kv_lora_rank": 32, "q_lora_rank": 32, "qk_nope_head_dim": 32, "v_head_dim": 32, "intermediate_size": 64},
        "int4",
        "ort",
    ),
}


@pytest.mark.parametrize("name", QUANTIZED)
def test_weights_and_state_in_few_bits(name: str, tmp_path: Path) -> None:
    kind, config, weights, form = QUANTIZED[name]
    model = edgeqkv.load(saved(original(kind, **config), tmp_path / "model"))
    bundle = edgeqkv.export(model, out=tmp_path / "out", form=form, weights=weights, state="int8", chunk=16, context=48)
    card = bundle.target()
    assert card.verification is not None
    assert card.verification.passed
    stored = bundle.path / "model.onnx.data"
    assert stored.stat().st_size < 0.6 * sum(4 * weight.tensor.numel() for weight in model.weights)
    assert card.artifact.state_bytes == model.state_bytes(48, 1, 16)


def test_the_fused_operator_stores_what_it_reads(originals: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="layers that read another layer's state"):
        edgeqkv.export(originals[SHARED][0], form="ort", weights="fp32", out=tmp_path / "out")


def test_the_shapes_that_are_tried_here_are_among_all() -> None:
    assert {name for name, _, _ in FORMS} <= set(SHAPES)
