"""ONNX at 300M with int4 weights: merged against separate state, in ONNX Runtime, on one thread.

    python -m benchmarks.decode [--repeats N]

Exports every case, and opens each in a process of its own for its memory. Then one process opens all of them, fills
their states with real tokens, and decodes at several fills, taking turns at every step, so that whatever else the
machine does hits all alike. Random weights: neither time nor memory depends on the values.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

import edgeqkv
from benchmarks.measure import Usage, checkpoint, run, save
from edgeqkv import quantize
from edgeqkv.artifact import Artifact
from edgeqkv.backends import Request, backend
from edgeqkv.backends.onnx.session import OnnxSession
from edgeqkv.extras import installed_version
from edgeqkv.progress import silent
from edgeqkv.quantize.state import with_state


@dataclass(frozen=True)
class Case:
    variant: str
    form: str
    state: str


CASES = {
    "ort, int8 state": Case("q-k=v+gqa4", "ort", "int8"),
    "portable, int8 state": Case("q-k=v+gqa4", "portable", "int8"),
    "ort": Case("q-k=v+gqa4", "ort", "fp32"),
    "portable": Case("q-k=v+gqa4", "portable", "fp32"),
    "separate K and V": Case("qkv+gqa4", "ort", "fp32"),
}
PEER = "separate K and V"
CONTEXT, CHUNK, WEIGHTS = 2048, 128, "int4"
FILLS = (128, 1024, 2000)


def export_all(scratch: Path) -> None:
    """Every case in a folder of its own; needs much memory, so it is done in a process of its own."""
    for variant in dict.fromkeys(case.variant for case in CASES.values()):
        model = edgeqkv.load(checkpoint("300m", variant)).with_context(CONTEXT)
        stored = quantize.apply(model, quantize.Recipe(WEIGHTS))
        for name, case in CASES.items():
            if case.variant == variant:
                folder = scratch / name
                folder.mkdir()
                request = Request(case.form, WEIGHTS, case.state, CONTEXT, CHUNK)
                artifact = backend("onnx").export(with_state(stored, case.state, None), folder, request, silent)
                (folder / "artifact.json").write_text(artifact.model_dump_json())


def opened(folder: Path) -> OnnxSession:
    artifact = Artifact.model_validate_json((folder / "artifact.json").read_text())
    return OnnxSession(folder, artifact, threads=1)


def filled(folder: Path) -> OnnxSession:
    """A session whose state is full."""
    session = opened(folder)
    session.feed(tokens())
    return session


def tokens() -> npt.NDArray[np.int64]:
    return np.random.default_rng(0).integers(0, 50304, CONTEXT)


def memory_of(folder: Path) -> int:
    """Peak resident memory of a process that fills the state, in bytes; PyTorch, which it imports, included."""
    return in_subprocess("--fill", folder).process_bytes


def in_subprocess(command: str, folder: Path) -> Usage:
    """This script in a fresh process, which is charged with nothing that another one took."""
    return run([sys.executable, "-m", "benchmarks.decode", command, str(folder)])


def decode_in_turns(sessions: dict[str, OnnxSession], repeats: int) -> dict[str, dict[int, dict[str, float]]]:
    """Milliseconds a step, by case and fill."""
    ids = tokens()
    times: dict[str, dict[int, list[float]]] = {name: {fill: [] for fill in FILLS} for name in sessions}
    for _ in range(repeats):
        for fill in FILLS:
            for name, session in sessions.items():
                start = time.perf_counter()
                session._step(ids[fill - 1 : fill], fill - 1)
                times[name][fill].append((time.perf_counter() - start) * 1e3)
    return {
        name: {fill: {"min": round(min(ms), 2), "median": round(median(ms), 2)} for fill, ms in fills.items()}
        for name, fills in times.items()
    }


def compare(repeats: int) -> None:
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="edgeqkv-decode-") as folder:
        scratch = Path(folder)
        in_subprocess("--export", scratch)
        memory = {name: memory_of(scratch / name) for name in CASES}
        sessions = {name: filled(scratch / name) for name in CASES}
        times = decode_in_turns(sessions, repeats)
        for name, case in CASES.items():
            files = sum(file.stat().st_size for file in (scratch / name).iterdir() if file.suffix != ".json")
            rows[name] = {
                "variant": case.variant,
                "form": case.form,
                "state": case.state,
                "state_bytes": sessions[name].state_bytes,
                "model_bytes": files,
                "peak_process_bytes": memory[name],
                "decode_ms": times[name],
            }
    last = FILLS[-1]
    for name, row in rows.items():
        shown = " / ".join(f"{row['decode_ms'][fill]['median']:.1f}" for fill in FILLS)
        row["over_peer"] = round(row["decode_ms"][last]["median"] / times[PEER][last]["median"], 3)
        row["state_over_peer"] = row["state_bytes"] / rows[PEER]["state_bytes"]
        print(
            f"{name}: decode {shown} ms at fill {' / '.join(map(str, FILLS))}, at {last} {row['over_peer']} × the "
            f"peer's, state {row['state_bytes'] / 2**20:.0f} MiB, peak {row['peak_process_bytes'] / 1e6:.0f} MB, model "
            f"{row['model_bytes'] / 1e6:.0f} MB"
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
            "rows": rows,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--export", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--fill", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.export:
        export_all(arguments.export)
    elif arguments.fill:
        filled(arguments.fill)
    else:
        compare(arguments.repeats)


if __name__ == "__main__":
    main()
