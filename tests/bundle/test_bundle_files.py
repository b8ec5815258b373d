"""What a manifest says of files is held to: nothing is read that it does not list, or that lies elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edgeqkv import BundleError
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.bundle.manifest import Artifact, Graph, ModelCard, TargetCard, TensorSpec, TokenizerCard
from edgeqkv.bundle.staging import Staged

GRAPH = Graph(
    name="main",
    file="model.onnx",
    inputs=(TensorSpec(name="features", dtype="fp32", shape=(1, 4), role="features"),),
    outputs=(TensorSpec(name="logits", dtype="fp32", shape=(1, 4), role="logits"),),
)
CONFIG = {
    "task": "odd-one-out",
    "layers": 1,
    "hidden_size": 8,
    "heads": 2,
    "head_dim": 4,
    "intermediate_size": 8,
    "classes": 4,
    "tokens": 1,
    "norm_eps": 1e-5,
    "input": {"length": 1, "size": 4, "kind": "features"},
}


def write(folder: Path, **artifact: Any) -> Path:
    """A bundle of files of a few bytes: a graph and its weights, a package, a tokenizer and a proof."""
    for name in ("model.onnx", "weights", "tokenizer.json", "onnx.proof.npz", "p.mlpackage/Data/model"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    graphs = GRAPH, GRAPH.model_copy(update={"name": "packed", "file": "p.mlpackage"})
    given = {"form": "f", "weights": "fp32", "graphs": graphs, "details": {"weight_file": "weights"}} | artifact
    Staged(folder).write_manifest(
        "0",
        ModelCard(kind="encoder", variant="qkv", parameters=0, config=CONFIG, source={}, notes=()),
        TokenizerCard(file="tokenizer.json", size=1, bos_id=None, eos_token_ids=()),
        {"onnx": TargetCard(artifact=Artifact(target="onnx", **given), verification=None)},
    )
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_text("elsewhere")
    return write(tmp_path / "bundle")


def rewrite(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_is_opened_with_more_beside_what_it_uses(folder: Path) -> None:
    (folder / "notes.txt").write_text("of the user's own")
    os.mkfifo(folder / "pipe")
    assert Bundle(folder).targets == ("onnx",)
    (folder.parent / "link").symlink_to(folder)
    assert Bundle(folder.parent / "link").targets == ("onnx",), "where the whole of it lies is the user's affair"


@pytest.mark.parametrize(
    "name", ["model.onnx", "weights", "tokenizer.json", "onnx.proof.npz", "p.mlpackage/Data/model"]
)
def test_a_file_that_is_used_and_not_listed_is_refused(folder: Path, name: str) -> None:
    rewrite(folder, lambda manifest: manifest["files"].pop(name))
    with pytest.raises(BundleError, match=f"'{name}' in .*bundle is used, and the manifest does not list it"):
        Bundle(folder)


def test_an_empty_list_of_files_switches_nothing_off(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest.update(files={}))
    with pytest.raises(BundleError, match="is used, and the manifest does not list it"):
        Bundle(folder)


def test_what_was_added_to_a_package_is_refused(folder: Path) -> None:
    (folder / "p.mlpackage" / "added").symlink_to("Data")
    with pytest.raises(BundleError, match=r"'p\.mlpackage/added' in .* the manifest does not list it"):
        Bundle(folder)


@pytest.mark.parametrize(
    "name",
    [
        *("../outside/file", "/etc/hostname", "a/../../outside/file", "./weights", "a//b", "", ".", "..", "C:\\x"),
        *("\\\\x\\y", "a\0b", "\ud800", "a\nb"),
    ],
)
@pytest.mark.parametrize("place", ["files", "graph", "weights", "tokenizer"])
def test_names_that_lead_elsewhere_are_refused(folder: Path, name: str, place: str) -> None:
    def change(manifest: dict[str, Any]) -> None:
        artifact = manifest["targets"]["onnx"]["artifact"]
        if place == "graph":
            artifact["graphs"][0]["file"] = name
        elif place == "weights":
            artifact["details"]["weight_file"] = name
        elif place == "tokenizer":
            manifest["tokenizer"]["file"] = name
        # With the right checksum, so that it is the name that is wrong.
        manifest["files"][name] = {"bytes": 9, "sha256": "0" * 64}

    rewrite(folder, change)
    with pytest.raises(BundleError, match=r"is not below its own folder|not list it|manifest\.json is damaged"):
        Bundle(folder)


def link(file: Path, outside: Path) -> None:
    (outside / "copy").write_bytes(file.read_bytes())
    file.unlink()
    file.symlink_to(outside / "copy")


def link_folder(file: Path, outside: Path) -> None:
    file.parent.rename(outside / "moved")
    file.parent.symlink_to(outside / "moved")


def pipe(file: Path, outside: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def folder_instead(file: Path, outside: Path) -> None:
    file.unlink()
    file.mkdir()


@pytest.mark.parametrize("name", ["weights", "tokenizer.json", "p.mlpackage/Data/model", "manifest.json"])
@pytest.mark.parametrize("change", [link, pipe, folder_instead])
def test_what_is_no_plain_file_is_refused(folder: Path, name: str, change: Callable[[Path, Path], None]) -> None:
    change(folder / name, folder.parent / "outside")
    with pytest.raises(BundleError, match=f"{name}.* no plain file"):
        Bundle(folder)


def test_a_linked_folder_is_refused(folder: Path) -> None:
    link_folder(folder / "p.mlpackage" / "Data" / "model", folder.parent / "outside")
    with pytest.raises(BundleError, match=r"'p\.mlpackage/Data' in .* is a symbolic link"):
        Bundle(folder)


def test_names_that_no_file_can_have_are_missing_files(folder: Path) -> None:
    rewrite(folder, lambda manifest: manifest["files"].update({"a/" * 3000 + "b": {"bytes": 1, "sha256": "0"}}))
    with pytest.raises(BundleError, match="is incomplete"):
        Bundle(folder)
    rewrite(folder, lambda manifest: (manifest["files"].popitem(), graph_of(manifest).update(file="a" * 3000)))
    with pytest.raises(BundleError, match="cannot be read: File name too long"):
        Bundle(folder)


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() == 0, reason="the superuser may read everything")
def test_a_file_that_may_not_be_read(folder: Path) -> None:
    (folder / "weights").chmod(0)
    with pytest.raises(BundleError, match=r"weights cannot be read: Permission denied"):
        Bundle(folder)


def test_a_manifest_nested_without_end_is_damaged(folder: Path) -> None:
    (folder / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(BundleError, match="is damaged"):
        Bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(targets={}), "it names no target"),
        (lambda m: m["targets"].update(coreml=m["targets"]["onnx"]), "what it calls 'coreml' is an artifact of 'onnx'"),
        (lambda m: artifact_of(m).update(graphs=[]), "graphs: Tuple should have at least 1 item"),
        (lambda m: artifact_of(m).update(batch=-1), "batch: Input should be greater than or equal to 1"),
        (lambda m: artifact_of(m).update(context=8), "it has a context and no vocab_size"),
        (lambda m: artifact_of(m).update(batch=10**30), r"its batch is 10{30}, and its input has the shape \[1, 4\]"),
        (lambda m: graph_of(m).update(tokens=0), "tokens: Input should be greater than or equal to 1"),
        (lambda m: graph_of(m).update(inputs=[]), "and 0 inputs where an encoder has one"),
        (lambda m: graph_of(m).update(outputs=[]), "has 0 outputs of the role 'logits', not one"),
        (lambda m: graph_of(m)["inputs"][0].update(dtype="O"), "'O' is no type of number; these are: fp32, fp16"),
        (lambda m: graph_of(m)["inputs"][0].update(dtype=["fp32"]), "dtype: Input should be a valid string"),
        (lambda m: graph_of(m)["inputs"][0].update(shape=[-1]), "shape"),
        (lambda m: artifact_of(m).update(state="fp32fp32"), "'fp32fp32' is no type of number"),
        (lambda m: artifact_of(m).update(context=8, vocab_size=4), "it has a context and no state"),
        (lambda m: artifact_of(m)["details"].update(planned_memory_bytes="x"), "planned_memory_bytes: Input should be"),
        (lambda m: artifact_of(m)["details"].update(state_scales={"kv_0": 0}), "Input should be greater than 0"),
        (lambda m: artifact_of(m)["details"].update(weight_file=7), "weight_file: Input should be a valid string"),
        (lambda m: m["model"].update(kind="decoder"), "'onnx' is no artifact of a model with its dimensions"),
        (lambda m: m["model"].update(config={}), "of no kind that this edgeqkv knows: layers: Field required"),
        (lambda m: m["model"]["config"].update(input=[]), "of no kind that this edgeqkv knows: input: "),
        (lambda m: m["model"]["config"].update(layers=2**31), "layers: Input should be less than or equal to 16384"),
        (lambda m: m["model"]["config"].update(heads=0), "heads: Input should be greater than or equal to 1"),
        (lambda m: artifact_of(m).update({"x" * 5000: 1}), r"artifact\.x{70,80}….{0,40}$"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_damaged(
    folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    rewrite(folder, change)
    with pytest.raises(BundleError, match=rf"manifest\.json is damaged: .*{message}"):
        Bundle(folder)


def artifact_of(manifest: dict[str, Any]) -> Any:
    return manifest["targets"]["onnx"]["artifact"]


def graph_of(manifest: dict[str, Any]) -> Any:
    return artifact_of(manifest)["graphs"][0]


@pytest.mark.parametrize(("index", "source"), [(0, 0), (0, 10**20), (1, 1), (2, 1)])
def test_a_layer_reads_the_state_of_one_before_it_that_keeps_any(index: int, source: int) -> None:
    kept = {"heads": 2, "kv_heads": 1, "head_dim": 4, "merged": True}
    fields = {"kind": "decoder", "variant": "qkv", "parameters": 1, "config": {}, "source": {}, "notes": []}
    layers = [kept, {**kept, "source": 0}, {**kept, "source": 0}]
    assert len(ModelCard.model_validate({**fields, "layers": layers}).layers) == 3
    layers[index] = {**kept, "source": source}
    with pytest.raises(ValidationError, match=f"layer {index} reads the state of layer {source}, which keeps none"):
        ModelCard.model_validate({**fields, "layers": layers})
