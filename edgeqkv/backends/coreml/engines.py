"""What calls the functions of a package: Core ML on a Mac, edgeqkv's own evaluator anywhere.

They differ in how a function is called; which one is called with what is a session's business, so that the evaluator
proves what an app does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.coreml._coremltools import import_coremltools
from edgeqkv.errors import UnsupportedError
from edgeqkv.extras import needed_for
from edgeqkv.mil.evaluator import Evaluator, Peak, Precision
from edgeqkv.mil.package import Package

__all__ = ["CoreMLEngine", "Engine", "EvaluatorEngine", "open_engine"]

Inputs = Mapping[str, npt.NDArray[Any]]


class Engine(Protocol):
    """What calls the functions of a package, which share one state. Encoders keep none.

    An input that is an image is given as its pixels, uint8 ``[1, channels, height, width]``, its colors in the order
    RGB.
    """

    precision: Precision

    def predict(self, function: str, inputs: Inputs) -> npt.NDArray[Any]:
        """The logits that a function gives, after it has updated the state."""


class EvaluatorEngine:
    """edgeqkv's own evaluator of the saved package; see `edgeqkv.mil.evaluator`."""

    def __init__(self, path: Path, functions: Sequence[str], precision: Precision = "fp32") -> None:
        package = Package(path)
        self.precision: Precision = precision
        self.evaluators = {name: Evaluator(package, name, precision) for name in functions}
        self.state = self.evaluators[functions[0]].new_state()

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
    """Core ML itself, on macOS 15 or later. Written against coremltools' documentation, and not run yet.

    The form of the package says which units are to run it.
    """

    precision: Precision = "fp16"

    def __init__(self, path: Path, functions: Sequence[str], form: str) -> None:
        ct = import_coremltools("running a Core ML bundle")
        on_neural_engine = form.startswith("conv")
        units = ct.ComputeUnit.ALL if on_neural_engine else ct.ComputeUnit.CPU_AND_GPU
        self._functions = {
            name: ct.models.MLModel(
                str(path),
                compute_units=units,
                # A package with nothing but "main" has no functions to choose from.
                function_name=None if name == "main" else name,
            )
            for name in functions
        }
        # Empty for a model without states: Core ML makes one all the same, and takes it.
        self._state = self._functions[functions[0]].make_state()

    def predict(self, function: str, inputs: Inputs) -> npt.NDArray[Any]:
        given = {name: _picture(array) if array.dtype == np.uint8 else array for name, array in inputs.items()}
        outputs: dict[str, npt.NDArray[Any]] = self._functions[function].predict(given, self._state)
        return outputs["logits"]


def _picture(pixels: npt.NDArray[np.uint8]) -> Any:
    """Pixels ``[1, channels, height, width]`` as coremltools takes images, of Pillow's type."""
    with needed_for("giving Core ML an image"):
        from PIL import Image
    by_row = pixels[0].transpose(1, 2, 0)
    return Image.fromarray(by_row[:, :, 0] if by_row.shape[2] == 1 else np.ascontiguousarray(by_row))


def open_engine(name: str, path: Path, functions: Sequence[str], form: str) -> Engine:
    """The engine of that name on the functions of a package.

    Raises:
        UnsupportedError: there is none.
    """
    if name == "evaluator":
        return EvaluatorEngine(path, functions)
    if name == "evaluator-fp16":
        return EvaluatorEngine(path, functions, "fp16")
    if name == "coreml":
        return CoreMLEngine(path, functions, form)
    raise UnsupportedError(f"Core ML has no engine '{name}'; it has coreml (on a Mac), evaluator and evaluator-fp16")
