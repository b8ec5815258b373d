"""A process that holds one model in one runtime, and runs it when it is told to; `benchmarks.peers` starts them.

    python -m benchmarks.peer_process KIND FOLDER THREADS SETTING

It reads lines from its input, ``prefill N`` and ``decode FILL COUNT``, and answers each with a line of JSON: the
seconds of a prompt of N tokens, or the milliseconds of COUNT tokens, each behind FILL others and those of its turn. At
first it has filled its context (``ready``), and says what opening the model took of that; at the end, how much memory
it held at most. It imports a runtime and, where that is not edgeqkv, nothing of it: peers have their own environments.
ExecuTorch's own exporter has edgeqkv's, and its program is opened as edgeqkv's are, without what exports in memory.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np

FILLED = (
    0x3C  # every byte of a state that is not filled by feeding it: 0.011 in fp32, of which no product is tiny and slow
)


class Opening:
    """What is taken by what is done inside, which is to open a model: time, and resident memory."""

    def __init__(self) -> None:
        self.found: dict[str, float] = {}

    def __enter__(self) -> None:
        self.found["resident_before_bytes"] = _status("VmRSS")
        self._started, self._processor = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        self.found["load_seconds"] = round(time.perf_counter() - self._started, 3)
        self.found["load_processor_seconds"] = round(time.process_time() - self._processor, 3)
        self.found["resident_after_bytes"] = _status("VmRSS")


OPENING = Opening()


class Held(Protocol):
    """A model in a runtime."""

    def prefill(self, ids: list[int]) -> None:
        """Start anew with a prompt."""

    def at(self, fill: int) -> None:
        """Be ready to take a token behind so many others."""

    def decode(self, token: int) -> None:
        """Take a token, and work out the logits after it."""


class EdgeQkv:
    """An export of edgeqkv's, to any target; ``state``: fill the state's memory instead of feeding tokens."""

    def __init__(self, folder: Path, threads: int, setting: str, fills: list[int]) -> None:
        import ctypes

        from edgeqkv.bundle.manifest import Artifact
        from edgeqkv.run.session import Session

        artifact = Artifact.model_validate_json((folder / "artifact.json").read_text())
        runner: Any
        if artifact.target == "onnx":
            from edgeqkv.backends.onnx.runner import OnnxRunner

            runner = OnnxRunner(folder, artifact, threads=threads)  # which opens a graph when it is called
        else:
            from edgeqkv.backends.executorch.runner import ExecuTorchRunner

            with OPENING:
                runner = ExecuTorchRunner(folder, artifact)
        self._session: Any = Session(artifact, runner)
        if setting == "state":
            for tensor in artifact.state_tensors:
                size = int(np.prod(tensor.shape)) * np.dtype(tensor.numpy_dtype).itemsize
                ctypes.memset(runner.state_addresses[tensor.name], FILLED, size)
        else:
            self._session.feed(np.zeros(max(fills), np.int64))
        self._position = 0

    def prefill(self, ids: list[int]) -> None:
        self._session.reset()
        self._session.feed(ids)

    def at(self, fill: int) -> None:
        self._position = fill

    def decode(self, token: int) -> None:
        self._session._step(np.array([token]), self._position)
        self._position += 1


class LlamaCpp:
    """llama.cpp; the setting is the type of its cache. A state is put back from a copy, as it can only be cut."""

    def __init__(self, folder: Path, threads: int, setting: str, fills: list[int]) -> None:
        import ctypes

        import llama_cpp as api

        self._api, self._ctypes = api, ctypes
        self._quiet = api.llama_log_callback(lambda *_: None)  # kept, as llama.cpp keeps its address
        api.llama_log_set(self._quiet, None)
        api.llama_backend_init()
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = 2048, 512, 512
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = 1
        params.type_k = params.type_v = {"f16": api.GGML_TYPE_F16, "q8_0": api.GGML_TYPE_Q8_0}[setting]
        path = str(folder / "model.gguf").encode()
        with OPENING:
            model = api.llama_model_load_from_file(path, api.llama_model_default_params())
            self._context = api.llama_init_from_model(model, params)
        if not self._context:
            sys.exit("llama.cpp refuses the model")
        self._memory = api.llama_get_memory(self._context)
        self._copies: dict[int, Any] = {}
        done = 0
        for fill in sorted(fills):
            self._feed([0] * (fill - done))
            done = fill
            size = api.llama_state_seq_get_size(self._context, 0)
            self._copies[fill] = (ctypes.c_uint8 * size)()
            api.llama_state_seq_get_data(self._context, self._copies[fill], size, 0)

    def prefill(self, ids: list[int]) -> None:
        self._api.llama_memory_clear(self._memory, True)
        self._feed(ids)

    def at(self, fill: int) -> None:
        copy = self._copies[fill]
        self._api.llama_memory_clear(self._memory, True)
        if not self._api.llama_state_seq_set_data(self._context, copy, len(copy), 0):
            sys.exit("llama.cpp does not take its own state")

    def decode(self, token: int) -> None:
        self._feed([token])
        self._api.llama_get_logits_ith(self._context, -1)

    def _feed(self, ids: list[int]) -> None:
        for start in range(0, len(ids), 512):
            part = ids[start : start + 512]
            array = (self._api.llama_token * len(part))(*part)
            if self._api.llama_decode(self._context, self._api.llama_batch_get_one(array, len(part))):
                sys.exit("llama.cpp cannot decode")


class Genai:
    """onnxruntime-genai: a generator for each fill, as it can be rewound only."""

    def __init__(self, folder: Path, threads: int, setting: str, fills: list[int]) -> None:
        import onnxruntime_genai as og

        path = folder / "genai_config.json"
        config = json.loads(path.read_text())
        config["model"]["decoder"]["session_options"]["intra_op_num_threads"] = threads
        path.write_text(json.dumps(config))
        self._og = og
        with OPENING:
            self._model = og.Model(str(folder))
        self._generators = {}
        for fill in fills:
            self._generators[fill] = self._generator()
            self._generators[fill].append_tokens(np.zeros((1, fill), np.int32))
        self._fill = fills[0]

    def _generator(self) -> Any:
        params = self._og.GeneratorParams(self._model)
        params.set_search_options(max_length=2048, do_sample=False)
        return self._og.Generator(self._model, params)

    def prefill(self, ids: list[int]) -> None:
        self._generator().append_tokens(np.array([ids], np.int32))

    def at(self, fill: int) -> None:
        self._fill = fill
        self._generators[fill].rewind_to(fill - 1)
        self._generators[fill].append_tokens(np.zeros((1, 1), np.int32))

    def decode(self, token: int) -> None:
        self._generators[self._fill].append_tokens(np.array([[token]], np.int32))


class ExecuTorch:
    """A program of ExecuTorch's own exporter."""

    def __init__(self, folder: Path, threads: int, setting: str, fills: list[int]) -> None:
        import torch

        from edgeqkv.backends.executorch._compat import import_runtime, load_llm_operators, use_threads

        self._torch, runtime = torch, import_runtime().Runtime.get()
        with OPENING:
            from executorch.kernels import quantized  # noqa: F401  registers what the program calls

            load_llm_operators()
            use_threads(threads)
            self._program = runtime.load_program(folder / "model.pte")
            self._method = self._program.load_method("forward")
        self._position = 0
        self.prefill([0] * max(fills))

    def prefill(self, ids: list[int]) -> None:
        for start in range(0, len(ids), 128):
            self._call(ids[start : start + 128], start)

    def at(self, fill: int) -> None:
        self._position = fill

    def decode(self, token: int) -> None:
        self._call([token], self._position)
        self._position += 1

    def _call(self, ids: list[int], position: int) -> None:
        self._method.execute((self._torch.tensor([ids]), self._torch.tensor([position])))


