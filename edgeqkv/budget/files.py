"""The memory of an export that exists: weights and activations read from its files.

What the runtimes do with a weight was found by looking at their processes' memory maps:

- **ONNX Runtime** maps the weight file and uses float32 matrices where they lie (prepacking is off). A matrix that
  a ``Cast`` expands is computed once at load and kept. ``MatMulNBits`` packs its codes, scales and a sum a block
  into memory of its own, and gives the mapping of the codes back.
- **ExecuTorch** holds the program's constants in mapped memory, and XNNPACK packs every delegate's data into
  memory of its own; while it does so, that data is mapped too, a delegate at a time.
- **Core ML** has not been looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod
from pathlib import Path
from typing import Any

from edgeqkv.budget import activations
from edgeqkv.budget.footprint import ALL, Footprint, Phase, Term, count
from edgeqkv.budget.plan import Plan, common_terms, footprint, runtime_term, state_phases
from edgeqkv.bundle.manifest import Artifact, EncoderArtifact, Graph
from edgeqkv.errors import BundleError
from edgeqkv.extras import needed_for

__all__ = ["encoder_terms", "footprint_of"]

_FLOAT = 4  # bytes of what a Cast expands to


def footprint_of(directory: Path, artifact: Artifact, plan: Plan) -> Footprint:
    """Every term of an export, with the plan that it was made from.

    Raises:
        BundleError: a file is missing or damaged.
        MissingExtra: reading the target's files needs a package.
    """
    match artifact.target:
        case "onnx":
            own = _onnx_terms(directory, artifact)
        case "executorch":
            own = _executorch_terms(directory, artifact, plan)
        case "coreml":
            own = _coreml_terms(directory, artifact)
        case _:  # a target whose files this module cannot read yet
            return footprint(plan)
    state = Term(
        "state",
        artifact.state_bytes,
        "anonymous",
        state_phases(artifact.target),
        f"{len(artifact.state_tensors)} tensors of {artifact.state_tensors[0].dtype}",
        "the manifest's state tensors",
        streamed=True,
    )
    base = Footprint((*common_terms(plan), runtime_term(plan.target, plan.form)))
    return base.with_terms((*own, state))


def encoder_terms(directory: Path, artifact: EncoderArtifact) -> tuple[Term, ...]:
    """Weights and activations of an encoder's export, read from its files. Its call counts as the phase ``prefill``.

    Raises:
        BundleError: a file is missing or damaged.
        MissingExtra: reading the target's files needs a package.
    """
    path = directory / artifact.file
    match artifact.target:
        case "onnx":
            weights = _onnx_weights(directory, [artifact.file], artifact.details["weight_file"])
            live = activations.peak(activations.onnx_steps(path, {}, {}), frozenset({artifact.output.name}))
            return (*weights, _live("prefill", live, artifact.file))
        case "executorch":
            planned = int(artifact.details["planned_memory_bytes"])
            formula = f"{count(planned)} bytes planned; what XNNPACK keeps between its own operators is not counted"
            own = Term("activations", planned, "anonymous", ALL, formula, "the program's memory plan", assumed=True)
            return (*_executorch_weights(path, methods=1), own)
        case _:
            from edgeqkv.mil.package import Package

            steps = activations.coreml_steps(Package(path).function(str(artifact.function)))
            live = activations.peak(steps)
            return (_coreml_weights(path), _live("prefill", live, f"function {artifact.function}", assumed=True))


def _onnx_terms(directory: Path, artifact: Artifact) -> tuple[Term, ...]:
    data = artifact.details.get("weight_file", "the weight file")
    # A session closes the graphs of windows that are full, so that those of the last one are open at its peak.
    last = max(graph.window or 0 for graph in artifact.graphs)
    weights = _onnx_weights(directory, [graph.file for graph in artifact.graphs if (graph.window or 0) == last], data)
    return (*weights, *_onnx_activations(directory, artifact))


def _onnx_weights(directory: Path, graphs: Sequence[str], data: str) -> tuple[Term, ...]:
    """What becomes of the weights of graphs that are opened together; ``data`` is the file that they lie in."""
    with needed_for("working out what an ONNX export takes"):
        import onnx
    kept: dict[str, int] = {"mapped": 0, "again": 0, "expanded": 0, "packed": 0}
    seen: set[int] = set()
    for graph in graphs:
        try:
            proto = onnx.load(directory / graph, load_external_data=False).graph
        except Exception as error:  # protobuf's DecodeError differs between its implementations
            raise BundleError(f"{directory / graph} is not an ONNX graph: {error}") from error
        _OnnxWeights(proto, seen).add_to(kept)
    many = f" in {len(graphs)} graphs" if len(graphs) > 1 else ""
    terms = [
        Term(
            "weights", kept["mapped"], "mapped", ALL,
            f"{count(kept['mapped'])} bytes of {data} used where they lie",
            "the graph's initializers", streamed=not kept["packed"] and not kept["expanded"],
        ),
        Term(
            "weights", kept["again"], "mapped again", ALL, f"the same pages mapped by {len(graphs)} graphs",
            "the graphs' initializers",
        ),
        Term(
            "weights", kept["expanded"], "anonymous", ALL, f"matrices expanded to fp32 at load{many}",
            "initializers that a Cast reads", streamed=True,
        ),
        Term(
            "weights", kept["packed"], "anonymous", ALL,
            f"codes, scales and a sum a block, packed for the kernels{many}",
            "inputs of MatMulNBits; as ONNX Runtime packs them on x86-64", streamed=True,
        ),
    ]  # fmt: skip
    return tuple(term for term in terms if term.bytes)


class _OnnxWeights:
    """What becomes of a graph's weights in ONNX Runtime; ``seen``: places in the file that are mapped already."""

    def __init__(self, graph: Any, seen: set[int]) -> None:
        self._seen = seen
        self._weights = {tensor.name: tensor for tensor in graph.initializer if tensor.external_data}
        self._uses: dict[str, set[tuple[str, int]]] = {}
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name in self._weights:
                    self._uses.setdefault(name, set()).add((node.op_type, index))

    def add_to(self, kept: dict[str, int]) -> None:
        """Add every weight's bytes to what it becomes: mapped, mapped again, expanded, packed."""
        for name, uses in self._uses.items():
            tensor = self._weights[name]
            place = {entry.key: entry.value for entry in tensor.external_data}
            size, offset = int(place["length"]), int(place["offset"])
            if ("Cast", 0) in uses:
                kept["expanded"] += prod(tensor.dims) * _FLOAT
            if ("MatMulNBits", 1) in uses:
                kept["packed"] += size
            if ("MatMulNBits", 2) in uses:
                kept["packed"] += 2 * size
            if uses - {("MatMulNBits", 1), ("Cast", 0)}:
                kept["again" if offset in self._seen else "mapped"] += size
                self._seen.add(offset)


