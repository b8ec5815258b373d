"""Running a ``.pte`` in ExecuTorch's own runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.executorch._compat import import_runtime, load_llm_operators, use_threads
from edgeqkv.backends.executorch.methods import held
from edgeqkv.backends.executorch.program import ProgramFile
from edgeqkv.backends.executorch.quiet import native_stderr_captured, third_party_notices_silenced
from edgeqkv.backends.held import check_held
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import BundleError
from edgeqkv.reading import reading
from edgeqkv.threads import threads_wanted

with third_party_notices_silenced():
    Runtime = import_runtime().Runtime

__all__ = ["ExecuTorchRunner"]

_FLOATS: Final = ("fp32", "fp16")


class ExecuTorchRunner:
    """Calls the methods of a ``.pte``. The runtime holds the state, in memory that it plans from the file.

    Raises:
        BundleError: the file is missing or damaged, or the runtime refuses it.
    """

    def __init__(self, directory: Path, artifact: Artifact) -> None:
        path = directory / artifact.graphs[0].file
        methods = [graph.name for graph in artifact.graphs]
        with reading(path, "an ExecuTorch program", BundleError):
            file = ProgramFile(path)
            file.check_names()
            plans = file.plans()
            missing = set(methods) - plans.keys()
            if missing:
                raise BundleError(f"{path} has no method '{min(missing)}'; export it again")
            for graph in artifact.graphs:
                check_held(path, graph, artifact, held(file, graph), "runtime")
        # A state that several methods share lies at one place in memory.
        state = {(b.arena, b.offset): b.nbytes for plan in plans.values() for b in plan.buffers}
        self.state_bytes = sum(state.values())
        self.precision = _precision(artifact)
        custom = artifact.causal and artifact.form != "portable"
        self._methods = _load(path, methods, custom=custom)

    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        given = [torch.from_numpy(np.ascontiguousarray(inputs[spec.name])) for spec in graph.inputs]
        try:
            outputs = self._methods[graph.name].execute(given)
        except RuntimeError as error:
            raise BundleError(f"ExecuTorch cannot run {graph.file}: {error}") from error
        # They lie in planned memory, which the next call overwrites; `Session` copies what it hands on.
        return {spec.name: output.numpy() for spec, output in zip(graph.outputs, outputs, strict=True)}

    def close(self, graph: Graph) -> None:
        """Nothing: the methods share their memory."""


def _precision(artifact: Artifact) -> str:
    if artifact.weights not in _FLOATS:
        return "int8-activations"
    return next((each for each in ("int8", "fp16") if each in (artifact.state, artifact.weights)), "fp32")


def _load(path: Path, methods: list[str], *, custom: bool) -> dict[str, Any]:
    """Methods of a program, loaded; ``custom`` says that it needs the LLM extension's operators.

    Raises:
        BundleError: the file is missing or damaged, or the runtime refuses it.
    """
    with third_party_notices_silenced(), native_stderr_captured() as log:
        import executorch.kernels.quantized  # noqa: F401  registers its kernels

        if custom:
            load_llm_operators()
        use_threads(threads_wanted())
        try:
            program = Runtime.get().load_program(path)
            return {method: program.load_method(method) for method in methods}
        except RuntimeError as error:
            reason = log().splitlines()[-1:] or [str(error)]
            raise BundleError(f"ExecuTorch cannot load {path}: {reason[0]}") from error
