"""A manifest that is not that of its files: every target compares the two before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from conftest import TINY, read_encoder_golden

import edgeqkv
from edgeqkv import BundleError, InputError
from edgeqkv.backends import backend
from edgeqkv.backends.coreml.held import _held
from edgeqkv.backends.executorch.methods import held as executorch_held
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.onnx.graph_file import GraphFile
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.mil import Package
from edgeqkv.progress import silent
from edgeqkv.run.session import open_artifact

Change = Callable[[dict[str, Any]], object]
Exported = tuple[Path, Artifact]

FORMS = {"onnx": ("portable", "fp32"), "executorch": ("stock", "fp32"), "coreml": ("linear", "fp16")}
CONTEXT, CHUNK, ENTRIES, MANY = 48, 8, 97, 10**8


@pytest.fixture(scope="module", params=FORMS)
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """One language model for each target."""
    folder = tmp_path_factory.mktemp("held")
    model = edgeqkv.load(write_random_checkpoint(folder / "m.pt", "q-k=v+gqa2", **{**TINY, "n_layer": 1}))
    form, precision = FORMS[request.param]
    spec = TargetSpec(form, precision, precision, CONTEXT, CHUNK)
    return folder, backend(request.param).export(model.with_weights(precision), folder, spec, silent)


def changed(artifact: Artifact, *changes: Change) -> Artifact:
    content = artifact.model_dump(mode="json")
    for change in changes:
        change(content)
    return Artifact.model_validate(content)


def fed(folder: Path, artifact: Artifact, *tokens: int) -> Any:
    engine = "evaluator" if artifact.target == "coreml" else None
    return open_artifact(folder, artifact, engine).feed(tokens)


def graph(content: dict[str, Any]) -> Any:
    return content["graphs"][-1]


def state(content: dict[str, Any]) -> Any:
    return content["state_tensors"][0]


def whole_vocabulary(content: dict[str, Any]) -> None:
    """Wherever it is said."""
    content["vocab_size"] = MANY
    for each in content["graphs"]:
        each["outputs"][0]["shape"][-1] = MANY


def whole_context(content: dict[str, Any]) -> None:
    place = content["axes"].index("context")
    content["context"] = 2 * CONTEXT
    for tensor in content["state_tensors"]:
        tensor["shape"][place] = 2 * CONTEXT
        for spec in (spec for each in content["graphs"] for spec in each["inputs"] + each["outputs"]):
            if spec["name"] in (tensor["input"], tensor["output"]):
                spec["shape"][place] = 2 * CONTEXT


CHANGES: dict[str, Change] = {
    "a larger vocabulary": lambda content: content.update(vocab_size=MANY),
    "a larger vocabulary, and as many logits": whole_vocabulary,
    "a smaller vocabulary": lambda content: content.update(vocab_size=ENTRIES - 1),
    "a larger context": lambda content: content.update(context=2 * CONTEXT),
    "a larger context and state": whole_context,
    "a state of another shape": lambda content: state(content).update(shape=[1, 1, CONTEXT, 8]),
    "a state of a lower rank": lambda content: state(content).update(shape=[CONTEXT]),
    "a state of another type": lambda content: state(content).update(dtype="int8"),
    "a state of another name": lambda content: state(content).update(name="x", input="x", output="x"),
    "a state that is updated otherwise": lambda content: state(content).update(update="rows", input="x", output="x"),
    "one state more": lambda content: content["state_tensors"].append(state(content) | {"name": "x", "input": "x"}),
    "logits of another type": lambda content: graph(content)["outputs"][-1].update(dtype="int64"),
    "tokens of another type": lambda content: graph(content)["inputs"][0].update(dtype="fp32"),
    "tokens of another shape": lambda content: graph(content)["inputs"][0].update(shape=[3]),
    "a position of another shape": lambda content: graph(content)["inputs"][1].update(shape=[1, 5, 5]),
    "an input less": lambda content: graph(content)["inputs"].pop(),
    "an input more": lambda content: graph(content)["inputs"].append(graph(content)["inputs"][0] | {"name": "x"}),
    "a dimension that nobody knows": lambda content: graph(content)["inputs"][0].update(shape=[1, "x"]),
}  # fmt: skip


def test_what_was_exported_is_what_the_files_hold(exported: Exported) -> None:
    assert fed(*exported, 1, 2, 3).shape == (ENTRIES,)
    with pytest.raises(InputError, match="token 100000000 is not in this model's vocabulary, 0 to 96"):
        fed(*exported, MANY)
    with pytest.raises(InputError, match="token -1 is not in"):
        fed(*exported, -1)


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_what_the_files_do_not_hold_is_refused(exported: Exported, change: Change) -> None:
    folder, artifact = exported
    with pytest.raises(BundleError, match=r"the manifest says of '\w+' that it has .*, and model\.\w+ has .*Export it"):
        fed(folder, changed(artifact, change), 1)


def test_names_of_graphs_and_sizes_of_calls(exported: Exported) -> None:
    folder, artifact = exported
    if artifact.target == "onnx":  # its graph has any name, is a file of its own and takes any number of tokens
        with pytest.raises(BundleError, match=r"other\.onnx cannot be read \(No such file or directory\)"):
            fed(folder, changed(artifact, lambda content: graph(content).update(file="other.onnx")), 1)
        return
    with pytest.raises(BundleError, match=r"has no (method|function) 'other'"):
        fed(folder, changed(artifact, lambda content: graph(content).update(name="other")), 1)
    with pytest.raises(BundleError, match=r"says of '.*'"):
        fed(folder, changed(artifact, lambda content: content["graphs"][0].update(tokens=2 * CHUNK)), 1)


def test_the_table_of_the_tokens_is_found(exported: Exported) -> None:
    """As `check_held` would miss it, where logits did not give the size away."""
    folder, artifact = exported
    first = artifact.graphs[0]
    path = folder / first.file
    found = {
        "onnx": lambda: GraphFile(path).held("input_ids"),
        "executorch": lambda: executorch_held(ProgramFile(path), first),
        "coreml": lambda: _held(Package(path).functions[first.name], "input_ids"),
    }[artifact.target]()
    assert found.rows == ENTRIES


@pytest.mark.parametrize("name", [b"aten::", b"XnnpackBackend"])
def test_a_name_that_cannot_be_logged(exported: Exported, tmp_path: Path, name: bytes) -> None:
    """ExecuTorch would log it, and end the process over what is no UTF-8."""
    folder, artifact = exported
    if artifact.target != "executorch":
        pytest.skip("no other runtime logs such names")
    content = bytearray((folder / "model.pte").read_bytes())
    content[content.index(name)] = 0xFF
    (tmp_path / "model.pte").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.pte is damaged: a name in it cannot be read; export it again"):
        fed(tmp_path, artifact, 1)


@pytest.mark.parametrize("target", ["onnx", "executorch"])
def test_an_encoders_tokens_are_held_to_its_table(target: str, tmp_path: Path) -> None:
    """Nothing else in the file says how many tokens there are."""
    model = edgeqkv.load(read_encoder_golden("encoder_reverse_qkv").path)
    artifact = backend(target).export(model, tmp_path, TargetSpec("static", "fp32"), silent)
    inputs = np.full((1, *artifact.whole_input.shape[1:]), MANY - 1)
    with pytest.raises(BundleError, match=f"a vocabulary of {MANY} tokens, and model.* has a table of 10"):
        open_artifact(tmp_path, artifact.model_copy(update={"vocab_size": MANY})).run(inputs)


@pytest.fixture(scope="module")
def onnx_export(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("onnx")
    model = edgeqkv.load(write_random_checkpoint(folder / "m.pt", "q-k=v+gqa2", **{**TINY, "n_layer": 1}))
    return folder, backend("onnx").export(model, folder, TargetSpec("portable", "fp32", "fp32", CONTEXT, CHUNK), silent)


def refer(place: str, path: Path) -> None:
    """Have one weight lie somewhere else."""
    model = onnx.load(path, load_external_data=False)
    tensor = next(each for each in model.graph.initializer if each.external_data)
    next(entry for entry in tensor.external_data if entry.key == "location").value = place
    path.write_bytes(model.SerializeToString())


def in_a_function(path: Path) -> None:
    """A weight that no list of the graph's has: in a node of a function."""
    model = onnx.load(path, load_external_data=False)
    tensor = onnx.TensorProto(name="x", data_location=onnx.TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    node = onnx.helper.make_node("Constant", [], ["x"], value=tensor)
    model.functions.append(onnx.helper.make_function("own", "f", [], ["x"], [node], []))
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(
    "change",
    [*(partial(refer, place) for place in ("../model.onnx.data", "/etc/passwd", "other", "", ".")), in_a_function],
    ids=["beside", "absolute", "another", "none", "the folder", "in a function"],
)
def test_a_graph_refers_to_its_own_weights_alone(
    onnx_export: Exported, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder, artifact = onnx_export
    for name in ("model.onnx", "model.onnx.data"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    change(tmp_path / "model.onnx")
    with pytest.raises(BundleError, match=r"refers to the file '.*', and the manifest says .* 'model\.onnx\.data'"):
        fed(tmp_path, artifact, 1)


def test_weights_that_are_no_plain_file(onnx_export: Exported, tmp_path: Path) -> None:
    folder, artifact = onnx_export
    (tmp_path / "model.onnx").write_bytes((folder / "model.onnx").read_bytes())
    with pytest.raises(BundleError, match=r"model\.onnx\.data cannot be read \(No such file"):
        fed(tmp_path, artifact, 1)
    os.mkfifo(tmp_path / "model.onnx.data")
    with pytest.raises(BundleError, match=r"model\.onnx\.data is no plain file"):
        fed(tmp_path, artifact, 1)
    (tmp_path / "model.onnx.data").unlink()
    (tmp_path / "model.onnx.data").symlink_to(folder / "model.onnx.data")
    with pytest.raises(BundleError, match=r"model\.onnx\.data is no plain file"):
        fed(tmp_path, artifact, 1)
