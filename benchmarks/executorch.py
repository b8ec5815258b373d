"""ExecuTorch at 300M: merged K/V state, in fp32 and int8, against separate, the same model otherwise (4 KV heads).

    python -m benchmarks.executorch [--repeats N]

Exports each in a process of its own, which measures its time and peak memory. Then one process opens all files
on one thread, fills their states with real tokens, and decodes at several fills, taking turns at every step, so
that whatever else the machine does hits all alike. Random weights: neither time nor memory depends on the values.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import checkpoint, save
from edgeqkv.backends.executorch import TARGET
from edgeqkv.backends.target import TargetSpec
from edgeqkv.bundle.manifest import Artifact
from edgeqkv.checkpoints import load
from edgeqkv.extras import installed_version
from edgeqkv.quantize.state import with_state
from edgeqkv.run.session import open_artifact

CASES = {"merged": ("q-k=v+gqa4", "fp32"), "int8": ("q-k=v+gqa4", "int8"), "separate": ("qkv+gqa4", "fp32")}
FILLS = (128, 1024, 2000)
PREFILL_FILLS = (0, 1792)
CHUNK = 128


def export_one(source: Path, state: str, directory: Path) -> dict[str, Any]:
    """Export one checkpoint in this process: seconds, and its peak memory beside that of the imports alone."""
    peaks: dict[str, int] = {}

    def report(stage: str, fraction: float | None = None) -> None:
        peaks.setdefault(stage, peak_bytes())

    model = load(source)
    context = model.config.positions
    model = with_state(model.with_context(context).with_weights("fp32"), state, None)
    spec = TargetSpec(form="stock", weights="fp32", state=state, context=context, chunk=CHUNK)
    start = time.perf_counter()
    artifact = TARGET.export(model, directory, spec, report)
    seconds = time.perf_counter() - start
    (directory / "artifact.json").write_text(artifact.model_dump_json())
    return {
        "file_bytes": (directory / artifact.graphs[0].file).stat().st_size,
        "weight_bytes": model.weight_bytes,
        "shared_bytes": artifact.details["shared_bytes"],
        "state_bytes": artifact.state_bytes,
        "planned_memory_bytes": artifact.details["planned_memory_bytes"],
        "export_seconds": round(seconds, 1),
        "export_peak_bytes": peak_bytes(),
        "peak_before_export_bytes": min(peaks.values()),
    }


def decode_all(directories: dict[str, Path], repeats: int) -> dict[str, Any]:
    """Milliseconds a step by fill, for every file, taking turns; on one thread."""
    from executorch.extension.pybindings import portable_lib

    # Before anything is loaded: what XNNPACK has loaded keeps the threads that it found.
    portable_lib._unsafe_reset_threadpool(1)
    sessions = {}
    for name, directory in directories.items():
        artifact = Artifact.model_validate_json((directory / "artifact.json").read_text())
        sessions[name] = open_artifact(directory, artifact, "executorch")
    tokens = np.random.default_rng(0).integers(0, 50304, 2048)
    for session in sessions.values():
        session.feed(tokens)
    result: dict[str, Any] = {name: {"decode_ms": {}, "prefill_ms": {}} for name in sessions}
    for kind, fills, count in (("decode_ms", FILLS, 1), ("prefill_ms", PREFILL_FILLS, CHUNK)):
        for fill in fills:
            times: dict[str, list[float]] = {name: [] for name in sessions}
            for _ in range(repeats if count == 1 else max(3, repeats // 5)):
                for name, session in sessions.items():
                    start = time.perf_counter()
                    session._step(tokens[fill : fill + count], fill)
                    times[name].append((time.perf_counter() - start) * 1e3)
            for name, values in times.items():
                result[name][kind][fill] = {"min": round(min(values), 1), "median": round(median(values), 1)}
    return result


def peak_bytes() -> int:
    """This process's peak resident memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def in_subprocess(*arguments: str) -> Any:
    """Run this script with a hidden command in a fresh process; what it printed as JSON."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.executorch", *arguments],
        cwd=Path(__file__).parents[1],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run everything, print a table, write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    repeats: int = parser.parse_args().repeats
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="edgeqkv-executorch-") as scratch:
        directories = {name: Path(scratch) / name for name in CASES}
        for name, (variant, state) in CASES.items():
            directories[name].mkdir()
            source = checkpoint("300m", variant)
            measured = in_subprocess("export", str(source), state, str(directories[name]))
            rows[name] = {"variant": variant, "state": state, **measured}
        speeds = in_subprocess("decode", str(repeats), *(f"{n}={d}" for n, d in directories.items()))
    for name, row in rows.items():
        row.update(speeds[name])
    versions = {package: installed_version(package) for package in ("executorch", "torch")}
    save("executorch", {"model": "300m", "threads": 1, "versions": versions, "rows": rows})
    print_table(rows)


def print_table(rows: dict[str, Any]) -> None:
    """The results, a column a variant."""
    print(f"{'':32}" + "".join(f"{name:>16}" for name in rows))
    for key in ("file_bytes", "shared_bytes", "state_bytes", "planned_memory_bytes", "export_peak_bytes"):
        print(f"{key.removesuffix('_bytes') + ' MB':32}" + "".join(f"{row[key] / 1e6:16.1f}" for row in rows.values()))
    print(f"{'export s':32}" + "".join(f"{row['export_seconds']:16.1f}" for row in rows.values()))
    for kind in ("decode_ms", "prefill_ms"):
        for fill in next(iter(rows.values()))[kind]:
            cells = (f"{row[kind][fill]['min']:.1f} / {row[kind][fill]['median']:.1f}" for row in rows.values())
            print(f"{f'{kind} at {fill}, min / median':32}" + "".join(f"{cell:>16}" for cell in cells))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["export", source, state, directory]:
            print(json.dumps(export_one(Path(source), state, Path(directory))))
        case ["decode", repeats, *pairs]:
            chosen = {name: Path(path) for name, path in (pair.split("=", 1) for pair in pairs)}
            print(json.dumps(decode_all(chosen, int(repeats))))
        case _:
            main()
