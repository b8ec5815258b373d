"""What Core ML takes for an export. Nothing was looked at: what it does with weights is assumed, and marked so."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeqkv.backends.coreml.errors import mil_errors
from edgeqkv.backends.footprint import ALL, MIB, Term, count
from edgeqkv.backends.memory import PlannedMemory, Storage, calls, largest_graph, live, mapped, stored
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import UnsupportedError
from edgeqkv.mil.package import Function, Package
from edgeqkv.reference.cost import CostOps, Costs, ScoresOps
from edgeqkv.reference.liveness import Step, peak

if TYPE_CHECKING:
    from edgeqkv.model.model import Network

__all__ = ["CoreMLMemory", "coreml_steps", "most_tokens"]

_BYTES: Final = {
    "fp16": 2,
    "fp32": 4,
    "int32": 4,
    "bool": 1,
    "int16": 2,
    "uint16": 2,
    "int8": 1,
    "uint8": 1,
    "int64": 8,
}
_FREE: Final = frozenset({"const", "read_state", "reshape", "expand_dims", "squeeze"})
_ALIASES: Final = frozenset({"reshape", "expand_dims", "squeeze"})
_UNKNOWN: Final = "whether Core ML maps or copies them, and once or twice, is not known"

_RUNTIME: Final = Term(
    "runtime",
    50 * MIB,
    "anonymous",
    ALL,
    "Core ML in the app's process",
    "assumed: nobody has published it, and nothing was run on Apple hardware",
    assumed=True,
)


class CoreMLMemory(PlannedMemory):
    """What an app's process holds that runs a package in Core ML."""

    computes = "fp16"

    def runtime(self, form: str) -> Term:
        return _RUNTIME

    def scale_bytes(self, weights: str) -> int:
        return 2

    def splits_tables(self, form: str) -> bool:
        return form.startswith("conv")

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        parameters = count(found.parameters)
        origin = f"{storage.name} storage of {parameters} parameters; {_UNKNOWN}"
        return (mapped(stored(found, storage, spec), f"{parameters} parameters, once", origin, assumed=True),)

    def most_tokens(self, spec: TargetSpec) -> int:
        return most_tokens(spec)

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        return ScoresOps(context, element=2)

    def activations(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        # Whether its attention keeps scores is not known.
        return tuple(replace(term, assumed=True) for term in super().activations(network, spec))

    @mil_errors()
    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        path = directory / artifact.graphs[0].file
        terms = [_weights(path), *super().exported(directory, artifact, network)]
        if any(isinstance(size, str) for graph in artifact.graphs for spec in graph.inputs for size in spec.shape):
            return tuple(terms)  # shapes vary: what was planned stands
        package = Package(path)
        for phase, tokens in calls(artifact.chunk) if artifact.causal else (("prefill", 1),):
            graph = largest_graph(artifact, tokens) if artifact.causal else artifact.graphs[0]
            steps = coreml_steps(package.function(graph.name))
            terms.append(live(phase, peak(steps), f"function {graph.name}", assumed=True))
        return tuple(terms)


def most_tokens(spec: TargetSpec) -> int:
    """The most tokens that a call may take; swift-transformers' runner feeds a prompt at once."""
    return int(spec.context or 1) if spec.form.startswith("swift-transformers") else spec.chunk or 1


def coreml_steps(function: Function) -> list[Step]:
    """The operations of a function of fixed shapes.

    A state's memory and the constants are counted elsewhere, so values read from them take none here.

    Raises:
        UnsupportedError: a shape varies.
    """
    steps = []
    for operation in function.operations:
        inputs = tuple(operand.name for operands in operation.inputs.values() for operand in operands if operand.name)
        free = operation.type in _FREE or operation.type.startswith("constexpr_")
        outputs = {name: 0 if free else _mil_bytes(name, kind) for name, kind in operation.outputs.items()}
        # By name: the file does not order an operation's operands.
        alias = operation.inputs["x"][0].name if operation.type in _ALIASES else None
        steps.append(Step(f"{operation.type} {operation.name}", inputs, outputs, alias))
    return steps


def _mil_bytes(name: str, kind: Any) -> int:
    if any(size is None for size in kind.shape):
        raise UnsupportedError(f"the size of '{name}' varies from call to call, so its memory cannot be worked out")
    return int(prod(kind.shape)) * _BYTES.get(kind.dtype, 4)


def _weights(path: Path) -> Term:
    weights = sum(file.stat().st_size for file in path.rglob("*.bin"))
    return Term(
        "weights", weights, "mapped", ALL, f"the package's weight files, {count(weights)} bytes, once",
        f"the package; {_UNKNOWN}",
        assumed=True, streamed=True,
    )  # fmt: skip
