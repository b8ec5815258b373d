"""What ONNX Runtime takes for an export, and what of it.

Found by looking at a process's memory maps: it maps the weight file and uses float32 matrices where they lie
(prepacking is off). A matrix that a ``Cast`` expands is computed once at load and kept. ``MatMulNBits`` packs its
codes, scales and a sum a block into memory of its own, and gives the mapping of the codes back. A session that packs
those packs float matrices too (a head that is kept better), and keeps what it packed them from where that is mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from edgeqkv.backends.footprint import ALL, MIB, RUNNING, Term, count
from edgeqkv.backends.memory import (
    PlannedMemory,
    Process,
    Storage,
    calls,
    copied,
    largest_graph,
    live,
    mapped,
    rest,
    stored,
)
from edgeqkv.backends.onnx.forms import is_fused, most_tokens
from edgeqkv.backends.onnx.liveness import onnx_steps
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.errors import BundleError
from edgeqkv.extras import needed_for
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.layers import Attention, Linear
from edgeqkv.reading import reading
from edgeqkv.reference.cost import CostOps, Costs, Result
from edgeqkv.reference.liveness import peak

if TYPE_CHECKING:
    from edgeqkv.model.model import Network

__all__ = ["OnnxMemory"]

_FLOAT: Final = 4  # bytes of what a Cast expands to

# Of fixed shapes, ONNX Runtime lays out a graph's values as one block after the first call, and keeps what that took.
_LAYOUTS: Final = 2

# A further session's own objects, and what opening it takes while the others are there; measured with a model of 40 M
# parameters.
_SESSION: Final = 4 * MIB

_RUNTIME: Final = Term(
    "runtime",
    25 * MIB,
    "anonymous",
    ALL,
    "ONNX Runtime: 20.4 MB of its library in use, 5.8 MB of a session's own objects",
    "measured on Linux x86-64 with ONNX Runtime 1.31 and a model of 0.9 M parameters; not on the device",
)
_RUNTIME_GENAI: Final = Term(
    "runtime",
    50 * MIB,
    "anonymous",
    ALL,
    "ONNX Runtime, 26.2 MB, and onnxruntime-genai, 26.2 MB: 16.8 of its library in use, 9.4 of its objects",
    "measured on Linux x86-64 with onnxruntime-genai 0.18 and a model of 0.9 M parameters; not on the device",
)


class OnnxMemory(PlannedMemory):
    """What a process holds that runs an export in ONNX Runtime."""

    # 10.5 MiB of library that importing it does not touch, 5.5 MiB of objects; measured with the built-in model.
    # edgeqkv's own runner leaves the arena on: on glibc it holds half of what the C library would keep, and a page that
    # was touched once costs nothing again.
    process = Process("edgeqkv.backends.onnx.runner", 16 * MIB, regions=True)

    def runtime(self, form: str) -> Term:
        return _RUNTIME_GENAI if form == "genai" else _RUNTIME

    def weights(self, found: Costs, storage: Storage, spec: TargetSpec) -> tuple[Term, ...]:
        origin = f"{storage.name} storage of {count(found.parameters)} parameters"
        # Of fixed shapes, a session has prefill and decode of one window open at once.
        graphs = 2 if spec.form == "static" and (spec.chunk or 1) > 1 else 1
        matrices = [
            *((shape, storage) for shape in found.body),
            *((shape, storage.at_head) for shape in (*found.heads, *found.tied)),
        ]
        packs = any(how.quantized for _, how in matrices)
        if not packs and {how.name for _, how in matrices} == {Dtype.FP32}:
            size = stored(found, storage, spec)
            floats = mapped(size, f"{count(found.parameters)} parameters × 4, mapped as they are", origin)
            return (floats, *_sessions(graphs))
        codes = sum(how.codes(*shape) + 2 * how.scales(*shape) for shape, how in matrices if how.quantized)
        unpacked = [(shape, how) for shape, how in matrices if not how.quantized]
        expanded = sum(prod(shape) * _FLOAT for shape, how in unpacked if packs or how.name != Dtype.FP32)
        # A tied table lies among the tables.
        lying = sum(
            prod(shape) * _FLOAT for shape, how in unpacked if how.name == Dtype.FP32 and shape not in found.tied
        )
        cast = [prod(shape) * _FLOAT for shape, how in unpacked if packs and how.name != Dtype.FP32]
        twice = max(cast, default=0)
        many = f", in each of {graphs} graphs" if graphs > 1 else ""
        tables = sum(storage.at_head.bytes(*shape) for shape in found.looked_up) + rest(found, storage, spec)
        scales = sum(how.scales(*shape) for shape, how in matrices if shape not in found.tied)
        numbers = count(sum(prod(shape) for shape, how in matrices if how.quantized))
        wide = count(sum(prod(shape) for shape, how in matrices if not how.quantized))
        how_floats = "packed for the kernels as fp32" if packs else "expanded to fp32"
        terms = (
            copied(
                graphs * codes,
                f"{numbers} numbers, packed for the kernels: codes, scales and sums a block{many}",
                origin,
            ),
            copied(graphs * expanded, f"{wide} numbers of matrices and head, {how_floats}{many}", origin),
            Term("weights", twice, "anonymous", ("load",), "the largest expanded matrix, while it is packed", origin),
            mapped(lying, "matrices in fp32, mapped where they lie", origin, streamed=not packs),
            mapped(tables + scales, "token and position tables, scales", origin, streamed=False),
        )
        return (*(term for term in terms if term.bytes), *_sessions(graphs))

    def ops(self, spec: TargetSpec, context: int) -> CostOps:
        joins = self.schemes[spec.weights] is not None
        if is_fused(spec):
            return _FusedOps(context, Dtype(str(spec.state)), joins=joins, keeps_present=spec.form == "genai")
        return _StandardOps(context, Dtype(str(spec.state)), joins=joins, reads_all=spec.form == "static")

    def activations(self, network: Network, spec: TargetSpec) -> tuple[Term, ...]:
        terms = super().activations(network, spec)
        return tuple(map(_laid_out, terms)) if spec.form == "static" else terms

    def most_tokens(self, spec: TargetSpec) -> int:
        return most_tokens(spec)

    def unused(self, spec: TargetSpec, tensors: int) -> int:
        return tensors % 2 if spec.form == "genai" else 0  # onnxruntime-genai holds tensors in pairs

    def exported(self, directory: Path, artifact: Artifact, network: Network | None = None) -> tuple[Term, ...]:
        data = artifact.details.get("weight_file", "the weight file")
        # A session closes the graphs of windows that are full, so that those of the last one are open at its peak.
        last = max(graph.window or 0 for graph in artifact.graphs)
        files = [graph.file for graph in artifact.graphs if (graph.window or 0) == last]
        return (
            *_weights(directory, files, data),
            *_activations(directory, artifact),
            *super().exported(directory, artifact, network),
        )


class _JoiningOps(CostOps):
    """Products of one value with quantized matrices are one (`edgeqkv.backends.onnx.joined`), which is then split."""

    def __init__(self, context: int, *, joins: bool) -> None:
        super().__init__(context)
        self._joins = joins

    def linears(self, x: Result, linears: Mapping[str, Linear]) -> tuple[Result, ...]:
        layers = linears.values()
        biases = {linear.bias is None for linear in layers}
        if not self._joins or len(linears) < 2 or len(biases) > 1:
            return super().linears(x, linears)
        rows = [linear.weight.shape[0] for linear in layers]
        tokens = x.shape[0]
        whole = self.made("products", (tokens, sum(rows)), x)
        return self.made_together("product", [(tokens, each) for each in rows], whole)


class _FusedOps(_JoiningOps):
    """Attention as one operator, which reads the state where it lies.

    A caller with no place for a second present of a merged tensor has it made, for one layer at a time.
    """

    def __init__(self, context: int, state: Dtype, *, keeps_present: bool, joins: bool = False) -> None:
        super().__init__(context, joins=joins)
        self._state = state
        self._keeps_present = keeps_present

    def attend(self, q: Result, k: Result, v: Result, attention: Attention, seen: int) -> Result:
        mixed = self.made("attention", q.shape, q, k, v)
        if self._keeps_present and attention.causal and v is k:
            shape = (attention.heads.kv, seen, attention.heads.dim)
            self.made("present", shape, mixed, element=self._state.bytes)
        return mixed


class _StandardOps(_JoiningOps):
    """Attention in the standard's own operators (`edgeqkv.backends.onnx.standard_ops`), value by value."""

    def __init__(self, context: int, state: Dtype, *, reads_all: bool, joins: bool = False) -> None:
        super().__init__(context, joins=joins)
        self._state = state
        self._reads_all = reads_all
        self._masks: dict[tuple[int, int, int | None], Result] = {}

    def attend(self, q: Result, k: Result, v: Result, attention: Attention, seen: int) -> Result:
        heads, tokens = attention.heads, q.shape[0]
        keys = self._read(k, attention, seen)
        values = keys if v is k else self._read(v, attention, seen)
        if v is k and (attention.rope is not None or attention.k_norm is not None):
            keys = self._placed(keys)
        queries = self.made("scaled queries", q.shape, self.made("grouped queries", q.shape, q))
        turned = self.made("keys, transposed", keys.shape, keys)
        scores = self.made("scores", (heads.query, tokens, seen), queries, turned)
        if attention.softcap is not None:
            scores = self.softcap(scores, attention.softcap)
        key = (heads.query // heads.kv, seen, attention.window)
        if key not in self._masks:
            self._masks[key] = self.made("mask", (tokens * key[0], seen))
        masked = self.made("masked scores", scores.shape, scores, self._masks[key])
        weights = self.made("softmax", scores.shape, masked)
        return self.made("mixed, in order", q.shape, self.made("mixed", q.shape, weights, values))

    def _placed(self, keys: Result) -> Result:
        """What a merged layer stored, rotated as it is read: its channels in pairs, and their products."""
        pairs = self.made("pairs of channels", keys.shape, keys)
        return self.made("placed keys", keys.shape, pairs, self.made("products of channels", keys.shape, pairs))

    def _read(self, rows: Result, attention: Attention, seen: int) -> Result:
        """A state tensor as attention reads it: the filled part, in float32; the whole is the caller's memory."""
        shape = (attention.heads.kv, seen, attention.heads.dim)
        if self._reads_all:
            read = self.made("state", shape, rows, element=0)
        else:
            read = self.made("state's rows", shape, rows, element=self._state.bytes)
        return read if self._state == Dtype.FP32 else self.made("state in fp32", shape, read)


def _activations(directory: Path, artifact: Artifact) -> Iterator[Term]:
    if not artifact.causal:
        graph = artifact.graphs[0]
        yield live(
            "prefill", peak(onnx_steps(directory / graph.file, {}, {}), frozenset({graph.logits.name})), graph.file
        )
        return
    context = int(artifact.context or 0)
    for phase, tokens in calls(artifact.chunk):
        graph = largest_graph(artifact, tokens)
        window = graph.window or context
        sizes = {"tokens": tokens, "end": window, "end + 1": window + 1, "context": context}
        lengths = {spec.name: window for spec in graph.inputs if spec.role == "length"}
        steps = onnx_steps(directory / graph.file, sizes, lengths)
        outside = frozenset(output.name for output in graph.outputs)
        term = live(phase, peak(steps, outside), f"{graph.file} at {tokens} tokens and {window} positions")
        yield _laid_out(term) if graph.fixed else term


def _sessions(graphs: int) -> tuple[Term, ...]:
    """What graphs that are open at once take beside the first."""
    if graphs == 1:
        return ()
    formula = f"{graphs - 1} further session's own objects"
    return (Term("weights", (graphs - 1) * _SESSION, "anonymous", RUNNING, formula, "measured on Linux x86-64"),)


def _laid_out(term: Term) -> Term:
    return replace(
        term, bytes=_LAYOUTS * term.bytes, formula=f"{term.formula}, and as one block from the second call on"
    )


def _weights(directory: Path, graphs: Sequence[str], data: str) -> tuple[Term, ...]:
    """What becomes of the weights of graphs that are opened together; ``data`` is the file that they lie in."""
    with needed_for("working out what an ONNX export takes"):
        import onnx
    kept = dict.fromkeys(("mapped", "looked up", "again", "expanded", "packed", "packed floats", "held twice"), 0)
    seen: set[int] = set()
    for graph in graphs:
        with reading(directory / graph, "an ONNX graph", BundleError):
            proto = onnx.load(directory / graph, load_external_data=False).graph
            _Weights(proto, seen).add_to(kept)
    many = f" in {len(graphs)} graphs" if len(graphs) > 1 else ""
    terms = [
        Term(
            "weights", kept["mapped"], "mapped", ALL,
            f"{count(kept['mapped'])} bytes of {data} used where they lie",
            "the graph's initializers", streamed=not kept["packed"] and not kept["expanded"],
        ),
        Term(
            "weights", kept["looked up"], "mapped", RUNNING, f"rows of {data} looked up where they lie",
            "the graph's initializers", streamed=False,
        ),
        Term(
            "weights", kept["packed floats"], "anonymous", ALL, f"float matrices, packed for the kernels{many}",
            "matrices of a graph that has others in codes", streamed=True,
        ),
        Term(
            "weights", kept["held twice"], "anonymous", ALL if len(graphs) > 1 else ("load",),
            "the largest expanded matrix, while it is packed",
            "initializers that a Cast reads and a product takes",
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
    return (*(term for term in terms if term.bytes), *_sessions(len(graphs)))


class _Weights:
    """What becomes of a graph's weights in ONNX Runtime; ``seen``: places in the file that are mapped already."""

    def __init__(self, graph: Any, seen: set[int]) -> None:
        self._seen = seen
        self._weights = {tensor.name: tensor for tensor in graph.initializer if tensor.external_data}
        self._packs = any(node.op_type == "MatMulNBits" for node in graph.node)
        casts = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "Cast"}
        self._multiplied = {casts.get(node.input[1], node.input[1]) for node in graph.node if node.op_type == "Gemm"}
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
            floats = prod(tensor.dims) * _FLOAT
            packs = self._packs and name in self._multiplied
            if packs:
                kept["packed floats"] += floats
            if ("Cast", 0) in uses and packs:
                kept["held twice"] = max(kept["held twice"], floats)
            elif ("Cast", 0) in uses:
                kept["expanded"] += floats
            if ("MatMulNBits", 1) in uses:
                kept["packed"] += size
            if ("MatMulNBits", 2) in uses:
                kept["packed"] += 2 * size
            if not (elsewhere := uses - {("MatMulNBits", 1), ("Cast", 0)}):
                continue
            # Of a table nothing is read before there are tokens, and then their rows.
            first = "looked up" if elsewhere == {("Gather", 0)} else "mapped"
            if offset not in self._seen:
                kept[first] += size
            elif not (packs and first == "looked up"):  # the most is held while a further graph is opened
                kept["again"] += size
            self._seen.add(offset)
