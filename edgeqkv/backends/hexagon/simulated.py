"""What was compiled against the graphs that it was made of: the same calls on the same state, one beside the other.

Few calls, because the simulation takes from half a second for a small model to minutes for a large one: a whole
chunk, one that is filled up, single tokens after them, and the last position of the context. The state always goes on
from what the graphs on the CPU made, so that a difference is that of one call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeqkv.backends.onnx.runner import opened
from edgeqkv.bundle.manifest import Artifact, Graph

__all__ = ["TOLERANCE", "Comparison", "compare", "cpu_session"]

Array = npt.NDArray[Any]

TOLERANCE: Final = 3e-2
"""Of how far logits are spread. HTP rounds activations of 16 bits where the CPU computes in float32 between two of
them, and a row of the state that lies in the middle between two codes falls to the other one. Measured: 5e-3 on the
demo model, 8-bit codes off by one in up to a tenth of the places. An operation that is fused wrongly gives more than
the spread itself."""

_MOST_CODES: Final = 8  # of 256: what rounding can do to a row through several layers

_SEED: Final = 20261127


@dataclass
class Comparison:
    """What was compared so far."""

    calls: int = 0
    max_code_error: int = 0
    got: list[Array] = field(default_factory=list)
    wanted: list[Array] = field(default_factory=list)

    @property
    def max_abs_error(self) -> float:
        return float(np.nan_to_num(np.abs(np.stack(self.got) - np.stack(self.wanted)), nan=np.inf).max())

    @property
    def tolerance(self) -> float:
        wanted = np.stack(self.wanted)
        return TOLERANCE * float(np.abs(wanted - wanted.mean()).max())

    @property
    def failure(self) -> str:
        """What is wrong; empty if nothing is."""
        if not self.max_abs_error <= self.tolerance:
            return (
                f"logits differ by {self.max_abs_error:.3g} in {self.calls} calls, and {self.tolerance:.3g} is allowed"
            )
        if self.max_code_error > _MOST_CODES:
            return f"rows of the state differ by {self.max_code_error} codes, and {_MOST_CODES} are allowed"
        return ""


def cpu_session(path: Path, threads: int = 1) -> ort.InferenceSession:
    """A QDQ graph on the CPU, every operation as it stands: what is fused there would round otherwise.

    Raises:
        BundleError: ONNX Runtime refuses it.
    """
    return opened(path, {}, threads, optimize=False)


def compare(directory: Path, artifact: Artifact, sessions: Mapping[str, ort.InferenceSession]) -> Comparison:
    """Call the compiled sessions and their graphs, which lie in ``directory``."""
    found = Comparison()
    on_cpu = {graph.name: cpu_session(directory / graph.file) for graph in artifact.graphs}
    random = np.random.default_rng(_SEED)
    if not artifact.causal:
        graph = artifact.graphs[0]
        _call(graph, {graph.inputs[0].name: _whole_input(artifact, random)}, sessions, on_cpu, found)
        return found
    _Walk(artifact, sessions, on_cpu, random, found).run()
    return found


def _whole_input(artifact: Artifact, random: np.random.Generator) -> Array:
    spec = artifact.whole_input
    shape = [int(size) for size in spec.shape]
    if artifact.vocab_size is not None:
        return random.integers(0, artifact.vocab_size, shape).astype(spec.numpy_dtype)
    return random.normal(size=shape).astype(spec.numpy_dtype)


def _call(
    graph: Graph,
    inputs: dict[str, Array],
    sessions: Mapping[str, ort.InferenceSession],
    on_cpu: Mapping[str, ort.InferenceSession],
    found: Comparison,
    count: int = 0,
) -> dict[str, Array]:
    """Run both, compare their logits and the first ``count`` rows that they give for the state; the CPU's outputs."""
    names = [spec.name for spec in graph.outputs]
    got, wanted = (dict(zip(names, each[graph.name].run(names, inputs), strict=True)) for each in (sessions, on_cpu))
    found.calls += 1
    logits = graph.logits
    width = int(logits.shape[-1])
    for into, outputs in ((found.got, got), (found.wanted, wanted)):
        into.extend(outputs[logits.name].reshape(-1, width))
    for name in names:
        if name != logits.name:
            rows = np.abs(got[name][:, :, :count].astype(np.int32) - wanted[name][:, :, :count].astype(np.int32))
            found.max_code_error = max(found.max_code_error, int(rows.max(initial=0)))
    return wanted


class _Walk:
    """Through a context, comparing here and there."""

    def __init__(
        self,
        artifact: Artifact,
        sessions: Mapping[str, ort.InferenceSession],
        on_cpu: Mapping[str, ort.InferenceSession],
        random: np.random.Generator,
        found: Comparison,
    ) -> None:
        self._artifact, self._sessions, self._on_cpu, self._found = artifact, sessions, on_cpu, found
        self._context = int(artifact.context or 1)
        self._tokens = random.integers(0, int(artifact.vocab_size or 1), self._context)
        self._state = {
            str(tensor.input): np.full(tensor.shape, tensor.zero, tensor.numpy_dtype)
            for tensor in artifact.state_tensors
        }
        self._position = 0

    def run(self) -> None:
        decode = min(self._artifact.graphs, key=lambda graph: graph.tokens)
        prefill = max(self._artifact.graphs, key=lambda graph: graph.tokens)
        for count in dict.fromkeys((prefill.tokens, max(1, prefill.tokens - 1))):
            if prefill is not decode and self._position + prefill.tokens < self._context:
                self._step(prefill, count, compared=True)
        for _ in range(2):
            if self._position < self._context - 1:
                self._step(decode, 1, compared=True)
        while self._position < self._context - 1:
            fits = self._position + prefill.tokens < self._context
            self._step(*((prefill, prefill.tokens) if fits else (decode, 1)), compared=False)
        self._step(decode, 1, compared=True)

    def _step(self, graph: Graph, count: int, *, compared: bool) -> None:
        inputs = {**self._inputs(graph, count), **self._state}
        if compared:
            outputs = _call(graph, inputs, self._sessions, self._on_cpu, self._found, count)
        else:
            names = [spec.name for spec in graph.outputs]
            outputs = dict(zip(names, self._on_cpu[graph.name].run(names, inputs), strict=True))
        for tensor in self._artifact.state_tensors:
            place = slice(self._position, self._position + count)
            self._state[str(tensor.input)][:, :, place] = outputs[str(tensor.output)][:, :, :count]
        self._position += count

    def _inputs(self, graph: Graph, count: int) -> dict[str, Array]:
        ids = np.zeros(graph.tokens, np.int32)
        ids[:count] = self._tokens[self._position : self._position + count]
        by_role = {
            "tokens": ids,
            "positions": np.arange(self._position, self._position + graph.tokens, dtype=np.int32),
            "logit_index": np.array([count - 1], np.int32),
        }
        return {spec.name: by_role[spec.role] for spec in graph.inputs if spec.role in by_role}
