"""Running a Hexagon export: its QDQ graphs on the CPU, or compiled in Qualcomm's simulation of the NPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime as ort

from edgeqkv.backends.held import check_held
from edgeqkv.backends.hexagon.qnn import qnn_session
from edgeqkv.backends.hexagon.simulated import cpu_session
from edgeqkv.backends.onnx.graph_file import GraphFile
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import BundleError, UnsupportedError

__all__ = ["HexagonRunner"]


class HexagonRunner:
    """Calls the graphs of a Hexagon export; the caller keeps the state.

    The engine ``onnxruntime`` computes the QDQ graphs operation by operation. ``simulator`` compiles them anew for the
    chip that the artifact is for, because the simulation loads no binary that two graphs share, and runs that; a call
    takes from half a second up.

    Raises:
        BundleError: a file is missing or damaged, or not what the artifact says of it.
        UnsupportedError: the artifact was not compiled for a chip, so that there is nothing to simulate.
    """

    precision = "int16-activations"
    state_bytes = 0

    def __init__(self, directory: Path, artifact: Artifact, engine: str) -> None:
        self._directory = directory
        self._soc = None
        if engine == "simulator":
            if artifact.compiled is None:
                raise UnsupportedError(
                    "this bundle was not compiled for a chip, so that there is nothing to simulate: export it where "
                    "onnxruntime-qnn is installed (pip install 'edgeqkv[hexagon]')"
                )
            self._soc = artifact.compiled.soc
        for graph in artifact.graphs:
            _check(directory / graph.file, graph, artifact)
        self._opened: dict[str, ort.InferenceSession] = {}

    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        if graph.name not in self._opened:
            self._opened[graph.name] = self._open(self._directory / graph.file)
        names = [spec.name for spec in graph.outputs]
        try:
            outputs = self._opened[graph.name].run(names, dict(inputs))
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise BundleError(f"ONNX Runtime cannot run {graph.file}: {error}") from error
        return dict(zip(names, outputs, strict=True))

    def close(self, graph: Graph) -> None:
        self._opened.pop(graph.name, None)

    def _open(self, path: Path) -> ort.InferenceSession:
        if self._soc is None:
            return cpu_session(path, threads=0)
        try:
            return qnn_session(path, self._soc, {})
        except KeyError as error:
            raise BundleError(f"the manifest says that it was compiled for {error}, which is no chip") from error
        except RuntimeError as error:
            raise BundleError(f"Qualcomm's compiler refuses {path.name}: {error}") from error


def _check(path: Path, graph: Graph, artifact: Artifact) -> None:
    """Compare a graph's file with what the manifest says of it, and see that it refers to no other than its weights.

    Raises:
        BundleError: it is missing or damaged, they differ, or it does.
    """
    file, tokens = GraphFile(path), graph.input("tokens")
    file.check_external(artifact.details.get("weight_file"))
    check_held(path, graph, artifact, file.held(tokens.name if tokens else None), "rows")
