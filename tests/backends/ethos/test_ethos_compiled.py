"""What Arm's backend and Vela make of a model, run in Arm's reference model: where their packages are installed.

Of one graph, because the backend takes half a minute for each.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import DATA
from ethos_bundles import needs_compiler

import edgeqkv
from edgeqkv.budget import budget
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.cli.summaries import bundle_rows
from edgeqkv.errors import BundleError, UnsupportedError

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("ethos") / "out"
    return edgeqkv.export(edgeqkv.load(DATA / "k_eq_v_gqa.pt"), "ethos-u85", out=out, context=8, chunk=1)


def test_it_is_proven_in_the_reference_model(compiled: Bundle) -> None:
    proof = compiled.target().verification
    assert proof is not None
    assert proof.passed
    assert proof.engine == "tosa"


def test_velas_figures_are_in_the_manifest(compiled: Bundle) -> None:
    made = compiled.target().artifact.compiled
    assert made is not None
    assert set(made.figures) == {"decode"}
    for figures in made.figures.values():
        assert figures.cycles > 0
        assert figures.sram_bytes > 0
    assert made.binary_bytes == (compiled.path / made.binary).stat().st_size


def test_it_is_called_experimental_wherever_it_is_shown(compiled: Bundle) -> None:
    assert any("experimental" in str(row) for row in bundle_rows(compiled))
    report = budget(compiled.path, device=["ethos-u85"])
    (answer,) = report.answers
    assert answer.npu_verdict == "runs"
    assert answer.on_npu is not None
    assert any("experimental" in each.detail for each in answer.on_npu.constraints)


def test_a_manifest_that_says_wrongly_how_a_graph_is_called(compiled: Bundle, tmp_path: Path) -> None:
    for file in compiled.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    details = manifest["targets"]["ethos-u85"]["artifact"]["details"]
    details["ends"]["decode"]["inputs"][0] = 99
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match=r"says wrongly how ethos_decode\.tosa is called"):
        edgeqkv.open(tmp_path)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    model = edgeqkv.load(DATA / "vit_digits_q_ne_k_eq_v.pt")
    with pytest.raises(UnsupportedError, match=r"form|language models"):
        edgeqkv.export(model, "ethos-u85", out=tmp_path / "out")
