"""Time and peak memory of an export, verification of the whole context included, at the paper's sizes.

The checkpoints carry optimizer state and masks, as a training run leaves them: about three times the weights.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile

import edgeqkv
from benchmarks.measure import checkpoint, run, save

CASES = [
    ("300m", "q-k=v+gqa4", "onnx", "fp32"),
    ("1.2b", "q-k=v+gqa8", "onnx", "fp32"),
    ("300m", "q-k=v+gqa4", "onnx", "int4"),
    ("300m", "q-k=v+gqa4", "coreml", "int4"),
]
LIMIT = 1.3  # peak memory of the largest process ÷ weights, for fp32
MOST_SECONDS, MOST_BYTES = 60, 1.3e9  # for int4


def main() -> None:
    rows = []
    for scale, variant, target, weights in CASES:
        source = checkpoint(scale, variant)
        fp32_bytes = edgeqkv.load(source).weight_bytes
        out = tempfile.mkdtemp(prefix="edgeqkv-export-")
        try:
            command = [
                "export",
                str(source),
                "--target",
                target,
                "--weights",
                weights,
                "--out",
                f"{out}/bundle",
                "--json",
            ]
            usage = run([sys.executable, "-m", "edgeqkv", *command])
        finally:
            shutil.rmtree(out)
        manifest = json.loads(usage.output)
        verification = manifest["targets"][target]["verification"]
        rows.append(
            {
                "scale": scale,
                "variant": variant,
                "target": target,
                "weights": weights,
                "checkpoint_bytes": source.stat().st_size,
                "fp32_weight_bytes": fp32_bytes,
                "bundle_bytes": sum(card["bytes"] for card in manifest["files"].values()),
                "seconds": round(usage.seconds, 1),
                "largest_process_bytes": usage.process_bytes,
                "all_processes_bytes": usage.tree_bytes,
                "largest_process_over_fp32_weights": round(usage.process_bytes / fp32_bytes, 3),
                "all_processes_over_fp32_weights": round(usage.tree_bytes / fp32_bytes, 3),
                "max_abs_error": verification["max_abs_error"],
                "tolerance": verification["tolerance"],
            }
        )
        fp32 = f"{usage.process_bytes / fp32_bytes:.2f} × the fp32 weights"
        print(
            f"{scale} {variant} {target} {weights}: {usage.seconds:.0f} s, largest process "
            f"{usage.process_bytes / 1e9:.2f} GB ({fp32}), all processes {usage.tree_bytes / 1e9:.2f} GB, largest "
            f"difference {verification['max_abs_error']:.1e}"
        )
        save("export", rows)
    ratios = {row["scale"]: row["largest_process_over_fp32_weights"] for row in rows if row["weights"] == "fp32"}
    over = [scale for scale, ratio in ratios.items() if ratio >= LIMIT]
    if over:
        sys.exit(f"peak memory is {LIMIT} × the weights or more at {', '.join(over)}")
    for row in rows:
        if row["weights"] == "int4" and (row["seconds"] > MOST_SECONDS or row["largest_process_bytes"] > MOST_BYTES):
            sys.exit(f"{row['target']} int4 takes more than {MOST_SECONDS} s or {MOST_BYTES / 1e9} GB")


if __name__ == "__main__":
    main()
