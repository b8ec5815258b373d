"""What ExecuTorch takes for an export, and what of it.

Found by looking at a process's memory maps: it holds the program's constants in mapped memory, and XNNPACK packs every
delegate's data into memory of its own; while it does so, that data is mapped too, a delegate at a time, and the largest
is among the first (`edgeqkv.backends.executorch.order`). What passes between delegates and operators lies in the
program's memory plan, which is as large as the largest call needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edgeqkv.backends.executorch.program import ProgramFile, Segment
from edgeqkv.backends.footprint import ALL, MIB, Term, count
from edgeqkv.backends.memory import PlannedMemory, Process, Storage, calls, copied, mapped, rest, steps_of
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import BundleError
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.layers import Activation, Attention
from edgeqkv.reading import reading
from edgeqkv.reference.cost import CostOps, Costs, Result, ScoresOps
from edgeqkv.reference.liveness import peak

if TYPE_CHECKING:
    from edgeqkv.model.model import Network

__all__ = ["ExecuTorchMemory"]

_RUNTIME: Final = Term(
    "runtime",
    10 * MIB,
    "anonymous",
    ALL,
    "ExecuTorch with XNNPACK: 4.2 MB of its library in use, 6.3 MB for the program's own tables and threads",
    "the library measured on Linux x86-64 with ExecuTorch 1.4; the rest assumed",
    assumed=True,
)


class ExecuTorchMemory(PlannedMemory):
    """What a process holds that runs a program in ExecuTorch with XNNPACK."""

    # 3 MiB of library that importing it does not touch, 3 MiB of objects; measured with the built-in model.
    process = Process("edgeqkv.backends.executorch.runner", 6 * MIB)
    state_phases = ALL  # it is cleared at load

    def runtime(self, form: str) -> Term:
        return _RUNTIME

    def scale_bytes(self, weights: str) -> int:
        return 2 if weights == "int4" else 4  # bfloat16 a block, or float32 a row

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        origin = f"{storage.name} storage of {count(found.parameters)} parameters"
        tied = found.tied
        matrices = [
            *((shape, storage) for shape in found.body),
            *((shape, storage.at_head) for shape in (*found.heads, *tied)),
        ]
        # The largest is packed while the rest of them is not there yet; how a layer's are grouped is not known here.
        body = [storage.bytes(*shape) for shape in found.body]
        largest, its = max(matrices, key=lambda each: each[1].bytes(*each[0]))
        above = its.bytes(*largest) - sum(body)
        numbers = count(sum(prod(shape) for shape in found.multiplied))
        tables = sum(storage.at_head.bytes(*shape) for shape in found.looked_up) + rest(found, storage, spec)
        again = above > max(body, default=0) and largest in tied
        head = Term(
            "weights",
            max(above, *body, 0),
            "mapped again" if again else "mapped",
            ("load",),
            f"a matrix's numbers, mapped while they are repacked, of {count(prod(largest))} at most",
            origin,
        )
        return (
            copied(
                sum(how.bytes(*shape) for shape, how in matrices), f"{numbers} numbers, repacked by XNNPACK", origin
            ),
            mapped(tables, "token and position tables, held in memory", origin, streamed=False),
            head,
        )

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        return _PortableOps(context) if spec.form == "portable" else _StockOps(context, Dtype(str(spec.state)))

    def activations(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        ops = self.interpreter(spec)
        assert isinstance(ops, _DelegatedOps)
        steps = steps_of(network, ops, spec.chunk or 1)
        planned = peak(steps, frozenset(ops.inside | ops.logits_names)).bytes
        return _with_workspace(planned, network, spec.chunk, "the model, by liveness")

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        weights = _weights(directory / artifact.graphs[0].file, methods=len(artifact.graphs))
        told = artifact.details.get("planned_memory_bytes", -1)
        if told < artifact.state_bytes:
            raise BundleError(
                f"the manifest says nothing of the memory that {artifact.graphs[0].file} plans, or less than the "
                f"{artifact.state_bytes:,} bytes of its state. Export it again"
            )
        planned = told - artifact.state_bytes
        origin = "the program's memory plan"
        if network is None or not artifact.causal:
            formula = f"{count(planned)} bytes planned; what XNNPACK keeps between its own operators is not counted"
            activations = [Term("activations", planned, "anonymous", ALL, formula, origin, assumed=True)]
        else:
            activations = [*_with_workspace(planned, network, artifact.chunk, origin)]
        return (*weights, *activations, *super().exported(directory, artifact, network))


class _DelegatedOps(CostOps):
    """Knows what stays inside a delegate: what goes into an activation, and comes out."""

    def __init__(self, context: int) -> None:
        super().__init__(context)
        self.inside: set[str] = set()

    def activation(self, x: Result, kind: Activation) -> Result:
        result = super().activation(x, kind)
        self.inside |= {x.name, result.name}
        return result

    def multiply(self, x: Result, y: Result) -> Result:
        result = super().multiply(x, y)
        self.inside |= {x.name, y.name, result.name}
        return result


class _PortableOps(_DelegatedOps, ScoresOps):
    """Attention of core operators."""


class _StockOps(_PortableOps):
    """Attention as one operator, unless scores have a cap.

    It reads the state where it lies. A part of it is a copy: of an int8 one, which is widened too, of a window's, and
    of what keys are made of as they are read.
    """

    def __init__(self, context: int, state: Dtype) -> None:
        super().__init__(context)
        self._state = state

    def attend(self, q: Result, k: Result, v: Result, attention: Attention, seen: int) -> Result:
        if not attention.causal:
            return CostOps.attend(self, q, k, v, attention, seen)
        if attention.softcap is not None:
            return super().attend(q, k, v, attention, seen)
        rows = [self._part(x, attention, seen) for x in dict.fromkeys((k, v))]
        if v is k and _made_of_state(attention):
            rows.append(self.made("placed keys", rows[0].shape, rows[0]))
        return self.made("attention", q.shape, q, *rows)

    def _part(self, rows: Result, attention: Attention, seen: int) -> Result:
        shape = (attention.heads.kv, seen, attention.heads.dim)
        if self._state == Dtype.INT8:
            return self.made("widened state", shape, self.made("filled state", shape, rows, element=self._state.bytes))
        masked = attention.window is not None and attention.window < self.context
        if masked or (attention.merged and _made_of_state(attention)):
            return self.made("filled state", shape, rows, element=self._state.bytes)
        return self.made("state", shape, rows, element=0)


def _made_of_state(attention: Attention) -> bool:
    """Whether a merged layer's keys are normalized or rotated as they are read."""
    return attention.rope is not None or attention.k_norm is not None


