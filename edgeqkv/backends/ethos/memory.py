"""What an Ethos-U85 export takes of an embedded system's memory, as Vela says. Nothing was measured on a chip."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Final

from edgeqkv.backends.footprint import ALL, Phase, Term, count
from edgeqkv.backends.memory import PlannedMemory, Storage, copied
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact, Compiled, Graph
from edgeqkv.model.model import Network
from edgeqkv.reference.cost import CostOps, Costs, ScoresOps, costs

__all__ = ["EthosMemory"]

_KIB: Final = 1024
_CODE: Final = 2  # bytes of an activation, and of what is looked up and added
_SCORE: Final = 4  # of a score, which is summed up in 32 bits

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
    """Weights and activations as codes; a graph of prefill and one of decode, each with weights of its own."""

    computes = "int16"

    def runtime(self, form: str) -> Term:
        return _RUNTIME

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        size = _graphs(spec) * self._stored(found, storage, spec)
        formula = (
            f"{_graphs(spec)} × {count(found.parameters)} parameters in {storage.name}, looked up ones in int16: "
            f"{count(size)} bytes"
        )
        return (copied(size, formula, "prefill and decode have weights of their own"),)

    def stored_bytes(self, network: Network, spec: TargetSpec) -> int:
        return _graphs(spec) * self._stored(costs(network), self.storage(spec.weights), spec)

    def _stored(self, found: Costs, storage: Storage, spec: TargetSpec) -> int:
        """A tied table is there twice: to multiply by, and to look rows up in."""
        matrices = sum(storage.bytes(*shape) for shape in (*found.tied, *found.layers))
        tables = sum(prod(shape) for shape in found.looked_up) * _CODE
        positions = sum(min(rows, spec.context or rows) * columns for rows, columns in found.positions) * _CODE
        return matrices + tables + positions + found.others * _SCORE

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        return ScoresOps(context, element=_SCORE)

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        others = super().exported(directory, artifact, network)
        if (made := artifact.compiled) is None:
            return others
        size = (directory / made.binary).stat().st_size
        program = copied(size, f"{made.binary}, {count(size)} bytes", f"the program of {made.compiler}")
        graphs = [graph for graph in artifact.graphs if graph.name in made.figures]
        return (program, *(_working(made, graph, causal=artifact.causal) for graph in graphs), *others)


def _graphs(spec: TargetSpec) -> int:
    return 2 if (spec.chunk or 1) > 1 else 1


def _working(made: Compiled, graph: Graph, *, causal: bool) -> Term:
    """What a call needs, the inputs and outputs of the NPU among it."""
    found = made.figures[graph.name]
    phase: Phase = "decode" if causal and graph.tokens == 1 else "prefill"
    formula = (
        f"{count(found.sram_bytes)} bytes of SRAM, {count(found.dram_bytes)} of DRAM, "
        f"{count(found.flash_bytes)} of flash; {count(found.cycles)} cycles a call"
    )
    size = found.sram_bytes + found.dram_bytes
    return Term("activations", size, "anonymous", (phase,), formula, f"{graph.name}, says {made.compiler}")