class Optimum:
    """optimum-onnx with its own loop of growing keys and values."""

    def __init__(self, folder: Path, threads: int, setting: str, fills: list[int]) -> None:
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._torch = torch
        with OPENING:
            self._model = ORTModelForCausalLM.from_pretrained(folder, session_options=options, use_cache=True)
        self._pasts = {fill: self._call([0] * fill, None) for fill in fills}
        self._past: Any = None

    def prefill(self, ids: list[int]) -> None:
        self._call(ids, None)

    def at(self, fill: int) -> None:
        self._past = self._pasts[fill]

    def decode(self, token: int) -> None:
        self._past = self._call([token], self._past)

    def _call(self, ids: list[int], past: Any) -> Any:
        seen = 0 if past is None else past[0][0].shape[2]
        mask = self._torch.ones(1, seen + len(ids), dtype=self._torch.int64)
        given = self._torch.tensor([ids])
        return self._model(input_ids=given, attention_mask=mask, past_key_values=past, use_cache=True).past_key_values


class Bandwidth:
    """No model: reads as much memory as the setting says, with nothing else to do."""

    def __init__(self, folder: Path, threads: int, setting: str, fills: list[int]) -> None:
        self._numbers = np.random.default_rng(0).standard_normal(int(setting) // 4, np.float32)

    def prefill(self, ids: list[int]) -> None:
        self.decode(0)

    def at(self, fill: int) -> None:
        pass

    def decode(self, token: int) -> None:
        self._numbers.view(np.int64).max()


KINDS = {
    "edgeqkv": EdgeQkv,
    "llama.cpp": LlamaCpp,
    "genai": Genai,
    "executorch": ExecuTorch,
    "optimum": Optimum,
    "bandwidth": Bandwidth,
}


def main() -> None:
    """Hold the model, and do what is asked for."""
    kind, folder, threads, setting, *numbers = sys.argv[1:]
    fills = [int(number) for number in numbers]
    random = np.random.default_rng(0)
    started = time.perf_counter()
    held: Held = KINDS[kind](Path(folder), int(threads), setting, fills)
    _answer({"ready": time.perf_counter() - started, **OPENING.found})
    for line in sys.stdin:
        what, *counts = line.split()
        if what == "prefill":
            ids = random.integers(0, 50304, int(counts[0])).tolist()
            started = time.perf_counter()
            held.prefill(ids)
            _answer({"seconds": time.perf_counter() - started})
        else:
            held.at(int(counts[0]))
            times = []
            for token in random.integers(0, 50304, int(counts[1])).tolist():
                started = time.perf_counter()
                held.decode(token)
                times.append((time.perf_counter() - started) * 1e3)
            _answer({"ms": times[1:]})  # the first finds nothing of its own in the caches
    _answer({"peak_bytes": _status("VmHWM")})


def _status(name: str) -> int:
    """Bytes of this process's memory, by what Linux calls it."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status[name].split()[0]) * 1024


def _answer(line: dict[str, object]) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
