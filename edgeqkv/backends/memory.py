"""What a target knows of the memory that its exports take, and what all of them have in common.

A target's own module (``backends/<target>/memory.py``) says which weights are copied, what attention keeps and what
the runtime takes; `memory_of` finds it. A target without one is answered for by `AssumedMemory`, and every number of
it is marked as assumed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from edgeqkv.backends.footprint import ALL, MIB, RUNNING, Phase, Term, count
from edgeqkv.backends.target import Target, TargetSpec
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import UnsupportedError
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.schemes import ROW, Palette, Scheme, with_block
from edgeqkv.reference.cost import CostOps, Costs, ScoresOps, costs, typical
from edgeqkv.reference.liveness import Peak, Step, peak

if TYPE_CHECKING:
    from edgeqkv.model.model import Network

__all__ = [
    "AssumedMemory",
    "MemoryModel",
    "PlannedMemory",
    "Process",
    "Storage",
    "calls",
    "copied",
    "largest_graph",
    "live",
    "mapped",
    "memory_of",
    "rest",
    "steps_of",
    "stored",
]

_REST: Final = Dtype.FP16
"""How the numbers are stored that a scheme leaves alone."""


@dataclass(frozen=True)
class Process:
    """What is known of a process on Linux that runs a target's exports, so that one can be measured.

    Attributes:
        module: what it imports before it opens a model.
        session_bytes: what opening and running any model adds, however small: pages of the runtime's library that
            importing it does not touch, and its own objects.
        regions: whether activations lie in regions of 1, 2, 4 … MiB that are kept to the end.
    """

    module: str
    session_bytes: int
    regions: bool = False


class MemoryModel(Protocol):
    """What a target says of the memory of its exports.

    A network that is given is of shapes alone (`edgeqkv.model.shapes`), and a decoder's.

    Attributes:
        computes: the type of number that an export computes in.
        process: how a process is measured; None where the target's runtime does not run on Linux.
    """

    computes: str
    process: Process | None

    def planned(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        """Weights, state, activations and runtime of an export that need not exist."""

    def working(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        """Those of them that grow with the context: state and activations."""

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        """The same of an export, read from its files; what they do not say is left out.

        An encoder's call counts as the phase ``prefill``.

        Raises:
            BundleError: a file is missing or damaged.
            MissingExtra: reading the target's files needs a package.
        """

    def stored_bytes(self, network: Network, spec: TargetSpec) -> int:
        """What the weights take in the export's files."""

    def splits_tables(self, form: str) -> bool:
        """Whether a form cuts large tables into parts, so that no dimension is as large as the vocabulary."""


def memory_of(target: Target) -> MemoryModel:
    """A target's memory model, or one that assumes all of it."""
    own: MemoryModel | None = getattr(target, "memory", None)
    return _assumed(cast("Any", target)) if own is None else own


@lru_cache
def _assumed(target: Any) -> AssumedMemory:
    return AssumedMemory(target.title, target.schemes)