def _onnx_activations(directory: Path, artifact: Artifact) -> Iterable[Term]:
    for phase, tokens in _phases(artifact):
        graph = _largest(artifact, tokens)
        outside = frozenset(output.name for output in graph.outputs)
        window = graph.window or artifact.context
        sizes = {"T": tokens, "total": window, "capacity": artifact.context}
        steps = activations.onnx_steps(directory / graph.file, sizes, {"kv_len": window})
        yield _live(phase, activations.peak(steps, outside), f"{graph.file} at {tokens} tokens and {window} positions")


def _phases(artifact: Artifact) -> tuple[tuple[Phase, int], ...]:
    return ("prefill", artifact.chunk), ("decode", 1)


def _largest(artifact: Artifact, tokens: int) -> Graph:
    """The graph that takes so many tokens with the largest window; decode's if there is no other."""
    fits = [graph for graph in artifact.graphs if not graph.fixed or graph.tokens == tokens]
    return max(fits or artifact.graphs, key=lambda graph: graph.window or artifact.context)


def _live(phase: Phase, peak: activations.Peak, where: str, assumed: bool = False) -> Term:
    formula = f"live values at {peak.at or 'no operation'} in {where}"
    return Term("activations", peak.bytes, "anonymous", (phase,), formula, "the graph, by liveness", assumed)


def _executorch_terms(directory: Path, artifact: Artifact, plan: Plan) -> tuple[Term, ...]:
    path = directory / artifact.graphs[0].file
    planned = int(artifact.details["planned_memory_bytes"]) - artifact.state_bytes
    workspace = 2 * plan.dimensions.intermediate_size * _FLOAT
    terms = [
        *_executorch_weights(path, methods=len(artifact.graphs)),
        *(
            Term(
                "activations",
                planned + tokens * workspace,
                "anonymous",
                (phase,),
                f"{count(planned)} bytes planned, and {tokens} × {count(workspace)} in XNNPACK",
                "the program's memory plan; XNNPACK's by the largest pair of values that live together",
            )
            for phase, tokens in _phases(artifact)
        ),
    ]
    return tuple(term for term in terms if term.bytes)


def _executorch_weights(path: Path, methods: int) -> tuple[Term, ...]:
    """What becomes of a program's weights, of which so many methods are loaded."""
    from edgeqkv.backends.executorch.program import ProgramFile

    file = ProgramFile(path)
    segments = {segment.index: segment for segment in file.segments()}
    constants = segments.get(file.constants()[0])
    packed = [segments[index] for index in sorted(file.delegate_data())]
    largest = max(packed, key=lambda segment: segment.size, default=None)
    shared = constants and largest and largest.offset < constants.stop and constants.offset < largest.stop
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
            "weights", largest.size if largest else 0, "mapped again" if shared else "mapped", ("load",),
            "the largest delegate's data, mapped while it is repacked", f"segments of {name}",
        ),
    ]  # fmt: skip
    return tuple(term for term in terms if term.bytes)


def _coreml_terms(directory: Path, artifact: Artifact) -> tuple[Term, ...]:
    from edgeqkv.mil.package import Package

    path = directory / artifact.graphs[0].file
    terms = [_coreml_weights(path)]
    if any(isinstance(size, str) for graph in artifact.graphs for spec in graph.inputs for size in spec.shape):
        return tuple(terms)  # shapes vary: the closed form of the plan stands
    package = Package(path)
    for phase, tokens in _phases(artifact):
        graph = _largest(artifact, tokens)
        peak = activations.peak(activations.coreml_steps(package.function(graph.name)))
        terms.append(_live(phase, peak, f"function {graph.name}", assumed=True))
    return tuple(terms)


def _coreml_weights(path: Path) -> Term:
    weights = sum(file.stat().st_size for file in path.rglob("*.bin"))
    return Term(
        "weights", weights, "mapped", ALL, f"the package's weight files, {count(weights)} bytes, once",
        "the package; whether Core ML maps or copies them, and once or twice, is not known",
        assumed=True, streamed=True,
    )  # fmt: skip