def _with_workspace(planned: int, network: Network, chunk: int | None, origin: str) -> tuple[Term, ...]:
    """Activations of both calls: the program's plan, and what XNNPACK keeps between its own operators."""
    terms = []
    for phase, tokens in calls(chunk):
        ops = _DelegatedOps(1)
        steps = steps_of(network, ops, tokens)
        crossing = {name for step in steps for name in step.outputs} - ops.inside
        workspace = peak(steps, frozenset(crossing)).bytes
        formula = f"{count(planned)} bytes planned, and {count(workspace)} in XNNPACK for {tokens} tokens"
        own = f"{origin}; XNNPACK's by the values that live together in it"
        terms.append(Term("activations", planned + workspace, "anonymous", (phase,), formula, own))
    return tuple(terms)


def _weights(path: Path, methods: int) -> tuple[Term, ...]:
    """What becomes of a program's weights, of which so many methods are loaded."""
    with reading(path, "an ExecuTorch program", BundleError):  # one whose tables lead out of the file, for one
        file = ProgramFile(path)
        segments = {segment.index: segment for segment in file.segments()}
        constants = segments.get(file.constants()[0])
        packed = [segments[index] for index in sorted(file.delegate_data())]
        orders = [file.delegates(method) for method in file.plans()]
    above, last = max((_above(order, segments) for order in orders), key=lambda each: each[0], default=(0, frozenset()))
    shared = constants and any(
        segments[index].offset < constants.stop and constants.offset < segments[index].stop for index in last
    )
    held = file.header.program_size + (constants.size if constants else 0)
    name = file.path.name
    terms = [
        Term(
            "weights", held, "mapped", ALL, f"the program and its constants in {name}, held in memory",
            f"segments of {name}",
        ),
        Term(
            "weights", methods * sum(segment.size for segment in packed), "anonymous", ALL,
            f"{len(packed)} delegates' data, repacked by XNNPACK for each of {methods} methods",
            f"segments of {name}", streamed=True,
        ),
        Term(
            "weights", above, "mapped again" if shared else "mapped", ("load",),
            "a delegate's data, mapped while it is repacked, above what is packed after it", f"segments of {name}",
        ),
    ]  # fmt: skip
    return tuple(term for term in terms if term.bytes)


def _above(order: list[frozenset[int]], segments: Mapping[int, Segment]) -> tuple[int, frozenset[int]]:
    """How much more a process holds while it prepares a method's delegates than after it, and for which one's data."""
    most, its, after = 0, frozenset[int](), 0
    for data in reversed(order):
        size = sum(segments[index].size for index in data)
        if size - after > most:
            most, its = size - after, data
        after += size
    return most, its
