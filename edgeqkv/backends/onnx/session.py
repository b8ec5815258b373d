"""Running an ONNX export in ONNX Runtime on the CPU, its state bound once and updated in place."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edgeqkv.bundle.manifest import Artifact, EncoderArtifact, Graph
from edgeqkv.errors import BundleError
from edgeqkv.run.session import Session

__all__ = ["OnnxSession", "opened", "settings"]

_UNPACKED: Final = {"session.disable_prepacking": "1"}
_FLOAT32_LAYOUT: Final = [4, 32]  # bits of a code, codes to a scale
_IN_FLOAT32: Final = {"mlas.qnbit.force_fp32": "1"}

_NUMPY = {"fp32": np.float32, "fp16": np.float16, "int8": np.int8}


class OnnxSession(Session):
    """A session on the graphs of an ONNX export.

    Every state tensor is one `OrtValue`, bound as the input and as every output of every graph, so that the
    runtime appends to it where it lies and never copies it. ``threads`` is how many the runtime uses; 0: as many
    as it likes.
    """

    def __init__(self, directory: Path, artifact: Artifact, engine: str = "onnxruntime", threads: int = 0) -> None:
        self._settings = settings(engine, artifact)
        self._threads = threads
        self._directory = directory
        self._artifact = artifact
        self._state = {
            tensor.name: ort.OrtValue.ortvalue_from_numpy(np.zeros(tensor.shape, _NUMPY[tensor.dtype]))
            for tensor in artifact.state_tensors
        }
        self._runners: dict[str, _Runner] = {}
        super().__init__(
            capacity=artifact.context,
            chunk=artifact.chunk,
            vocab_size=artifact.vocab_size,
            state_bytes=sum(value.tensor_size_in_bytes() for value in self._state.values()),
            precision=artifact.state,
        )

    @property
    def state_addresses(self) -> dict[str, int]:
        """Where each state tensor lies in memory."""
        return {name: value.data_ptr() for name, value in self._state.items()}

    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        self._close_passed(position)
        graph = self._graph_for(len(ids), position)
        if graph is None:  # no fixed graph has this length at this place: one token at a time always fits
            for offset, token in enumerate(ids):
                logits = self._step(token[None], position + offset)
            return logits
        return self._runner(graph)(ids, position)

    def _graph_for(self, count: int, position: int) -> Graph | None:
        """The graph to run: the one with the smallest sufficient window, padded if it takes more tokens.

        Padding rows write to positions after the last token. Nothing attends to them there, and the tokens that
        come to stand there overwrite them.
        """
        fits = [
            graph
            for graph in self._artifact.graphs
            if graph.tokens >= count and (not graph.fixed or position + graph.tokens <= (graph.window or self.capacity))
        ]
        return min(fits, key=lambda graph: (graph.tokens, graph.window or 0), default=None)

    def _close_passed(self, position: int) -> None:
        """Close the graphs of windows that are full: each holds packed weights of its own.

        None of them can be called again before a reset, after which they are opened anew.
        """
        passed = {graph.name for graph in self._artifact.graphs if graph.window and graph.window <= position}
        for name in passed & self._runners.keys():
            del self._runners[name]

    def _runner(self, graph: Graph) -> _Runner:
        if graph.name not in self._runners:
            self._runners[graph.name] = _Runner(
                self._directory / graph.file, graph, self._artifact, self._state, self._settings, self._threads
            )
        return self._runners[graph.name]


def settings(engine: str, artifact: Artifact | EncoderArtifact) -> Mapping[str, str]:
    """How the runtime is to hold and multiply an artifact's weights, as entries of a session's configuration.

    Float weights are never packed: that would copy every one out of the mapped file, twice the memory for the same
    numbers. Quantized ones must be, for the fast kernels, which quantize activations too. ``exact`` multiplies the same
    codes in float32, which shows what is in the file and nothing else. ONNX Runtime has kernels for that on x86-64
    for 4-bit codes in blocks of 32 (its pull request 31723), which pack the codes alone; elsewhere it works so on what
    it has not packed, slowly.
    """
    if artifact.weights in ("fp32", "fp16"):
        return _UNPACKED
    if engine != "exact":
        return {}
    kernels = platform.machine() in ("x86_64", "AMD64") and artifact.details.get("code_layouts") == [_FLOAT32_LAYOUT]
    return _IN_FLOAT32 if kernels else _UNPACKED


def opened(path: Path, entries: Mapping[str, str], threads: int) -> ort.InferenceSession:
    """A graph, loaded for the CPU with these entries in the session's configuration.

    Raises:
        BundleError: ONNX Runtime refuses it.
    """
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors only: warnings about its own optimizations are not the user's
    # The CPU arena stays on: without it glibc keeps twice as much of what long prompts leave.
    for key, value in entries.items():
        options.add_session_config_entry(key, value)
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no base class but this one
        raise BundleError(f"ONNX Runtime cannot load {path.name}: {error}") from error


class _Runner:
    """One graph, loaded and with the state bound to it."""

    def __init__(
        self,
        path: Path,
        graph: Graph,
        artifact: Artifact,
        state: dict[str, ort.OrtValue],
        entries: Mapping[str, str],
        threads: int,
    ) -> None:
        self._session = opened(path, entries, threads)
        self._graph = graph
        self._inputs = {spec.name for spec in graph.inputs}
        self._binding = self._session.io_binding()
        for tensor in artifact.state_tensors:
            self._binding.bind_ortvalue_input(tensor.input, state[tensor.name])
            for output in (tensor.output, *tensor.aliases):
                self._binding.bind_ortvalue_output(output, state[tensor.name])
        (logits,) = [spec for spec in graph.outputs if spec.name == "logits"]
        self._logits: npt.NDArray[np.float32] = np.zeros([int(size) for size in logits.shape], np.float32)
        self._binding.bind_ortvalue_output("logits", ort.OrtValue.ortvalue_from_numpy(self._logits))

    def __call__(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        count = len(ids)
        length = self._graph.tokens if self._graph.fixed else count
        padded = np.zeros((1, length), np.int64)
        padded[0, :count] = ids
        self._feed("input_ids", padded)
        self._feed("position_ids", np.arange(position, position + length)[None])
        self._feed("logit_index", np.array([count - 1]))
        self._feed("kv_len", np.array([position + count]))
        self._feed("attention_mask", np.ones((1, position + count), np.int64))
        self._session.run_with_iobinding(self._binding)
        return self._logits.reshape(-1).copy()

    def _feed(self, name: str, value: npt.NDArray[np.int64]) -> None:
        if name in self._inputs:
            self._binding.bind_cpu_input(name, value)
