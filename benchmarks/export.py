"""Time and peak memory of an ONNX export, verification included, at the paper's sizes.

The checkpoints carry optimizer state and masks, as a training run leaves them: about three times the weights.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile

import edgeqkv
from benchmarks.measure import checkpoint, run, save

CASES = [("300m", "q-k=v+gqa4"), ("1.2b", "q-k=v+gqa8")]
LIMIT = 1.3  # peak memory of the largest process ÷ weights


def main() -> None:
    rows = []
    for scale, variant in CASES:
        source = checkpoint(scale, variant)
        weights = edgeqkv.load(source).weight_bytes
        out = tempfile.mkdtemp(prefix="edgeqkv-export-")
        try:
            command = ["export", str(source), "--target", "onnx", "--out", f"{out}/bundle", "--json"]
            usage = run([sys.executable, "-m", "edgeqkv", *command])
        finally:
            shutil.rmtree(out)
        verification = json.loads(usage.output)["targets"]["onnx"]["verification"]
        rows.append(
            {
                "scale": scale,
                "variant": variant,
                "checkpoint_bytes": source.stat().st_size,
                "weight_bytes": weights,
                "seconds": round(usage.seconds, 1),
                "process_over_weights": round(usage.process_bytes / weights, 3),
                "tree_over_weights": round(usage.tree_bytes / weights, 3),
                "max_abs_error": verification["max_abs_error"],
                "tolerance": verification["tolerance"],
            }
        )
        print(
            f"{scale} {variant}: {usage.seconds:.0f} s, largest process {usage.process_bytes / weights:.2f} × weights, "
            f"all processes {usage.tree_bytes / weights:.2f} ×, largest difference {verification['max_abs_error']:.1e}"
        )
        save("export", rows)
    over = [row["scale"] for row in rows if row["process_over_weights"] >= LIMIT]
    if over:
        sys.exit(f"peak memory is {LIMIT} × the weights or more at {', '.join(over)}")


if __name__ == "__main__":
    main()
