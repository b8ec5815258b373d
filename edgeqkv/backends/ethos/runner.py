"""Running an Ethos-U85 export in Arm's reference model of TOSA, which rounds as the NPU does and is slow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tosa_reference_model
from pydantic import BaseModel, ConfigDict, ValidationError

from edgeqkv.backends.executorch.methods import held
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.held import check_held
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import BundleError, UnsupportedError
from edgeqkv.reading import check_file, reading

__all__ = ["EthosRunner"]


class _Ends(BaseModel):
    """How a TOSA graph is called: the numbers of the program's ends that are its own, and the codes of the logits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    scale: float
    zero: int


class EthosRunner:
    """Calls the TOSA graphs that were compiled; the caller keeps the state. A call takes from a tenth of a second up.

    Raises:
        BundleError: a file is missing or damaged, or not what the artifact says of it.
    """

    precision = "int8-everything"
    state_bytes = 0

    def __init__(self, directory: Path, artifact: Artifact) -> None:
        made = artifact.compiled
        if made is None:
            raise BundleError("the manifest does not say what was compiled of this export; export it again")
        path = directory / made.binary
        with reading(path, "an ExecuTorch program", BundleError):
            file = ProgramFile(path)
            file.check_names()
            for graph in artifact.graphs:
                if graph.name not in file.method_names():
                    raise BundleError(f"{path} has no method '{graph.name}'; export it again")
                check_held(path, graph, artifact, held(file, graph), "rows")
        self._ends = {graph.name: _ends_of(artifact, graph) for graph in artifact.graphs}
        self._files = {}
        for graph in artifact.graphs:
            check_file(directory / graph.file, BundleError, "TOSA graph")
            self._files[graph.name] = (directory / graph.file).read_bytes()

    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        ends = self._ends[graph.name]
        given = [np.ascontiguousarray(inputs[graph.inputs[number].name]) for number in ends.inputs]
        try:
            outputs, status = tosa_reference_model.run(self._files[graph.name], given)
        except Exception as error:  # its exceptions share no base class but this one
            raise BundleError(f"Arm's reference model cannot run {graph.file}: {error}") from error
        if status != tosa_reference_model.GraphStatus.TOSA_VALID:
            raise UnsupportedError(f"Arm's reference model says of {graph.file}: {status}")
        found = {graph.outputs[number].name: each for number, each in zip(ends.outputs, outputs, strict=True)}
        logits = graph.logits
        codes = found[logits.name].astype(np.float32)
        found[logits.name] = ((codes - np.float32(ends.zero)) * np.float32(ends.scale)).reshape(logits.shape)
        return found

    def close(self, graph: Graph) -> None:
        """Nothing: a graph is loaded with every call."""


def _ends_of(artifact: Artifact, graph: Graph) -> _Ends:
    """What the manifest says of a graph's ends.

    Raises:
        BundleError: it says nothing, or something that cannot be.
    """
    try:
        ends = _Ends.model_validate(artifact.details.get("ends", {}).get(graph.name))
    except (ValidationError, AttributeError) as error:
        raise BundleError(f"the manifest does not say how {graph.file} is called; export it again") from error
    if sorted(ends.inputs) != list(range(len(graph.inputs))) or sorted(ends.outputs) != list(range(len(graph.outputs))):
        raise BundleError(f"the manifest says wrongly how {graph.file} is called; export it again")
    return ends
