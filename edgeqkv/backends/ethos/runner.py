"""Running an Ethos-U85 export in Arm's reference model of TOSA, which computes what the NPU does and is slow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tosa_reference_model

from edgeqkv.backends.ethos.inspection import held_by
from edgeqkv.backends.ethos.quiet import native_stdout_dropped
from edgeqkv.backends.executorch.methods import held
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.held import check_held
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import BundleError
from edgeqkv.reading import reading

__all__ = ["EthosRunner"]


class EthosRunner:
    """Calls the TOSA graphs that were compiled; the caller keeps the state. A call takes a twentieth of a second
    and more.

    Raises:
        BundleError: a file is missing or damaged, or not what the artifact says of it.
    """

    state_bytes = 0

    def __init__(self, directory: Path, artifact: Artifact) -> None:
        self.precision = "int8-activations" if artifact.form == "int8" else "int16-activations"
        self._scales = artifact.details.get("logit_scales", {})
        self._given = artifact.details.get("input_scale", 1.0)
        self._files: dict[str, bytes] = {}
        for graph in artifact.graphs:
            if graph.name not in self._scales:
                raise BundleError(f"the manifest does not say what the logits of '{graph.name}' are; export it again")
            path = directory / graph.file
            with reading(path, "a TOSA graph", BundleError):
                self._files[graph.name] = path.read_bytes()
                check_held(path, graph, artifact, held_by(self._files[graph.name], graph), "rows")
        if artifact.compiled is not None:
            _check_program(directory / artifact.compiled.binary, artifact)

    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        given = [np.ascontiguousarray(self._codes(inputs[spec.name])) for spec in graph.inputs]
        try:
            with native_stdout_dropped():
                outputs, status = tosa_reference_model.run(self._files[graph.name], given)
        except Exception as error:  # its exceptions share no base class but this one
            raise BundleError(f"Arm's reference model cannot run {graph.file}: {error}") from error
        if status != tosa_reference_model.GraphStatus.TOSA_VALID:
            raise BundleError(f"Arm's reference model says of {graph.file}: {status.name}")
        found = {spec.name: each for spec, each in zip(graph.outputs, outputs, strict=True)}
        name = graph.logits.name
        found[name] = found[name].astype(np.float32) * np.float32(self._scales[graph.name])
        return found

    def _codes(self, x: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if not np.issubdtype(x.dtype, np.floating):
            return x
        return np.rint(x * np.float32(1 / self._given)).clip(-32768, 32767).astype(np.int16)

    def close(self, graph: Graph) -> None:
        """Nothing: a graph is loaded with every call."""


def _check_program(path: Path, artifact: Artifact) -> None:
    """Compare the program that an app runs with the same description.

    Raises:
        BundleError: it is missing or damaged, or they differ.
    """
    with reading(path, "an ExecuTorch program", BundleError):
        file = ProgramFile(path)
        file.check_names()
        for graph in artifact.graphs:
            if graph.name not in file.method_names():
                raise BundleError(f"{path} has no method '{graph.name}'; export it again")
            check_held(path, graph, artifact, held(file, graph), "rows")
