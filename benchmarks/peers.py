"""Against what people use: llama.cpp, onnxruntime-genai's builder, ExecuTorch's export_llm and optimum-onnx, at 300M.

    python -m benchmarks.peers [--install] [--repeats N] [--few] [--peers NAME …] [--rows PART …] [--folder DIR]
                              [--threads N] [--layers N] [--results NAME]

The merged model of the paper's shape in int4, and a Llama of as many weights, which is what the others run; and the
same model with separate keys and values in the same forms with the same states, which is what sharing alone changes.
Every row has a process of its own (`benchmarks.peer_process`); one works at a time, and they take turns in another
order each time, so that whatever else the machine does hits all alike. A row that only reads memory takes turns too.

``--install`` puts llama.cpp, built from its source package, into ``.venv-peers`` and, if it is asked for, optimum-onnx
into ``.venv-optimum``; the other two are in this environment (``[all,dev]``). Models are made once and kept in the
folder. Peers run as they come, and llama.cpp once more with huge pages, which edgeqkv's sessions ask for. optimum-onnx
writes float32: its exporter knows no int4. With ``--layers 1`` all of it is tried in little time, and no results are
written; ``--results`` keeps those of a run of other rows in a file of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

from benchmarks.measure import save
from benchmarks.peer_exports import MADE, OWN, Made, Own, export_own
from benchmarks.peer_ratios import ratios
from edgeqkv.threads import threads_environment

FILLS: Final = {2048: (128, 1024, 2000), 8192: (128, 2000, 8000)}
LAYERS: Final = 20
TOKENS: Final = 9  # a turn
PROMPT: Final = 512
READ_BYTES: Final = 160_000_000  # about what a token reads

HUGE_PAGES: Final = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
ROOT: Final = Path(__file__).parent.parent


@dataclass(frozen=True)
class Row:
    """A process: which runtime, which files, and how.

    Attributes:
        kind: a key of `benchmarks.peer_process.KINDS`.
        folder: where its files lie, in the folder of all.
        setting: what the kind makes of it.
        context: positions that there is room for, on which it depends where it is measured.
        python: whose environment it runs in.
        environment: of the process.
    """

    kind: str
    folder: str
    setting: str = ""
    context: int = 2048
    python: str = sys.executable
    environment: tuple[tuple[str, str], ...] = ()


LLAMA_PYTHON: Final = str(ROOT / ".venv-peers/bin/python")
OPTIMUM_PYTHON: Final = str(ROOT / ".venv-optimum/bin/python")

PEERS: Final[Mapping[str, Row]] = {
    "llama.cpp, f16": Row("llama.cpp", "gguf", "f16", python=LLAMA_PYTHON),
    "llama.cpp, f16, huge pages": Row(
        "llama.cpp", "gguf", "f16", python=LLAMA_PYTHON, environment=tuple(HUGE_PAGES.items())
    ),
    "llama.cpp, q8_0": Row("llama.cpp", "gguf", "q8_0", python=LLAMA_PYTHON),
    "genai builder": Row("genai", "genai"),
    "export_llm": Row("executorch", "export_llm-32", "32"),
    "export_llm, groups of 128": Row("executorch", "export_llm-128", "128"),
    "optimum-onnx": Row("optimum", "optimum", python=OPTIMUM_PYTHON),
}
ASKED_FOR: Final = ("optimum-onnx", "export_llm, groups of 128")
DEFAULT_PEERS: Final = tuple(name for name in PEERS if name not in ASKED_FOR)
FEW: Final = (
    "portable, fp32 state",
    "portable, int8 state",
    "portable, fp32 state, separate",
    "portable, int8 state, separate",
    "llama.cpp, f16",
    "genai builder",
)
BANDWIDTH: Final = "reading memory"


class Process:
    """A row's process; its answers are lines of JSON."""

    def __init__(self, row: Row, folder: Path, threads: int) -> None:
        # As a module: beside a script in this folder, `executorch` would be the benchmark of that name.
        command = [row.python, "-m", "benchmarks.peer_process", row.kind, str(folder / row.folder)]
        command += [str(threads), row.setting, *map(str, FILLS[row.context])]
        environment = {**os.environ, **threads_environment(threads), "PYTHONPATH": str(ROOT), **dict(row.environment)}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)
        self.opened = self._answer()
        self.ready_seconds = float(self.opened.pop("ready"))

    def ask(self, line: str) -> dict[str, Any]:
        """Its answer to a line."""
        to = self._process.stdin
        assert to is not None
        to.write(f"{line}\n")
        to.flush()
        return self._answer()

    def end(self) -> int:
        """The most memory that it held, in bytes."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        peak = int(self._answer()["peak_bytes"])
        self._process.wait()
        return peak

    def _answer(self) -> dict[str, Any]:
        output: IO[str] | None = self._process.stdout
        assert output is not None
        for line in output:
            if line.startswith("{"):  # runtimes print as well
                answer: dict[str, Any] = json.loads(line)
                return answer
        sys.exit(f"{self._process.args} ended early")


def run(*command: object, folder: Path | None = None, **environment: str) -> Made:
    """A command, which has to succeed; ``folder`` is where it leaves what nobody asked for."""
    print("$", *command, flush=True)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([str(part) for part in command], check=True, env={**os.environ, **environment}, cwd=folder)
    after, seconds = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Made(round(seconds, 1), round(processor, 1))


def install(peers: list[str]) -> None:
    """What is not in this environment, into environments of its own."""
    if any(PEERS[name].kind == "llama.cpp" for name in peers) and not Path(LLAMA_PYTHON).exists():
        run(sys.executable, "-m", "venv", ROOT / ".venv-peers")
        run(LLAMA_PYTHON, "-m", "pip", "install", "--quiet", "cmake", "ninja", "gguf")
        built = "--no-binary=llama-cpp-python"
        run(LLAMA_PYTHON, "-m", "pip", "install", built, "llama-cpp-python", CMAKE_ARGS="-DLLAVA_BUILD=OFF")
    if any(PEERS[name].kind == "optimum" for name in peers) and not Path(OPTIMUM_PYTHON).exists():
        run(sys.executable, "-m", "venv", ROOT / ".venv-optimum")
        run(OPTIMUM_PYTHON, "-m", "pip", "install", "--quiet", "optimum-onnx[onnxruntime]", "torch>=2.13,<2.14")


def make_peers(folder: Path, peers: list[str], layers: int) -> None:
    """The files of the peers, each once."""
    environment = {"PYTHONPATH": str(ROOT)}
    module = [sys.executable, "-m", "benchmarks.peer_models"]
    kinds = {PEERS[name].kind for name in peers}
    if kinds & {"genai", "optimum"} and not (folder / "directory/tokenizer_config.json").exists():
        run(*module, "directory", folder / "directory", layers, **environment)
    if "llama.cpp" in kinds and not (folder / "gguf/model.gguf").exists():
        run(LLAMA_PYTHON, *module[1:], "gguf", folder / "gguf", layers, **environment)
    if "genai" in kinds and not (folder / "genai/genai_config.json").exists():
        builder = [sys.executable, "-m", "onnxruntime_genai.models.builder", "-i", folder / "directory"]
        options = ["-p", "int4", "-e", "cpu", "-c", folder / "cache"]
        extra = ["--extra_options", "int4_block_size=32", "int4_accuracy_level=4"]
        run(*builder, "-o", folder / "genai", *options, *extra).write(folder / "genai")
    for row in (PEERS[name] for name in peers if PEERS[name].kind == "executorch"):
        if not (folder / row.folder / "model.pte").exists():
            make_program(folder, row, layers)
    if "optimum" in kinds and not (folder / "optimum/config.json").exists():
        task = ["--task", "text-generation-with-past"]
        exporter = [OPTIMUM_PYTHON, "-m", "optimum.commands.optimum_cli", "export", "onnx"]
        run(*exporter, "--model", folder / "directory", *task, folder / "optimum").write(folder / "optimum")


def make_program(folder: Path, row: Row, layers: int) -> None:
    """A program of ExecuTorch's own exporter.

    In groups of 128, which its own configuration for Llama has, it leaves matrices in float32 whose columns that does
    not divide, here a third of each layer's gated MLP.
    """
    if not (folder / "llama/params.json").exists():
        run(sys.executable, "-m", "benchmarks.peer_models", "llama", folder / "llama", layers, PYTHONPATH=str(ROOT))
    made = folder / row.folder
    made.mkdir(exist_ok=True)
    given = {
        "base.checkpoint": folder / "llama/consolidated.pth",
        "base.params": folder / "llama/params.json",
        "model.use_kv_cache": True,
        "model.use_sdpa_with_kv_cache": True,
        "model.dtype_override": "fp32",
        "quantization.qmode": "8da4w",
        "quantization.group_size": row.setting,
        "quantization.embedding_quantize": "'4,32'",
        "backend.xnnpack.enabled": True,
        "backend.xnnpack.extended_ops": True,
        "export.max_seq_length": 2048,
        "export.max_context_length": 2048,
        "export.output_name": made / "model.pte",
    }
    options = [f"{key}={value}" for key, value in given.items()]
    exporter = [sys.executable, "-m", "executorch.extension.llm.export.export_llm"]
    run(*exporter, *options, folder=made).write(made)


def measured(rows: Mapping[str, Row], folder: Path, repeats: int, threads: int) -> dict[str, Any]:
    """Every row: milliseconds a token by fill, seconds of a prompt, load time and peak memory."""
    processes = {}
    for name, row in rows.items():
        processes[name] = Process(row, folder, threads)
        print(f"{name} is ready after {processes[name].ready_seconds:.0f} s", flush=True)
    decode: dict[str, dict[int, list[float]]] = {name: {f: [] for f in FILLS[rows[name].context]} for name in rows}
    prefill: dict[str, list[float]] = {name: [] for name in rows}
    order = random.Random(0)
    for turn in range(repeats):
        for index in range(len(FILLS[2048])):
            for name in order.sample(list(rows), len(rows)):
                fill = FILLS[rows[name].context][index]
                decode[name][fill] += processes[name].ask(f"decode {fill} {TOKENS}")["ms"]
        if turn % 5 == 0:
            for name in order.sample(list(rows), len(rows)):
                if rows[name].context == 2048:
                    prefill[name].append(processes[name].ask(f"prefill {PROMPT}")["seconds"])
    found = {}
    for name, process in processes.items():
        files = [file for file in (folder / rows[name].folder).rglob("*") if file.is_file() and file.suffix != ".json"]
        found[name] = {
            "export": made(folder / rows[name].folder),
            "ready_seconds": round(process.ready_seconds, 2),
            **process.opened,
            "decode_ms": {
                fill: {"min": round(min(ms), 2), "median": round(median(ms), 2)} for fill, ms in decode[name].items()
            },
            "prefill_seconds": {"min": round(min(prefill[name]), 3), "median": round(median(prefill[name]), 3)}
            if prefill[name]
            else None,
            "peak_process_bytes": process.end(),
            "file_bytes": sum(file.stat().st_size for file in files),
        }
    return found


def made(folder: Path) -> dict[str, float] | None:
    """What the export of a row took; None if nobody measured it."""
    path = folder / MADE
    return json.loads(path.read_text()) if path.exists() else None


def own_rows(chosen: Mapping[str, Own]) -> dict[str, Row]:
    """The rows of edgeqkv's exports. Long contexts are not fed: their state is memory that something was written to."""
    return {
        name: Row("edgeqkv", own.folder, "state" if own.context > 2048 else "", own.context)
        for name, own in chosen.items()
    }


