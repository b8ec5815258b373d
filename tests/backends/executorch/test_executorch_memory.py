"""The memory of a ``.pte``: read from its segments and its memory plan, and measured."""

from __future__ import annotations

import struct
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import edgeqkv
from edgeqkv.backends.executorch.flatbuffer import Table
from edgeqkv.backends.executorch.memory import ExecuTorchMemory
from edgeqkv.backends.executorch.order import _swap, largest_early
from edgeqkv.backends.executorch.program import Header, ProgramFile
from edgeqkv.backends.footprint import Footprint
from edgeqkv.budget.measure import compare, measure
from edgeqkv.budget.plan import ModelShape, footprint, footprint_of, plan_of
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic import write_random_checkpoint
from edgeqkv.errors import BundleError
from edgeqkv.run.session import open_artifact

pytest.importorskip("executorch")

MIB = 1 << 20
SIZES = {"n_layer": 2, "n_embd": 256, "n_head": 8, "n_positions": 256, "vocab_size": 16384, "n_inner": 1024}


def predicted(bundle: Bundle) -> Footprint:
    artifact = bundle.target().artifact
    plan = plan_of(ModelShape.of_card(bundle.manifest.model), artifact, tokenizer=0)
    return footprint_of(bundle.path, artifact, plan)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("budget")
    model = edgeqkv.load(write_random_checkpoint(folder / "medium.pt", "q-k=v+gqa2", **SIZES))
    return edgeqkv.export(model, "executorch", out=folder / "b", weights="fp32", chunk=64, verify=False)


def test_the_file_and_the_plan_agree(bundle: Bundle) -> None:
    plan = plan_of(ModelShape.of_card(bundle.manifest.model), bundle.target().artifact, tokenizer=0)
    read, planned = predicted(bundle), footprint(plan)
    assert read.parts()["state"] == planned.parts()["state"] == 2 * 2 * 32 * 256 * 4
    assert read.parts()["weights"] == pytest.approx(planned.parts()["weights"], rel=0.02)  # headers and metadata
    # How the program's plan packs values into its arenas is not modelled.
    assert abs(read.parts()["activations"] - planned.parts()["activations"]) < MIB


@pytest.mark.parametrize("details", [{}, {"planned_memory_bytes": 7}])
def test_a_manifest_that_does_not_say_what_is_planned(bundle: Bundle, details: dict[str, Any]) -> None:
    artifact = bundle.target().artifact.model_copy(update={"details": details})
    with pytest.raises(BundleError, match=r"of the memory that model\.pte plans, or less"):
        ExecuTorchMemory({}).exported(bundle.path, artifact)


def test_a_program_whose_tables_lead_out_of_it_is_damaged(bundle: Bundle, tmp_path: Path) -> None:
    artifact = bundle.target().artifact
    content = (bundle.path / "model.pte").read_bytes()
    found = 0
    for seed in range(20):
        damaged, random = bytearray(content), Random(seed)
        size = Header.unpack(content).program_size  # type: ignore[union-attr]
        for at in random.sample(range(Header.SIZE, size), 200):
            damaged[at] ^= 1 << random.randrange(8)
        (tmp_path / "model.pte").write_bytes(damaged)
        try:
            ExecuTorchMemory({}).exported(tmp_path, artifact)
        except BundleError:
            found += 1
    assert found > 5


def test_a_vector_that_says_it_is_longer_than_the_file_is_damage_and_takes_no_memory() -> None:
    # The root's distance; a vtable of one field; the table; the vector's distance, and its length.
    flatbuffer = bytearray(struct.pack("<IHHHxxiII", 12, 6, 8, 4, 8, 4, 1 << 30))
    for read in (Table.root(flatbuffer).tables, Table.root(flatbuffer).places, Table.root(flatbuffer).text):
        with pytest.raises(struct.error, match="1073741824 items"):
            read(0)


def test_the_tied_table_is_mapped_again_while_the_head_is_repacked_before_the_layers(bundle: Bundle) -> None:
    artifact = bundle.target().artifact
    read = footprint_of(
        bundle.path, artifact, plan_of(ModelShape.of_card(bundle.manifest.model), artifact, tokenizer=0)
    )
    layers = 2 * (2 * 256 * 256 + 64 * 256 + 2 * 256 * 1024)
    assert read.resident("load") - read.total("load") == pytest.approx((16384 * 256 - layers) * 4, rel=0.01)


def test_the_largest_delegate_is_prepared_early(bundle: Bundle, tmp_path: Path) -> None:
    file = ProgramFile(bundle.path / "model.pte")
    sizes = {segment.index: segment.size for segment in file.segments()}
    data = [sum(sizes[index] for index in delegate) for delegate in file.delegates("forward")]
    assert data[1] == max(data) == 16384 * 256 * 4
    assert len(data) > 4

    # As the exporter writes it, which is put in order, and computes the same.
    artifact = bundle.target().artifact
    exported = tmp_path / "model.pte"
    _swap(file, "forward", 1, len(data) - 1)
    content = (bundle.path / "model.pte").read_bytes()
    exported.write_bytes(bytes(file.flatbuffer) + content[len(file.flatbuffer) :])
    tokens = np.arange(7)
    expected = open_artifact(bundle.path, artifact).feed(tokens)
    # Two sessions' memory lies differently, and the kernels' sums with it: a few units in the last place.
    np.testing.assert_allclose(open_artifact(tmp_path, artifact).feed(tokens), expected, atol=2e-6)
    largest_early(exported)
    assert exported.read_bytes() == content
    largest_early(exported)
    assert exported.read_bytes() == content


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_predictions_are_near_a_measured_process(bundle: Bundle) -> None:
    artifact = bundle.target().artifact
    read = footprint_of(
        bundle.path, artifact, plan_of(ModelShape.of_card(bundle.manifest.model), artifact, tokenizer=0)
    )
    rows = {row.name: row for row in compare(read, measure(bundle.path, artifact), "executorch")}
    # Most of this process is torch, which is measured in it; of the rest, 60 MiB, threads' heaps vary by a few.
    for name in ("load", "prefill", "decode", "- above the import"):
        assert abs(rows[name].predicted - rows[name].measured) < 6 * MIB, rows
