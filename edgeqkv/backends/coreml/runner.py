"""What calls the functions of a package: Core ML on a Mac, edgeqkv's own evaluator anywhere.

An input that is an image is given as its pixels, uint8 ``[1, channels, height, width]``, its colors in the order RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.coreml._compat import import_coremltools
from edgeqkv.backends.coreml.errors import mil_errors
from edgeqkv.backends.coreml.held import checked_package
from edgeqkv.backends.coreml.names import CAUSAL_MASK, HIGHEST_SCORE
from edgeqkv.backends.target import Runner
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import UnsupportedError
from edgeqkv.extras import needed_for
from edgeqkv.memory import keep_freed
from edgeqkv.mil import Evaluator, Peak, Precision
from edgeqkv.mil.package import Function

__all__ = ["CoreMLRunner", "EvaluatorRunner", "open_runner"]

Inputs = Mapping[str, npt.NDArray[Any]]


class EvaluatorRunner:
    """edgeqkv's own evaluator of the saved package; see `edgeqkv.mil`."""

    @mil_errors()
    def __init__(self, directory: Path, artifact: Artifact, precision: Precision = "fp32") -> None:
        keep_freed()
        package = checked_package(directory, artifact)
        functions = [graph.name for graph in artifact.graphs]
        self.precision: str = precision
        self.state_bytes = artifact.state_bytes
        # Only the estimate of fp16 is asked for its peaks.
        self.evaluators = {name: Evaluator(package, name, precision, precision == "fp16") for name in functions}
        self.state = self.evaluators[functions[0]].new_state()
        self._causal = artifact.causal

    @mil_errors()
    def call(self, graph: Graph, inputs: Inputs) -> Inputs:
        return self.evaluators[graph.name].run(inputs, self.state)

    def close(self, graph: Graph) -> None:
        """Nothing: the functions share their constants."""

    @property
    def peaks(self) -> dict[tuple[str, str], Peak]:
        """The evaluators' peaks, by function and operation, each with the weight that it uses or comes after.

        The masks are left out: they are made of a constant, which says nothing about the model. Scores that are masked
        are of use as far as the mask is below them.
        """
        found = {}
        for function, evaluator in self.evaluators.items():
            places = _places(evaluator.package.function(function))
            for name, peak in evaluator.peaks.items():
                if name.startswith(CAUSAL_MASK):
                    continue
                masked = self._causal and name.endswith(".scores")
                limited = replace(peak, limit=HIGHEST_SCORE) if masked else peak
                found[function, name + places.get(name.removesuffix(".scores"), "")] = limited
        return found


def _places(function: Function) -> dict[str, str]:
    """In words, by operation: the trained weight that it uses, or else the last one that was used before."""
    constants = {op.name: op for op in function.operations if op.type.startswith("const")}
    places, last = {}, ""
    for op in function.operations:
        if op.name in constants:
            continue
        used = [each.name for given in op.inputs.values() for each in given if each.name in constants]
        trained = [name for end in ("_weight", "_bias") for name in used if name.endswith(end)]
        if trained:
            last = trained[0]
        places[op.name] = f" ({last})" if trained else f" (after {last})" if last else ""
    return places


class CoreMLRunner:
    """Core ML itself, on macOS 15 or later. Written against coremltools' documentation, and not run yet.

    The form of the package says which units are to run it.
    """

    precision = "fp16"

    def __init__(self, directory: Path, artifact: Artifact) -> None:
        ct = import_coremltools("running a Core ML bundle")
        with mil_errors():
            checked_package(directory, artifact)
        on_neural_engine = artifact.form.startswith("conv")
        units = ct.ComputeUnit.ALL if on_neural_engine else ct.ComputeUnit.CPU_AND_GPU
        functions = [graph.name for graph in artifact.graphs]
        self.state_bytes = artifact.state_bytes
        self._functions = {
            name: ct.models.MLModel(
                str(directory / artifact.graphs[0].file),
                compute_units=units,
                # A package with nothing but "main" has no functions to choose from.
                function_name=None if name == "main" else name,
            )
            for name in functions
        }
        # Empty for a model without states: Core ML makes one all the same, and takes it.
        self._state = self._functions[functions[0]].make_state()

    def call(self, graph: Graph, inputs: Inputs) -> Inputs:
        given = {name: _picture(array) if array.dtype == np.uint8 else array for name, array in inputs.items()}
        outputs: Inputs = self._functions[graph.name].predict(given, self._state)
        return outputs

    def close(self, graph: Graph) -> None:
        """Nothing: Core ML shares the weights of a package's functions."""


def _picture(pixels: npt.NDArray[np.uint8]) -> Any:
    """Pixels ``[1, channels, height, width]`` as coremltools takes images, of Pillow's type."""
    with needed_for("giving Core ML an image"):
        from PIL import Image
    by_row = pixels[0].transpose(1, 2, 0)
    return Image.fromarray(by_row[:, :, 0] if by_row.shape[2] == 1 else np.ascontiguousarray(by_row))


def open_runner(directory: Path, artifact: Artifact, engine: str) -> Runner:
    """The engine of that name on a package.

    Raises:
        UnsupportedError: there is none.
    """
    if engine == "evaluator":
        return EvaluatorRunner(directory, artifact)
    if engine == "evaluator-fp16":
        return EvaluatorRunner(directory, artifact, "fp16")
    if engine == "coreml":
        return CoreMLRunner(directory, artifact)
    raise UnsupportedError(f"Core ML has no engine '{engine}'; it has coreml (on a Mac), evaluator and evaluator-fp16")