def main() -> None:
    """Make what is missing, measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", action="store_true", help="put peers into environments of their own")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--few", action="store_true", help="the rows of the README alone")
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(DEFAULT_PEERS))
    parser.add_argument("--rows", nargs="+", help="of edgeqkv's own, these, or whose names have these")
    parser.add_argument("--folder", type=Path, help="Default: build/peers-LAYERS")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--results", default="peers", help="the file in benchmarks/results, without .json")
    parser.add_argument("--export", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.export:
        export_own({name: OWN[name] for name in options.export}, options.folder, options.layers)
        return
    own = {name: each for name, each in OWN.items() if not options.few or name in FEW}
    if options.rows:
        own = {
            name: each
            for name, each in own.items()
            if any(part == name or (part not in OWN and part in name) for part in options.rows)
        }
    peers = [name for name in options.peers if not options.few or name in FEW]
    folder: Path = (options.folder or ROOT / f"build/peers-{options.layers}").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if options.install:
        install(peers)
    if missing := [name for name, each in own.items() if not (folder / each.folder / "artifact.json").exists()]:
        # In a process of its own, whose memory no other has to share.
        given = ["--folder", folder, "--layers", options.layers]
        run(sys.executable, "-m", "benchmarks.peers", *given, "--export", *missing)
    make_peers(folder, peers, options.layers)
    rows = {**own_rows(own), **{name: PEERS[name] for name in peers}}
    rows[BANDWIDTH] = Row("bandwidth", "nothing", str(READ_BYTES))
    found = measured(rows, folder, options.repeats, options.threads)
    for name, each in found.items():
        shown = "  ".join(f"{fill}: {ms['min']:.1f} ({ms['median']:.1f})" for fill, ms in each["decode_ms"].items())
        prompt = f", prompt {each['prefill_seconds']['min']:.2f} s" if each["prefill_seconds"] else ""
        load = f", load {each['load_seconds']:.1f} s" if "load_seconds" in each else ""
        export = f", export {each['export']['seconds']:.0f} s" if each["export"] else ""
        print(f"{name}: ms at {shown}{prompt}{load}, peak {each['peak_process_bytes'] / 1e6:.0f} MB{export}")
    bandwidth = READ_BYTES / 1e6 / min(ms["min"] for ms in found[BANDWIDTH]["decode_ms"].values())
    compared = ratios(found, {name: own[name] for name in own}, bandwidth)
    for line in compared:
        print(line["text"])
    if options.layers == LAYERS:
        save(
            options.results,
            {
                "threads": options.threads,
                "repeats": options.repeats,
                "bandwidth_gb_per_second": round(bandwidth, 1),
                "rows": found,
                "ratios": compared,
            },
        )


if __name__ == "__main__":
    main()
