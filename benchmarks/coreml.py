"""A Core ML export at 300M: time, peak memory, size, and how fast the evaluator runs what was saved.

    python -m benchmarks.coreml [CHECKPOINT]

Without a checkpoint, a random one is made. Nothing here says how fast a device is.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import edgeqkv
from benchmarks.measure import checkpoint, run, save

SCALE, VARIANT = "300m", "q-k=v+gqa4"
FORMS = ("linear", "conv")
CHUNK = 128
MOST_SECONDS, MOST_MEMORY = 60, 2.0  # the latter × the weights in fp32


def main() -> None:
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else checkpoint(SCALE, VARIANT)
    weights = edgeqkv.load(source).weight_bytes
    rows = [measure_form(source, form, weights) for form in FORMS]
    save("coreml", rows)
    for row in rows:
        print(
            f"{row['form']}: exported in {row['export_seconds']} s with {row['process_over_fp32_weights']} × the fp32 "
            f"weights, {row['package_bytes'] / 1e6:.1f} MB; evaluator: {row['prefill_cpu_seconds']} CPU-seconds for a "
            f"chunk of {CHUNK}, {row['decode_cpu_seconds']} for a token"
        )
    over = [
        row["form"]
        for row in rows
        if row["export_seconds"] >= MOST_SECONDS or row["process_over_fp32_weights"] >= MOST_MEMORY
    ]
    if over:
        sys.exit(f"over {MOST_SECONDS} s or {MOST_MEMORY} × the fp32 weights: {', '.join(over)}")


def measure_form(source: Path, form: str, weights: int) -> dict[str, Any]:
    """Export in a fresh process, then run the package in another."""
    out = Path(tempfile.mkdtemp(prefix="edgeqkv-coreml-"))
    try:
        bundle = out / "bundle"
        command = ["export", str(source), "--target", "coreml", "--form", form, "--chunk", str(CHUNK)]
        exported = run([sys.executable, "-m", "edgeqkv", *command, "--out", str(bundle), "--no-verify", "--json"])
        package = bundle / "model.mlpackage"
        size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
        ran = run([sys.executable, "-m", "benchmarks.coreml", "--evaluate", str(package)])
    finally:
        shutil.rmtree(out)
    return {
        "scale": SCALE,
        "variant": VARIANT,
        "form": form,
        "fp32_weight_bytes": weights,
        "export_seconds": round(exported.seconds, 1),
        "export_process_bytes": exported.process_bytes,
        "process_over_fp32_weights": round(exported.process_bytes / weights, 3),
        "package_bytes": size,
        "evaluator_process_bytes": ran.process_bytes,
        **json.loads(ran.output),
    }


def evaluate(package: Path) -> dict[str, float]:
    """CPU-seconds of a call in the evaluator, on one thread, at the start of the context; medians of a few."""
    import torch

    from edgeqkv.mil.evaluator import Evaluator

    torch.set_num_threads(1)
    prefill = Evaluator(package, "prefill")
    decode = prefill.for_function("decode")
    state = prefill.new_state()
    tokens = np.random.default_rng(0).integers(0, 50304, (1, CHUNK)).astype(np.int32)
    position = 0

    def seconds(evaluator: Evaluator, ids: np.ndarray[Any, Any]) -> float:
        nonlocal position
        started = time.process_time()
        evaluator.run({"input_ids": ids, "position": np.array([position], np.int32)}, state)
        position += ids.shape[1]
        return time.process_time() - started

    seconds(prefill, tokens)
    return {
        "prefill_cpu_seconds": round(median(seconds(prefill, tokens) for _ in range(3)), 2),
        "decode_cpu_seconds": round(median(seconds(decode, tokens[:, :1]) for _ in range(8)), 2),
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--evaluate"]:
        print(json.dumps(evaluate(Path(sys.argv[2]))))
    else:
        main()
