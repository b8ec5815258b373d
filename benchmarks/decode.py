"""ONNX at 300M with int4 weights: merged against separate state, in ONNX Runtime, on one thread.

    python -m benchmarks.decode [--repeats N]

Exports every case, and watches each in a process of its own that loads it, fills its context and decodes. Then every
case has another process, which fills its state with real tokens; they decode some tokens at several fills, one process
at a time, taking turns in another order each time, so that whatever else the machine does hits all alike. Random
weights: neither time nor memory depends on the values.

Memory is the process's largest resident size. What it holds whatever the model is measured with the demo model, whose
own weights and state are a MB, and taken off: "over" is what is left, divided by the files and the state.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeqkv
from benchmarks.measure import checkpoint, run, save
from edgeqkv import demo, quantize
from edgeqkv.backends import backend
from edgeqkv.backends.onnx.runner import OnnxRunner
from edgeqkv.backends.target import TargetSpec
from edgeqkv.budget.measure import Measurement, measure
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.extras import installed_version
from edgeqkv.model.model import Model
from edgeqkv.progress import silent
from edgeqkv.quantize.state import with_state
from edgeqkv.run.session import Session


@dataclass(frozen=True)
class Case:
    variant: str
    form: str
    state: str
    engine: str = "onnxruntime"


CASES = {
    "portable, int8 state": Case("q-k=v+gqa4", "portable", "int8"),
    "static, int8 state": Case("q-k=v+gqa4", "static", "int8"),
    "ort, int8 state": Case("q-k=v+gqa4", "ort", "int8"),
    "ort, int8 state, exact": Case("q-k=v+gqa4", "ort", "int8", "exact"),
    "ort": Case("q-k=v+gqa4", "ort", "fp32"),
    "portable": Case("q-k=v+gqa4", "portable", "fp32"),
    "separate K and V": Case("qkv+gqa4", "ort", "fp32"),
}
PEER = "separate K and V"
CONTEXT, CHUNK, WEIGHTS = 2048, 128, "int4"
FILLS = (128, 1024, 2000)
TOKENS = 9  # a turn


def export_all(scratch: Path) -> None:
    """Every case in a folder of its own; needs much memory, so it is done in a process of its own."""
    for variant in dict.fromkeys(case.variant for case in CASES.values()):
        model = edgeqkv.load(checkpoint("300m", variant)).with_context(CONTEXT)
        stored = quantize.apply(model, quantize.QuantConfig(WEIGHTS))
        for name, case in CASES.items():
            if case.variant == variant:
                export_case(stored, case, scratch / name)


def export_case(stored: Model, case: Case, folder: Path) -> Artifact:
    folder.mkdir()
    spec = TargetSpec(case.form, WEIGHTS, case.state, stored.config.positions, CHUNK)
    artifact = backend("onnx").export(with_state(stored, case.state, None), folder, spec, silent)
    (folder / "artifact.json").write_text(artifact.model_dump_json())
    return artifact


def artifact_in(folder: Path) -> Artifact:
    return Artifact.model_validate_json((folder / "artifact.json").read_text())


def opened(folder: Path, engine: str) -> Session:
    artifact = artifact_in(folder)
    return Session(artifact, OnnxRunner(folder, artifact, engine, threads=1))


def tokens() -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 50304, CONTEXT)


def runtime_alone(scratch: Path) -> Measurement:
    """A process that runs the demo model: next to nothing but Python, ONNX Runtime and a session."""
    stored = quantize.apply(edgeqkv.load(demo.checkpoint_path()), quantize.QuantConfig(WEIGHTS))
    folder = scratch / "demo"
    return measure(folder, export_case(stored, CASES["ort, int8 state"], folder))


def serve(folder: Path, engine: str, turns: Connection) -> None:
    """A process of its own: fills a state, then decodes whenever it is its turn, and answers with milliseconds."""
    session = opened(folder, engine)
    ids = tokens()
    session.feed(ids)
    turns.send([])
    while fill := turns.recv():
        times = []
        for position in range(fill, fill + TOKENS):
            start = time.perf_counter()
            session._step(ids[position : position + 1], position)
            times.append((time.perf_counter() - start) * 1e3)
        turns.send(times[1:])  # the first finds nothing of its own in the caches


def decode_in_turns(scratch: Path, repeats: int) -> dict[str, dict[int, dict[str, float]]]:
    """Milliseconds a token, by case and fill. Only one process works at a time."""
    context = get_context("spawn")
    times: dict[str, dict[int, list[float]]] = {name: {fill: [] for fill in FILLS} for name in CASES}
    ends: dict[str, Connection] = {}
    processes = []
    for name, case in CASES.items():
        ends[name], theirs = context.Pipe()
        processes.append(context.Process(target=serve, args=(scratch / name, case.engine, theirs)))
        processes[-1].start()
        ends[name].recv()
    order = random.Random(0)
    for _ in range(repeats):
        for fill in FILLS:
            for name in order.sample(list(CASES), len(CASES)):
                ends[name].send(fill)
                times[name][fill] += ends[name].recv()
    for end, process in zip(ends.values(), processes, strict=True):
        end.send(0)
        process.join()
    return {
        name: {fill: {"min": round(min(ms), 2), "median": round(median(ms), 2)} for fill, ms in fills.items()}
        for name, fills in times.items()
    }


def compare(repeats: int) -> None:
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edgeqkv-decode-") as folder:
        scratch = Path(folder)
        run([sys.executable, "-m", "benchmarks.decode", "--export", str(scratch)])
        alone = runtime_alone(scratch)
        memory = {
            name: measure(scratch / name, artifact_in(scratch / name), engine=case.engine)
            for name, case in CASES.items()
        }
        times = decode_in_turns(scratch, repeats)
        for name, case in CASES.items():
            files = sum(file.stat().st_size for file in (scratch / name).iterdir() if file.suffix != ".json")
            state_bytes = artifact_in(scratch / name).state_bytes
            rows[name] = {
                "variant": case.variant,
                "form": case.form,
                "state": case.state,
                "engine": case.engine,
                "state_bytes": state_bytes,
                "model_bytes": files,
                "peak_process_bytes": memory[name].peak,
                "peak_anonymous_bytes": max(phase.anonymous for phase in memory[name].phases.values()),
                "over_files_and_state": round((memory[name].peak - alone.peak) / (files + state_bytes), 3),
                "decode_ms": times[name],
            }
    last = FILLS[-1]
    for name, row in rows.items():
        shown = " / ".join(f"{row['decode_ms'][fill]['median']:.1f}" for fill in FILLS)
        row["over_peer"] = round(row["decode_ms"][last]["median"] / times[PEER][last]["median"], 3)
        row["state_over_peer"] = row["state_bytes"] / rows[PEER]["state_bytes"]
        print(
            f"{name}: decode {shown} ms at fill {' / '.join(map(str, FILLS))}, at {last} {row['over_peer']} × the "
            f"peer's, state {row['state_bytes'] / 1e6:.1f} MB, model {row['model_bytes'] / 1e6:.0f} MB, peak "
            f"{row['peak_process_bytes'] / 1e6:.0f} MB, {row['over_files_and_state']} × both over the runtime's own"
        )
    save(
        "decode",
        {
            "scale": "300m",
            "weights": WEIGHTS,
            "context": CONTEXT,
            "threads": 1,
            "repeats": repeats,
            "onnxruntime": installed_version("onnxruntime"),
            "peer": PEER,
            "runtime_bytes": alone.peak,
            "rows": rows,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        export_all(arguments.export)
    else:
        compare(arguments.repeats)


if __name__ == "__main__":
    main()
