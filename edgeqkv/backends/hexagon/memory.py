"""What a Hexagon export takes: in the app's process, whose memory the NPU maps, and of that what the NPU addresses.

The compiler's own figures are taken where it was run: the size of its binary, and of the buffer that takes what the
NPU's memory (VTCM) cannot hold. Nothing was measured on a chip.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Final

from edgeqkv.backends.footprint import ALL, MIB, Phase, Term, count
from edgeqkv.backends.memory import PlannedMemory, Storage, copied
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.model import Network
from edgeqkv.reference.cost import CostOps, Costs, ScoresOps

__all__ = ["HexagonMemory"]

_CODE: Final = 2  # bytes of an activation, and of what is looked up and added

_RUNTIME: Final = Term(
    "runtime",
    60 * MIB,
    "anonymous",
    ALL,
    "ONNX Runtime, its QNN provider and Qualcomm's libraries",
    "assumed: nothing was run on a phone",
    assumed=True,
)


class HexagonMemory(PlannedMemory):
    """Weights and activations as codes; the state twice in the phases that run, as the caller has it and as it is
    handed over."""

    computes = "int16"

    def runtime(self, form: str) -> Term:
        return _RUNTIME

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        size = self._stored(found, storage, spec)
        formula = (
            f"{count(found.parameters)} parameters in {storage.name}, looked up ones in uint16: {count(size)} bytes"
        )
        return (copied(size, formula, "one binary for prefill and decode, read into memory that the NPU maps"),)

    def stored_bytes(self, network: Network, spec: TargetSpec) -> int:
        from edgeqkv.reference.cost import costs

        return self._stored(costs(network), self.storage(spec.weights), spec)

    def _stored(self, found: Costs, storage: Storage, spec: TargetSpec) -> int:
        """A tied table is there twice: as codes to multiply by, and in uint16 to look rows up in."""
        rows = self.storage("int8")
        heads = sum(rows.bytes(*shape) for shape in found.tied)
        layers = sum(storage.bytes(*shape) for shape in found.layers)
        tables = sum(prod(shape) for shape in found.looked_up) * _CODE
        positions = sum(min(rows_, spec.context or rows_) * columns for rows_, columns in found.positions) * _CODE
        return layers + heads + tables + positions + found.others * 4

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        return ScoresOps(context, element=_CODE)

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        others = super().exported(directory, artifact, network)
        if (made := artifact.compiled) is None:
            name = str(artifact.details.get("weight_file"))
            size = (directory / name).stat().st_size
            return (copied(size, f"{name}, {count(size)} bytes", "not compiled: the constants of its graphs"), *others)
        binary = copied(
            made.binary_bytes, f"{made.binary}, {count(made.binary_bytes)} bytes", f"the binary of {made.compiler}"
        )
        return (binary, *(_working(artifact, graph) for graph in artifact.graphs), *others)


def _working(artifact: Artifact, graph: Graph) -> Term:
    """What a call needs beside the state: the spill buffer, and the graph's inputs and outputs in memory to share."""
    made = artifact.compiled
    assert made is not None
    spilled = made.spill_bytes.get(graph.name, 0)
    ends = sum(
        prod(int(size) for size in spec.shape) * Dtype(spec.dtype).bytes for spec in (*graph.inputs, *graph.outputs)
    )
    phase: Phase = "decode" if artifact.causal and graph.tokens == 1 else "prefill"
    formula = f"{count(spilled)} bytes that VTCM cannot hold, {count(ends)} bytes of inputs and outputs"
    origin = f"{graph.name} as {made.compiler} compiled it, and its own ends"
    return Term("activations", spilled + ends, "anonymous", (phase,), formula, origin)
