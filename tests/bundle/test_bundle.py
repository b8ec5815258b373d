from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgeqkv
from edgeqkv import BundleError, UnsupportedError
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import ModelCard
from edgeqkv.bundle.staging import staged
from edgeqkv.model.model import Model


@pytest.fixture
def bundle(tiny_model: Model, tmp_path: Path) -> Bundle:
    return edgeqkv.export(tiny_model, "onnx", out=tmp_path / "bundle", chunk=8)


def test_the_manifest_says_what_is_there(bundle: Bundle) -> None:
    manifest = json.loads((bundle.path / "manifest.json").read_text())
    assert manifest["format"] == 2
    assert manifest["model"]["variant"] == "q-k=v+gqa2"
    assert set(manifest["files"]) == {"model.onnx", "model.onnx.data", "onnx.proof.npz"}
    assert {file.name for file in bundle.path.iterdir()} == {*manifest["files"], "manifest.json"}
    target = manifest["targets"]["onnx"]
    assert target["verification"]["passed"]
    assert target["artifact"]["state_tensors"][0]["shape"] == [1, 2, 48, 8]
    keys = ("role", "dtype", "numpy_dtype", "shape")
    inputs = {spec["name"]: tuple(map(spec.get, keys)) for spec in target["artifact"]["graphs"][0]["inputs"]}
    assert inputs["input_ids"] == ("tokens", "int64", "int64", [1, "tokens"])
    assert inputs["past_kv_1"] == ("state", "fp32", "float32", [1, 2, 48, 8])
    assert target["artifact"]["state_tensors"][1]["update"] == "in_place"
    assert target["verification"]["engine"] == "exact"
    assert target["engines"]["onnxruntime"]["passed"]
    assert target["artifact"]["versions"]["onnxruntime"]


def test_it_opens_and_runs(bundle: Bundle) -> None:
    session = edgeqkv.open(bundle.path)
    assert session.feed([1, 2, 3]).shape == (97,)
    assert session.position == 3
    assert session.capacity == 48


def test_changed_and_missing_files_are_found(bundle: Bundle) -> None:
    data = bundle.path / "model.onnx.data"
    content = bytearray(data.read_bytes())
    content[1000] ^= 1
    data.write_bytes(content)
    with pytest.raises(BundleError, match=r"'model\.onnx\.data' .* is not the file that was exported"):
        edgeqkv.open(bundle.path)
    data.unlink()
    with pytest.raises(BundleError, match=r"'model\.onnx\.data' is missing"):
        edgeqkv.open(bundle.path)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ("{", "is damaged"),
        (b"\xff", "is damaged"),
        ("[]", "of format None, and this edgeqkv reads format 2"),
        ('{"format": 3}', "of format 3, and this edgeqkv reads format 2"),
        (
            '{"format": 1}',
            r"of format 1, and this edgeqkv reads format 2\. Export the model again: edgeqkv export MODEL",
        ),
        ('{"format": 2}', "is damaged: edgeqkv: Field required"),
    ],
)
def test_manifests_that_cannot_be_read(bundle: Bundle, manifest: str | bytes, message: str) -> None:
    (bundle.path / "manifest.json").write_bytes(manifest if isinstance(manifest, bytes) else manifest.encode())
    with pytest.raises(BundleError, match=message):
        Bundle(bundle.path)


def test_what_is_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no folder"):
        edgeqkv.open(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"there is no manifest\.json in"):
        edgeqkv.open(tmp_path)


def test_targets_and_engines_are_asked_for_by_name(bundle: Bundle) -> None:
    with pytest.raises(UnsupportedError, match=r"holds no target 'coreml'; it holds onnx"):
        edgeqkv.open(bundle.path, target="coreml")
    with pytest.raises(UnsupportedError, match="ONNX has no engine 'tpu'; it has onnxruntime"):
        edgeqkv.open(bundle.path, engine="tpu")


def test_an_existing_bundle_is_only_replaced_when_asked(bundle: Bundle, tiny_model: Model) -> None:
    before = (bundle.path / "manifest.json").read_bytes()
    with pytest.raises(BundleError, match="exists already; give another --out, or --force"):
        edgeqkv.export(tiny_model, "onnx", out=bundle.path)
    assert (bundle.path / "manifest.json").read_bytes() == before
    replaced = edgeqkv.export(tiny_model, "onnx", out=bundle.path, chunk=4, overwrite=True)
    assert replaced.target().artifact.chunk == 4
    assert [entry.name for entry in bundle.path.parent.iterdir()].count("bundle") == 1


def test_what_is_no_bundle_is_never_replaced(tmp_path: Path, tiny_model: Model) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("meow")
    with pytest.raises(BundleError, match="is not a bundle of edgeqkv, so it is not replaced even with --force"):
        edgeqkv.export(tiny_model, "onnx", out=tmp_path / "photos", overwrite=True)
    assert (tmp_path / "photos" / "cat.jpg").exists()


def test_a_failure_leaves_nothing_behind_and_the_old_bundle_in_place(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    with staged(out, overwrite=False) as staging:
        staging.write_manifest("0", *_cards())
    before = sorted(tmp_path.iterdir())

    def fail(error: BaseException) -> None:
        with staged(out, overwrite=True) as staging:
            (staging.path / "half").write_text("written")
            raise error

    for error in (OSError(28, "No space left on device"), KeyboardInterrupt()):
        with pytest.raises((BundleError, KeyboardInterrupt)):
            fail(error)
        assert sorted(tmp_path.iterdir()) == before
        assert {file.name for file in out.iterdir()} == {"manifest.json"}


def _cards() -> tuple[object, ...]:
    return ModelCard(kind="decoder", variant="qkv", parameters=0, config={}, source={}, notes=()), None, {}


def test_places_that_cannot_be_written(tmp_path: Path, tiny_model: Model) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BundleError, match=r"cannot write the bundle .*Nothing was left behind"):
        edgeqkv.export(tiny_model, "onnx", out=tmp_path / "file" / "bundle")


@pytest.mark.skipif(sys.platform == "win32", reason="limits are set the POSIX way")
def test_a_full_disk(tmp_path: Path, tiny_checkpoint: Path) -> None:
    """A process that may not write files of more than 4 kB stands in for a disk without room."""
    script = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4_000, 4_000))
sys.argv = ["edgeqkv", "export", {str(tiny_checkpoint)!r}, "--out", {str(tmp_path / "bundle")!r}]
from edgeqkv.cli.app import main
main()
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot write the bundle" in done.stderr
    assert "Traceback" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [tiny_checkpoint.name]


def test_saved_numbers_survive(bundle: Bundle) -> None:
    with np.load(bundle.path / "onnx.proof.npz") as proof:
        assert proof["lengths"].sum() == 48
        assert proof["logits"].dtype == np.float32


def test_a_bundle_of_the_first_format_is_refused_with_the_command_that_makes_it_anew(bundle: Bundle) -> None:
    artifact = {"target": "onnx", "form": "ort", "weights": "int4", "state": "int8", "context": 48}
    old = {"format": 1, "model": {"source": {"file": "m.pt"}}, "targets": {"onnx": {"artifact": artifact}}}
    (bundle.path / "manifest.json").write_text(json.dumps(old))
    command = "edgeqkv export m.pt --target onnx --form ort --weights int4 --state int8 --context 48 --out"
    with pytest.raises(BundleError, match=f"{command} .*bundle --force"):
        Bundle(bundle.path)
