"""Running a Core ML export: with Core ML on a Mac, with edgeqkv's own evaluator anywhere.

The two engines differ in how a function is called; which one is called with what is the same, so that the
evaluator proves what an app does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from edgeqkv.artifact import Artifact
from edgeqkv.backends.coreml._coremltools import import_coremltools
from edgeqkv.backends.coreml.evaluator import Evaluator, Peak, Precision
from edgeqkv.backends.coreml.package import Package
from edgeqkv.errors import UnsupportedError
from edgeqkv.session import Session

__all__ = ["CoreMLEngine", "CoreMLSession", "Engine", "EvaluatorEngine"]

Inputs = Mapping[str, npt.NDArray[Any]]


class Engine(Protocol):
    """What calls the functions of a package, which share one state."""

    precision: Precision

    def predict(self, function: str, inputs: Inputs) -> npt.NDArray[Any]:
        """The logits that a function gives, after it has updated the state."""


class EvaluatorEngine:
    """edgeqkv's own evaluator of the saved package; see `edgeqkv.backends.coreml.evaluator`."""

    def __init__(self, path: Path, artifact: Artifact, precision: Precision = "fp32") -> None:
        package = Package(path)
        self.precision: Precision = precision
        self.evaluators = {graph.name: Evaluator(package, graph.name, precision) for graph in artifact.graphs}
        self.state = self.evaluators[artifact.graphs[0].name].new_state()

    def predict(self, function: str, inputs: Inputs) -> npt.NDArray[Any]:
        return self.evaluators[function].run(inputs, self.state)["logits"]

    @property
    def peaks(self) -> dict[tuple[str, str], Peak]:
        """The evaluators' peaks, by function and operation."""
        return {
            (function, name): peak
            for function, evaluator in self.evaluators.items()
            for name, peak in evaluator.peaks.items()
        }


class CoreMLEngine:
    """Core ML itself, on macOS 15 or later. Written against coremltools' documentation, and not run yet."""

    precision: Precision = "fp16"

    def __init__(self, path: Path, artifact: Artifact) -> None:
        ct = import_coremltools("running a Core ML bundle")
        on_neural_engine = artifact.form.startswith("conv")
        units = ct.ComputeUnit.ALL if on_neural_engine else ct.ComputeUnit.CPU_AND_GPU
        self._functions = {
            graph.name: ct.models.MLModel(
                str(path),
                compute_units=units,
                # A package with nothing but "main" has no functions to choose from.
                function_name=None if graph.name == "main" else graph.name,
            )
            for graph in artifact.graphs
        }
        self._state = self._functions[artifact.graphs[0].name].make_state()

    def predict(self, function: str, inputs: Inputs) -> npt.NDArray[Any]:
        outputs: dict[str, npt.NDArray[Any]] = self._functions[function].predict(dict(inputs), self._state)
        return outputs["logits"]


class CoreMLSession(Session):
    """A session on the functions of a package.

    Args:
        directory: where the package lies.
        artifact: its description.
        engine: "evaluator", "evaluator-fp16", or on a Mac "coreml"; or an engine that is open already.

    Raises:
        UnsupportedError: there is no such engine here.
    """

    def __init__(self, directory: Path, artifact: Artifact, engine: str | Engine = "evaluator") -> None:
        path = directory / artifact.graphs[0].file
        self._graphs = artifact.graphs
        self._engine = _engine(engine, path, artifact) if isinstance(engine, str) else engine
        super().__init__(
            capacity=artifact.context,
            chunk=artifact.chunk,
            vocab_size=artifact.vocab_size,
            state_bytes=artifact.state_bytes,
            precision=self._engine.precision,
        )

    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        graph = next((each for each in self._graphs if not each.fixed or each.tokens == len(ids)), None)
        if graph is None:  # what does not fill a chunk: one token at a time always fits
            for offset, token in enumerate(ids):
                logits = self._step(token[None], position + offset)
            return logits
        tokens, told = (spec.name for spec in graph.inputs)
        inputs = {tokens: ids.astype(np.int32)[None], told: _TOLD[told](len(ids), position)}
        rows = self._engine.predict(graph.name, inputs).reshape(-1, self.vocab_size)
        return np.asarray(rows[-1], np.float32)


def _position(count: int, position: int) -> npt.NDArray[np.int32]:
    return np.array([position], np.int32)


def _additive_mask(count: int, position: int) -> npt.NDArray[np.float16]:
    """``[1, 1, count, position + count]``, as swift-transformers' pull request 331 makes it."""
    visible = np.tri(count, position + count, position, dtype=bool)
    return np.where(visible, np.float16(0), np.finfo(np.float16).min)[None, None]


def _zeros(count: int, position: int) -> npt.NDArray[np.float16]:
    """``[1, 1, 1, position + count + 1]``, as swift-transformers' releases make it."""
    return np.zeros((1, 1, 1, position + count + 1), np.float16)


_TOLD: Final[Mapping[str, Callable[[int, int], npt.NDArray[Any]]]] = {
    "position": _position,
    "fullAttentionMask": _additive_mask,
    "causalMask": _zeros,
}
"""What says where the tokens of a call stand, by the name of the input, from their count and first position."""


def _engine(name: str, path: Path, artifact: Artifact) -> Engine:
    if name == "evaluator":
        return EvaluatorEngine(path, artifact)
    if name == "evaluator-fp16":
        return EvaluatorEngine(path, artifact, "fp16")
    if name == "coreml":
        return CoreMLEngine(path, artifact)
    raise UnsupportedError(f"Core ML has no engine '{name}'; it has coreml (on a Mac), evaluator and evaluator-fp16")
