"""Running an ONNX export in ONNX Runtime on the CPU, its state bound once and updated in place."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeqkv.backends.held import check_held
from edgeqkv.backends.onnx.graph_file import GraphFile
from edgeqkv.backends.onnx.huge_pages import anonymous_mappings, gather
from edgeqkv.bundle.manifest import Artifact, Graph
from edgeqkv.errors import BundleError

__all__ = ["OnnxRunner", "opened", "settings"]

_UNPACKED: Final = {"session.disable_prepacking": "1"}
_FLOAT32_LAYOUT: Final = [4, 32]  # bits of a code, codes to a scale
_IN_FLOAT32: Final = {"mlas.qnbit.force_fp32": "1"}

_FLOATS: Final = ("fp32", "fp16")  # of weights, which the fast kernels multiply without rounding what they meet


class OnnxRunner:
    """Calls the graphs of an ONNX export.

    Every state tensor is one `OrtValue`, bound as the input and as every output of every graph, so that the
    runtime appends to it where it lies and never copies it. ``threads`` is how many the runtime uses; 0: as many
    as it likes.

    Raises:
        BundleError: a file is missing or damaged, or not what the artifact says of it.
    """

    def __init__(self, directory: Path, artifact: Artifact, engine: str = "onnxruntime", threads: int = 0) -> None:
        self._settings = settings(engine, artifact)
        self._threads = threads
        self._directory = directory
        self._artifact = artifact
        for graph in artifact.graphs:
            _check(directory / graph.file, graph, artifact)
        self._state = {
            tensor.name: ort.OrtValue.ortvalue_from_numpy(np.zeros(tensor.shape, tensor.numpy_dtype))
            for tensor in artifact.state_tensors
        }
        self._opened: dict[str, _Opened] = {}
        self.state_bytes = sum(value.tensor_size_in_bytes() for value in self._state.values())
        rounds_activations = engine != "exact" and artifact.weights not in _FLOATS
        self.precision = "int8-activations" if rounds_activations else artifact.state or "fp32"

    @property
    def state_addresses(self) -> dict[str, int]:
        """Where each state tensor lies in memory."""
        return {name: value.data_ptr() for name, value in self._state.items()}

    def call(self, graph: Graph, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        if graph.name not in self._opened:
            session = opened(self._directory / graph.file, self._settings, self._threads)
            self._opened[graph.name] = _Opened(session, graph, self._artifact, self._state)
        return self._opened[graph.name](inputs)

    def close(self, graph: Graph) -> None:
        self._opened.pop(graph.name, None)


def _check(path: Path, graph: Graph, artifact: Artifact) -> None:
    """Compare a graph's file with what the manifest says of it, and see that it refers to no other than its weights.

    Raises:
        BundleError: it is missing or damaged, they differ, or it does.
    """
    file, tokens = GraphFile(path), graph.input("tokens")
    file.check_external(artifact.details.get("weight_file"))
    check_held(path, graph, artifact, file.held(tokens.name if tokens else None), "in_place")


def settings(engine: str, artifact: Artifact) -> Mapping[str, str]:
    """How the runtime is to hold and multiply an artifact's weights, as entries of a session's configuration.

    Float weights are never packed: that would copy every one out of the mapped file, twice the memory for the same
    numbers. Quantized ones must be, for the fast kernels, which quantize activations too. ``exact`` multiplies the same
    codes in float32, which shows what is in the file and nothing else. ONNX Runtime has kernels for that on x86-64
    for 4-bit codes in blocks of 32 (its pull request 31723), which pack the codes alone; elsewhere it works so on what
    it has not packed, slowly.
    """
    if artifact.weights in _FLOATS:
        return _UNPACKED
    if engine != "exact":
        return {}
    kernels = platform.machine() in ("x86_64", "AMD64") and artifact.details.get("code_layouts") == [_FLOAT32_LAYOUT]
    return _IN_FLOAT32 if kernels else _UNPACKED


def opened(path: Path, entries: Mapping[str, str], threads: int, *, optimize: bool = True) -> ort.InferenceSession:
    """A graph, loaded for the CPU with these entries in the session's configuration; what it packs is in huge pages.

    ``optimize=False`` runs it as it stands.

    Raises:
        BundleError: ONNX Runtime refuses it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3  # errors only: warnings about its own optimizations are not the user's
    # The CPU arena stays on: without it glibc keeps twice as much of what long prompts leave.
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    before = anonymous_mappings()
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        raise BundleError(f"ONNX Runtime cannot load {path.name}: {error}") from error
    gather(before)
    return session


class _Opened:
    """One graph, loaded and with the state bound to it."""

    def __init__(
        self, session: ort.InferenceSession, graph: Graph, artifact: Artifact, state: dict[str, ort.OrtValue]
    ) -> None:
        self._session = session
        self._place = graph.file
        self._binding = session.io_binding()
        for tensor in artifact.state_tensors:
            self._binding.bind_ortvalue_input(tensor.input, state[tensor.name])
            for output in (tensor.output, *tensor.aliases):
                self._binding.bind_ortvalue_output(output, state[tensor.name])
        logits = graph.logits
        self._name = logits.name
        # Written anew by every call; `Session` copies what it hands on.
        self._logits = np.zeros([int(size) for size in logits.shape], logits.numpy_dtype)
        self._binding.bind_ortvalue_output(logits.name, ort.OrtValue.ortvalue_from_numpy(self._logits))

    def __call__(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Mapping[str, npt.NDArray[Any]]:
        for name, value in inputs.items():
            self._binding.bind_cpu_input(name, value)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
            raise BundleError(f"ONNX Runtime cannot run {self._place}: {error}") from error
        return {self._name: self._logits}
