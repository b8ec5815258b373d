"""A ViT-S/16 (224 px, 12 layers, 6 heads) with and without shared projections: size, export time, latency.

    python -m benchmarks.encoders [--repeats N]

Every case is exported in a process of its own. Then one process opens those that can run here and classifies an image,
taking turns at every step, so that whatever else the machine does hits all alike. Random weights: neither time nor size
depends on the values. Core ML's evaluator proves and does not race: its latency is left out.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.measure import run, save
from edgeqkv.backends import backend
from edgeqkv.backends.onnx.runner import OnnxRunner
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.checkpoints.synthetic_encoders import VIT_S16, write_random_vit
from edgeqkv.run.session import EncoderSession

VARIANTS = ("qkv", "q-k=v", "q=k=v", "qvv3")
TARGETS = {"onnx": ("fp32", "int8"), "executorch": ("fp32", "int8"), "coreml": ("fp16", "int8")}
PEER = "qkv"


def cases() -> list[tuple[str, str, str]]:
    return [(target, weights, variant) for target, each in TARGETS.items() for weights in each for variant in VARIANTS]


def export(scratch: Path, target: str, weights: str, variant: str) -> dict[str, Any]:
    """Export one case by the command line, proof included; the file carries no config, as the authors' does not."""
    checkpoint, out = scratch / f"{variant}.pt", scratch / f"{target}-{weights}-{variant}"
    command = [sys.executable, "-m", "edgeqkv", "export", str(checkpoint), "--heads", "6", "--json"]
    usage = run([*command, "--target", target, "--weights", weights, "--out", str(out)])
    manifest = json.loads(usage.output)
    files = {name: card["bytes"] for name, card in manifest["files"].items() if not name.endswith(".proof.npz")}
    return {
        "parameters": manifest["model"]["parameters"],
        "bytes": sum(files.values()),
        "export_seconds": round(usage.seconds, 1),
        "export_peak_bytes": usage.process_bytes,
        "max_abs_error": manifest["targets"][target]["verification"]["max_abs_error"],
    }


def opened(folder: Path, target: str) -> EncoderSession:
    """A session of one thread, where that can be said: threads that wait for work keep the others' cores busy."""
    artifact = Bundle(folder, check=False).target(target).artifact
    if target == "onnx":
        return EncoderSession(artifact, OnnxRunner(folder, artifact, threads=1))
    return EncoderSession(artifact, backend(target).open(folder, artifact, backend(target).engines[0]))


def compare(scratch: Path, repeats: int) -> dict[tuple[str, str, str], list[float]]:
    """Milliseconds of each call, interleaved."""
    sessions = {case: opened(scratch / "-".join(case), case[0]) for case in cases() if case[0] != "coreml"}
    image = np.random.default_rng(0).normal(size=(1, 3, 224, 224)).astype(np.float32)
    times: dict[tuple[str, str, str], list[float]] = {case: [] for case in sessions}
    for session in sessions.values():
        session.run(image)
    order = list(sessions)
    for _ in range(repeats):
        random.shuffle(order)  # whom one follows would count otherwise
        for case in order:
            session = sessions[case]
            started = time.perf_counter()
            session.run(image)
            times[case].append(1e3 * (time.perf_counter() - started))
    return times


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeqkv-encoders-") as folder:
        scratch = Path(folder)
        for variant in VARIANTS:
            write_random_vit(scratch / f"{variant}.pt", variant, config=False, **VIT_S16)
        rows = {case: export(scratch, *case) for case in cases()}
        times = compare(scratch, arguments.repeats)
    results = []
    for (target, weights, variant), row in rows.items():
        peer = rows[target, weights, PEER]
        told = {
            "target": target,
            "weights": weights,
            "variant": variant,
            **row,
            "bytes_over_qkv": row["bytes"] / peer["bytes"],
        }
        line = (
            f"{target:10} {weights:5} {variant:6} {row['bytes'] / 1e6:6.1f} MB ({told['bytes_over_qkv']:.3f} × qkv's), "
        )
        line += f"export {row['export_seconds']:5.1f} s"
        if (target, weights, variant) in times:
            mine, theirs = times[target, weights, variant], times[target, weights, PEER]
            # Of the same round, so that a slow stretch of the machine falls out.
            told |= {
                "ms_median": round(median(mine), 2),
                "ms_least": round(min(mine), 2),
                "ms_over_qkv": round(median(a / b for a, b in zip(mine, theirs, strict=True)), 3),
            }
            line += f", {told['ms_median']:6.1f} ms ({told['ms_over_qkv']:.3f} × qkv's)"
        print(line, flush=True)
        results.append(told)
    save("encoders", {"repeats": arguments.repeats, "rows": results})


if __name__ == "__main__":
    main()
