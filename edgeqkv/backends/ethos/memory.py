"""What an Ethos-U85 export takes of an embedded system's memory, as Vela says. Nothing was measured on a chip."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from edgeqkv.backends.footprint import ALL, Phase, Term, count
from edgeqkv.backends.memory import PlannedMemory, Storage, copied
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.model.model import Network
from edgeqkv.reference.cost import CostOps, Costs, ScoresOps

__all__ = ["EthosMemory"]

_KIB: Final = 1024

_RUNTIME: Final = Term(
    "runtime",
    256 * _KIB,
    "anonymous",
    ALL,
    "ExecuTorch's runtime and the NPU's driver",
    "assumed: nothing was run on a chip",
    assumed=True,
)


class EthosMemory(PlannedMemory):
    """Weights and activations in int8; a graph of prefill and one of decode, each with weights of its own."""

    computes = "int8"

    def runtime(self, form: str) -> Term:
        return _RUNTIME

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        graphs = 1 + ((spec.chunk or 1) > 1)
        size = graphs * self._stored(found, storage, spec)
        formula = f"{graphs} × {count(found.parameters)} parameters in {storage.name}: {count(size)} bytes"
        return (copied(size, formula, "each graph has weights of its own"),)

    def stored_bytes(self, network: Network, spec: TargetSpec) -> int:
        from edgeqkv.reference.cost import costs

        return (1 + ((spec.chunk or 1) > 1)) * self._stored(costs(network), self.storage(spec.weights), spec)

    def _stored(self, found: Costs, storage: Storage, spec: TargetSpec) -> int:
        """A tied table is there twice: to multiply by, and to look rows up in. The mask is a table too."""
        matrices = sum(storage.bytes(*shape) for shape in (*found.tied, *found.layers))
        tables = sum(rows * columns for rows, columns in found.looked_up)
        context = spec.context or 0
        positions = sum(min(rows, context or rows) * columns for rows, columns in found.positions)
        return matrices + tables + positions + found.others + context * context

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        return ScoresOps(context, element=1)

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        others = super().exported(directory, artifact, network)
        made = artifact.compiled
        assert made is not None, "it is always compiled"
        program = copied(
            made.binary_bytes, f"{made.binary}, {count(made.binary_bytes)} bytes", f"the program of {made.compiler}"
        )
        return (program, *(_working(artifact, graph) for graph in artifact.graphs), *others)


def _working(artifact: Artifact, graph: Graph) -> Term:
    """What a call needs, the inputs and outputs of the NPU among it."""
    made = artifact.compiled
    assert made is not None
    found = made.figures[graph.name]
    phase: Phase = "decode" if graph.tokens == 1 else "prefill"
    formula = (
        f"{count(found.sram_bytes)} bytes of SRAM, {count(found.dram_bytes)} of DRAM, "
        f"{count(found.flash_bytes)} of flash; {count(found.cycles)} cycles a call"
    )
    return Term("activations", found.sram_bytes, "anonymous", (phase,), formula, f"{graph.name}, says {made.compiler}")