@dataclass(frozen=True)
class Storage:
    """How a precision stores a matrix.

    Attributes:
        name: the precision.
        scheme: how it is quantized; None for floating point.
        scale_bytes: bytes of a scheme's scale. A palette's entries are fp16.
        head: how the token table and the head are stored, where that differs.
    """

    name: str
    scheme: Scheme | Palette | None = None
    scale_bytes: int = 4
    head: Storage | None = None

    @property
    def at_head(self) -> Storage:
        """How the token table and the head are stored."""
        return self.head or self

    @property
    def quantized(self) -> bool:
        return self.scheme is not None

    @property
    def rest(self) -> int:
        """Bytes of a number that is not quantized."""
        return (_REST if self.quantized else Dtype(self.name)).bytes

    def codes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix's numbers."""
        if self.scheme is None:
            return rows * columns * self.rest
        return rows * columns * self.scheme.bits // 8

    def scales(self, rows: int, columns: int) -> int:
        """Bytes of its scales, or tables."""
        match self.scheme:
            case None:
                return 0
            case Palette() as palette:
                return rows // gcd(palette.rows, rows) * palette.entries * 2
            case Scheme() as scheme:
                block = columns if scheme.block == ROW else gcd(scheme.block, columns)
                return rows * (columns // block) * self.scale_bytes

    def bytes(self, rows: int, columns: int) -> int:
        """Bytes of a matrix, scales and all."""
        return self.codes(rows, columns) + self.scales(rows, columns)


class PlannedMemory(ABC):
    """What targets have in common: a subclass says what becomes of weights and what attention keeps.

    Args:
        schemes: the target's.
    """

    computes: str = "fp32"
    process: Process | None = None
    state_phases: tuple[Phase, ...] = RUNNING
    assumed: bool = False

    def __init__(self, schemes: Mapping[str, Scheme | Palette | None]) -> None:
        self.schemes = schemes

    @abstractmethod
    def runtime(self, form: str) -> Term:
        """What the runtime takes on a device before it holds a model."""

    @abstractmethod
    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        """What becomes of the weights in memory."""

    @abstractmethod
    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        """What interprets a network as this target's runtime computes it."""

    def planned(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        return (
            *self.weights(costs(network), self.storage(spec.weights, spec.head, spec.block), spec),
            *self.working(network, spec),
            self.runtime(spec.form),
        )

    def working(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        return (self.state(network, spec), *self.activations(network, spec))

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        return (*self.exported_state(artifact), self.runtime(artifact.form))

    def stored_bytes(self, network: Network, spec: TargetSpec) -> int:
        return stored(costs(network), self.storage(spec.weights, spec.head, spec.block), spec)

    def splits_tables(self, form: str) -> bool:
        return False

    def storage(self, weights: str, head: str | None = None, block: int | None = None) -> Storage:
        """How a precision stores a matrix, in blocks of a size that was asked for or of its own, and how another one
        stores the token table and the head.

        Raises:
            UnsupportedError: the target has no such precision.
        """
        if weights not in self.schemes:
            raise UnsupportedError(f"weights '{weights}' are unknown to this target; it has {', '.join(self.schemes)}")
        kept = None if head in (None, weights) else self.storage(str(head))
        return Storage(weights, with_block(self.schemes, block)[weights], self.scale_bytes(weights), kept)

    def scale_bytes(self, weights: str) -> int:
        """Bytes of a scheme's scale."""
        return 4

    def most_tokens(self, spec: TargetSpec) -> int:
        """The most tokens that a call may take, on which it depends how much is kept of a window (`Network.state`)."""
        return spec.chunk or 1

    def interpreter(self, spec: TargetSpec) -> CostOps:
        """The same as `ops`, for calls of a full context."""
        ops = self.ops(spec, int(spec.context or 0))
        ops.chunk = self.most_tokens(spec)
        return ops

    def unused(self, spec: TargetSpec, tensors: int) -> int:
        """State tensors that the runtime holds beside the model's own."""
        return 0

    def state(self, network: Network, spec: TargetSpec) -> Term:
        """The state of so many tokens."""
        context, element = int(spec.context or 0), Dtype(str(spec.state)).bytes
        specs = network.state(context, self.most_tokens(spec))
        size = sum(each.numbers for each in specs) * element
        formula = f"{len(specs)} tensors, {count(size // element)} numbers × {element} bytes"
        if specs and len({each.numbers for each in specs}) == 1:
            one, layers = specs[0], len({each.layer for each in specs})
            unused = self.unused(spec, len(specs))
            size += unused * one.numbers * element
            formula = (
                f"{layers} layers{' and an unused one' if unused else ''} × {len(specs) // layers} tensors × "
                f"{one.kv_heads} KV heads × {one.dim} × {one.length} tokens × {element} bytes"
            )
        return Term(
            "state", size, "anonymous", self.state_phases, formula, "what the layers store", self.assumed, streamed=True
        )

    def exported_state(self, artifact: Artifact) -> tuple[Term, ...]:
        """The state as the manifest has it; nothing of an encoder."""
        tensors = artifact.state_tensors
        if not tensors:
            return ()
        formula = f"{len(tensors)} tensors of {tensors[0].dtype}"
        origin = "the manifest's state tensors"
        return (Term("state", artifact.state_bytes, "anonymous", self.state_phases, formula, origin, streamed=True),)

    def activations(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        """What lives at once of what is computed on the way."""
        terms = []
        for phase, tokens in calls(spec.chunk):
            most = _planned_peak(self, cast("Any", network), spec, tokens)
            formula = f"live values at {most.at or 'no operation'}, {tokens} tokens and {spec.context} positions"
            terms.append(
                Term("activations", most.bytes, "anonymous", (phase,), formula, "the model, by liveness", self.assumed)
            )
        return tuple(terms)


@lru_cache(maxsize=4096)
def _planned_peak(memory: PlannedMemory, network: Network, spec: TargetSpec, tokens: int) -> Peak:
    ops = memory.interpreter(spec)
    return peak(steps_of(network, ops, tokens), frozenset(ops.logits_names))


def steps_of(network: Network, ops: CostOps, tokens: int) -> list[Step]:
    """What the interpreter notes for a call of so many tokens; of many layers that are alike, two."""
    typical(network).outputs(ops, ops.given(tokens))
    return ops.steps


class AssumedMemory(PlannedMemory):
    """For a target that says nothing of its memory: weights as they are stored, a state, scores, a runtime of a size.

    Args:
        title: the target's.
        schemes: its schemes.
    """

    assumed = True

    def __init__(self, title: str, schemes: Mapping[str, Scheme | Palette | None]) -> None:
        super().__init__(schemes)
        self._title = title

    def runtime(self, form: str) -> Term:
        origin = f"assumed: {self._title} has no memory model"
        return Term("runtime", 50 * MIB, "anonymous", ALL, f"{self._title} in the app's process", origin, assumed=True)

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        origin = f"assumed to be held once: {self._title} has no memory model"
        return (
            mapped(stored(found, storage, spec), f"{count(found.parameters)} parameters, once", origin, assumed=True),
        )

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        files = {graph.file for graph in artifact.graphs}
        size = sum((directory / file).stat().st_size for file in files)
        origin = f"the files' sizes; {self._title} has no memory model"
        weights = mapped(size, f"{len(files)} files, {count(size)} bytes, once", origin, assumed=True)
        return (weights, *super().exported(directory, artifact, network))

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        return ScoresOps(context)


def stored(found: Costs, storage: Storage, spec: TargetSpec) -> int:
    """What weights take in files, in bytes: tied tables once, positions as many as the context."""
    ends = (*found.heads, *found.tied, *found.tables)
    size = sum(storage.bytes(*shape) for shape in found.body) + sum(storage.at_head.bytes(*shape) for shape in ends)
    return size + rest(found, storage, spec)


def rest(found: Costs, storage: Storage, spec: TargetSpec) -> int:
    """Bytes of what no scheme quantizes: positions, biases and normalizations."""
    positions = sum(min(rows, spec.context or rows) * columns for rows, columns in found.positions)
    return (positions + found.others) * storage.rest


def calls(chunk: int | None) -> tuple[tuple[Phase, int], ...]:
    """The phases in which a decoder is called, and with how many tokens."""
    return ("prefill", chunk or 1), ("decode", 1)


def largest_graph(artifact: Artifact, tokens: int) -> Graph:
    """The graph that takes so many tokens with the largest window; decode's if there is no other."""
    fits = [graph for graph in artifact.graphs if not graph.fixed or graph.tokens == tokens]
    return max(fits or artifact.graphs, key=lambda graph: graph.window or artifact.context or 0)


def live(phase: Phase, most: Peak, where: str, *, assumed: bool = False) -> Term:
    """The activations of a graph that was read."""
    formula = f"live values at {most.at or 'no operation'} in {where}"
    return Term("activations", most.bytes, "anonymous", (phase,), formula, "the graph, by liveness", assumed)


def mapped(size: int, formula: str, origin: str, *, assumed: bool = False, streamed: bool = True) -> Term:
    """Weights that are used where a file's mapping has them."""
    return Term("weights", size, "mapped", ALL, formula, origin, assumed, streamed)


def copied(size: int, formula: str, origin: str) -> Term:
    """Weights that the runtime copies into memory of its own."""
    return Term("weights", size, "anonymous", ALL, formula, origin, streamed=True)
