"""Packages that were tampered with: the proof must notice every time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coreml_packages import CHUNK, Exported, export

from edgeqkv.backends.coreml.lints import check_saved_names, check_saved_states
from edgeqkv.backends.coreml.runner import EvaluatorRunner
from edgeqkv.bundle.manifest import Graph
from edgeqkv.errors import BundleError, EdgeQKVError
from edgeqkv.mil.package import Package
from edgeqkv.mil.weight_file import Blob
from edgeqkv.pipeline.proof import Proof, make_proof
from edgeqkv.run.session import Session


@pytest.fixture(scope="module")
def original() -> Exported:
    return export("k_eq_v_gqa")


@pytest.fixture(scope="module")
def proof(original: Exported) -> Proof:
    return make_proof(original.model, original.artifact)


@pytest.fixture
def copy(original: Exported, tmp_path: Path) -> Exported:
    return original.copy(tmp_path / "copy")


def passes(exported: Exported, proof: Proof) -> bool:
    """Whether a package is found to be right; an error on the way is a no."""
    try:
        return proof.compare(exported.session(), "evaluator").passed
    except EdgeQKVError:
        return False


def edit(exported: Exported, change: Callable[[Any], None]) -> None:
    """Rewrite the program as ``change`` leaves the specification."""
    from edgeqkv.backends.coreml.mil import ct

    file = exported.package / "Data/com.apple.CoreML/model.mlmodel"
    spec = ct.proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    change(spec)
    file.write_bytes(spec.SerializeToString())


def test_what_was_not_touched_passes(original: Exported, proof: Proof) -> None:
    assert passes(original, proof)


def test_a_single_wrong_number_in_any_weight(copy: Exported, proof: Proof) -> None:
    """In each weight, the sign of its largest number, one weight after the other."""
    weights = {
        op.name: op.constant
        for op in Package(copy.package).function("decode").operations
        if isinstance(op.constant, Blob) and op.constant.dtype.name == "fp16" and op.constant.data.any()
    }
    assert len(weights) == len(copy.model.weights)
    stored = np.memmap(copy.weight_file, np.uint8, mode="r+")
    for name, blob in weights.items():
        values = np.abs(blob.read()).reshape(-1)
        start = int(stored[blob.offset + 16 : blob.offset + 24].view(np.uint64)[0])
        place = start + 2 * int(values.argmax()) + 1
        stored[place] ^= 0x80
        stored.flush()
        assert not passes(copy, proof), name
        stored[place] ^= 0x80
        stored.flush()
    assert passes(copy, proof)


class _Shifted(EvaluatorRunner):
    """Tells one function that its tokens stand one position earlier."""

    mistaken = ""

    def call(self, graph: Graph, inputs: Any) -> Any:
        if graph.name == self.mistaken and inputs["position"][0] > 0:
            inputs = {**inputs, "position": inputs["position"] - 1}
        return super().call(graph, inputs)


@pytest.mark.parametrize("function", ["prefill", "decode"])
def test_a_position_that_is_off_by_one(original: Exported, proof: Proof, function: str) -> None:
    runner = _Shifted(original.directory, original.artifact)
    runner.mistaken = function
    result = proof.compare(Session(original.artifact, runner), "evaluator")
    assert not result.passed
    assert "differ" in result.failure


def test_positions_that_are_off_by_one_in_the_file(copy: Exported, proof: Proof) -> None:
    """The offsets of a chunk's tokens are a constant, 0 … 15."""
    stored = copy.weight_file.read_bytes()
    offsets = np.arange(CHUNK, dtype=np.int32)
    assert stored.count(offsets.tobytes()) >= 1
    copy.weight_file.write_bytes(stored.replace(offsets.tobytes(), np.roll(offsets, 1).tobytes(), 1))
    assert not passes(copy, proof)


def test_swapped_functions(copy: Exported, proof: Proof) -> None:
    def swap(spec: Any) -> None:
        functions = spec.mlProgram.functions
        prefill, decode = (type(functions["prefill"])() for _ in range(2))
        prefill.CopyFrom(functions["prefill"])
        decode.CopyFrom(functions["decode"])
        functions["prefill"].CopyFrom(decode)
        functions["decode"].CopyFrom(prefill)

    edit(copy, swap)
    assert not passes(copy, proof)


def test_a_function_of_another_model(copy: Exported, proof: Proof) -> None:
    """Of the same shapes, so that nothing but the numbers can tell."""
    other = export("k_eq_v_gqa", "linear-onehot").copy(copy.directory.parent / "other")
    data = bytearray(other.weight_file.read_bytes())
    decode = Package(other.package).function("decode")
    first, second = (
        next(op.constant for op in decode.operations if name in op.name and isinstance(op.constant, Blob))
        for name in ("h_0_mlp_c_fc_weight", "h_1_mlp_c_fc_weight")
    )
    assert isinstance(first, Blob)
    assert isinstance(second, Blob)
    assert passes(other, proof)
    one, two = bytes(first.data), bytes(second.data)
    data = data.replace(one, b"\0" * len(one)).replace(two, one).replace(b"\0" * len(one), two)
    other.weight_file.write_bytes(data)
    assert not passes(other, proof)


@pytest.mark.parametrize("function", ["prefill", "decode"])
@pytest.mark.parametrize("layer", [0, 1])
def test_a_state_that_is_not_written_back(copy: Exported, proof: Proof, function: str, layer: int) -> None:
    def drop(spec: Any) -> None:
        body = spec.mlProgram.functions[function]
        operations = body.block_specializations[body.opset].operations
        writes = [index for index, op in enumerate(operations) if op.type == "write_state"]
        del operations[writes[layer]]

    edit(copy, drop)
    assert not passes(copy, proof)


def test_a_state_that_no_operation_writes_is_refused_before_anything_runs(copy: Exported) -> None:
    def drop(spec: Any) -> None:
        body = spec.mlProgram.functions["decode"]
        operations = body.block_specializations[body.opset].operations
        for index in reversed(range(len(operations))):
            if operations[index].type == "write_state":
                del operations[index]

    check_saved_states(Package(copy.package), copy.artifact.state_tensors)
    edit(copy, drop)
    with pytest.raises(BundleError, match=r"'decode'.*no write_state"):
        check_saved_states(Package(copy.package), copy.artifact.state_tensors)


def test_a_state_that_is_not_declared_is_refused(copy: Exported) -> None:
    tensor = copy.artifact.state_tensors[0]
    missing = tensor.model_copy(update={"name": "v_cache"})
    with pytest.raises(BundleError, match="lost the state 'v_cache'"):
        check_saved_states(Package(copy.package), (tensor, missing))


def test_a_name_that_is_no_identifier_is_refused(copy: Exported) -> None:
    def rename(spec: Any) -> None:
        body = spec.mlProgram.functions["decode"]
        operations = body.block_specializations[body.opset].operations
        next(op for op in operations if op.outputs[0].name == "wte_weight").outputs[0].name = "wte.weight"

    check_saved_names(Package(copy.package))
    edit(copy, rename)
    with pytest.raises(BundleError, match=r"'decode'.*wte\.weight"):
        check_saved_names(Package(copy.package))
