"""The graphs that Vela is given, run in Arm's reference model: what is in them, and what they compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, read_encoder_golden, read_golden
from npu_bundles import needs_arms_model, opened, written
from random_networks import windowed_models

import edgeqkv
from edgeqkv.backends import backend
from edgeqkv.budget import budget
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.cli.summaries import bundle_rows
from edgeqkv.errors import BundleError, UnsupportedError

pytestmark = needs_arms_model

CONTEXT, CHUNK = 32, 8


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Proven when it was exported: the whole context, across the chunk's boundary, to the last position and past it."""
    out = tmp_path_factory.mktemp("merged") / "out"
    return written("ethos-u85", DATA / "k_eq_v_gqa.pt", out, context=CONTEXT, chunk=CHUNK)


def test_an_export_is_proven_and_says_how_to_compile_it(merged: Bundle) -> None:
    card = merged.target()
    assert card.verification is not None
    assert card.verification.passed
    assert card.verification.engine == "tosa"
    # Logits of 16-bit activations; measured here: 0.005 of their spread.
    assert card.verification.max_abs_error < 0.02 * card.verification.scale
    assert card.artifact.compiled is None
    assert "experimental" not in card.artifact.details
    assert "edgeqkv.backends.ethos.compiler" in card.artifact.details["compile_with"]


@pytest.mark.parametrize(
    ("name", "form"), [("k_eq_v_gqa", "a16w8"), ("qkv", "a16w8"), ("q_eq_k_eq_v", "a16w8"), ("gqa", "int8")]
)
def test_text_that_the_ranges_were_not_observed_on(name: str, form: str, tmp_path: Path) -> None:
    """Prefill and decode, the last position among them, against the original class's own logits."""
    golden = read_golden(name)
    bundle = written(
        "ethos-u85", DATA / f"{name}.pt", tmp_path / "out", context=CONTEXT, chunk=CHUNK, form=form, verify=False
    )
    session = opened(bundle)
    ids = golden.ids[:CONTEXT]
    for start, stop in ((0, 8), (8, 19), *((at, at + 1) for at in range(19, 22)), (22, CONTEXT)):
        logits = session.feed(ids[start:stop])
        # int8 weights alone make 0.02.
        assert np.abs(logits - golden.logits[stop - 1]).max() < 0.07 * np.ptp(golden.logits), stop
    artifact = bundle.target().artifact
    assert {each.role for each in artifact.state_tensors} == ({"kv"} if "eq_v" in name else {"k", "v"})
    for graph in artifact.graphs:
        ends = [(each.name, each.shape) for each in (*graph.inputs, *graph.outputs) if each.role == "state"]
        assert len(ends) == 2 * len(artifact.state_tensors), "no other state goes in or out"


def test_hidden_rows_count_nothing(merged: Bundle) -> None:
    """Whatever lies behind the filled part of the state, the logits are the same to the last bit."""
    session, other = opened(merged), opened(merged)
    tokens = read_golden("k_eq_v_gqa").ids
    other.feed(tokens[:CONTEXT])
    other.reset()
    for start, stop in ((0, 5), (5, 6)):
        assert np.array_equal(session.feed(tokens[start:stop]), other.feed(tokens[start:stop]))


def test_eight_bits_are_called_experimental(tmp_path: Path) -> None:
    """In the manifest, the summary, the budget and what a target says of its forms."""
    bundle = written("ethos-u85", DATA / "gqa.pt", tmp_path / "out", context=8, chunk=1, form="int8", verify=False)
    assert bundle.target().artifact.details["experimental"].startswith("experimental")
    assert "- experimental" in dict(bundle_rows(bundle))
    (answer,) = budget(bundle.path, device=["ethos-u85"]).answers
    assert [each.detail.partition(":")[0] for each in answer.constraints if each.name == "accuracy"] == ["experimental"]
    forms = {form.name: form.purpose for form in backend("ethos-u85").forms}
    assert forms["int8"].startswith("experimental")
    assert not forms["a16w8"].startswith("experimental")


def test_a_manifest_that_says_otherwise_than_the_graph(merged: Bundle, tmp_path: Path) -> None:
    def broken(change: str, found: str) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(merged.path, folder)
        text = (folder / "manifest.json").read_text()
        assert change in text
        (folder / "manifest.json").write_text(text.replace(change, found))
        return folder

    text = json.dumps(json.loads((merged.path / "manifest.json").read_text()))
    (merged.path / "manifest.json").write_text(text)
    wrong = broken(f", {CONTEXT}, 8]", f", {CONTEXT}, 9]")
    with pytest.raises(BundleError, match="the manifest says of"):
        edgeqkv.open(wrong)
    with pytest.raises(BundleError, match="does not say what the logits"):
        edgeqkv.open(broken('"logit_scales"', '"logit_scaled"'))


def test_a_damaged_graph(merged: Bundle, tmp_path: Path) -> None:
    shutil.copytree(merged.path, tmp_path / "bundle")
    file = tmp_path / "bundle" / "ethos_decode.tosa"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BundleError):
        edgeqkv.open(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"soc": "v75"}, "cannot compile for 'v75'"),
        ({"memory_mode": "Sram"}, "has no --memory-mode 'Sram'; it has Sram_Only"),
        ({"system_config": "Fast"}, "has no --system-config 'Fast'"),
        ({"weights": "int4"}, "cannot do weights 'int4'"),
        ({"form": "int4"}, "cannot do form 'int4'; it can do a16w8, int8"),
    ],
    ids=["soc", "memory_mode", "system_config", "weights", "form"],
)
def test_what_it_has_not(options: dict[str, str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=told):
        written("ethos-u85", DATA / "gqa.pt", tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_memory_around_a_chip_is_for_targets_that_ask(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="asks for no --memory-mode; it is for --target ethos-u85"):
        edgeqkv.export(edgeqkv.load(DATA / "gqa.pt"), "onnx", out=tmp_path / "out", memory_mode="Sram_Only")


def test_what_a_model_has_beyond_the_graphs(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"an attention window.*, which Ethos-U85 exports cannot express yet"):
        edgeqkv.export(next(iter(windowed_models().values())), "ethos-u85", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("form", ["a16w8", "int8"])
@pytest.mark.parametrize("name", ["vit_digits_q_eq_k_eq_v_2d", "encoder_reverse_q_ne_k_eq_v"])
def test_encoders(name: str, form: str, tmp_path: Path) -> None:
    """Patches, a class token, the 2-D term; token ids; a last batch that is filled up. Proven by the export."""
    bundle = written("ethos-u85", DATA / f"{name}.pt", tmp_path / "out", batch=2, form=form)
    proof = bundle.target().verification
    assert proof is not None
    assert proof.passed
    golden = read_encoder_golden(name)
    got = edgeqkv.open(bundle.path).run(golden.inputs)
    assert (got.argmax(-1) == golden.logits.argmax(-1)).mean() > 0.98
