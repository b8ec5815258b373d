"""Memory and time of a conversion, of random models: what it takes does not depend on the numbers.

    python -m benchmarks.convert_size [--size 60m|300m|1.2b] [--to VARIANT] [--windows N] [--suffix .pt|.safetensors]

The text is the reference that every Python carries. The peak is that of the process, mapped files and the interpreter
included.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import edgeqkv
from benchmarks.measure import RESULTS, checkpoint, run, save
from edgeqkv import demo
from edgeqkv.convert import WINDOWS

SIZES: dict[str, tuple[str, dict[str, int]]] = {
    "60m": ("300m", {"n_layer": 12, "n_embd": 512, "n_head": 8, "n_inner": 2048}),
    "300m": ("300m", {"n_positions": 2048}),
    "1.2b": ("1.2b", {"n_positions": 2048}),
}
LIMIT = 2.0  # peak memory ÷ fp32 weights


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="60m")
    parser.add_argument("--to", default="q-k=v+gqa4")
    parser.add_argument("--windows", type=int, default=WINDOWS)
    parser.add_argument("--suffix", choices=[".pt", ".safetensors"], default=".pt")
    parser.add_argument("--layers", help="as of the command")
    parser.add_argument("--memory", help="as of the command")
    options = parser.parse_args()
    scale, sizes = SIZES[options.size]
    source = checkpoint(scale, "qkv", **sizes)
    model = edgeqkv.load(source)
    with tempfile.TemporaryDirectory(prefix="edgeqkv-convert-") as made:
        text = Path(made) / "text.txt"
        text.write_text("\n\n".join(topics.values()), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "edgeqkv",
            "convert",
            str(source),
            "--to",
            options.to,
            "--calibrate",
            str(text),
        ]
        command += ["--tokenizer", str(demo.tokenizer_path()), "--windows", str(options.windows), "--json"]
        command += ["--out", str(Path(made) / "out" / f"out{options.suffix}")]
        for name in ("memory", "layers"):
            command += [f"--{name}", value] if (value := getattr(options, name)) else []
        used = run(command, every=5.0)
    row = {
        "size": options.size,
        "parameters": model.parameters,
        "layers": options.layers or f"all {model.config.layers}",
        "variant": options.to,
        "windows": options.windows,
        "suffix": options.suffix,
        "memory": options.memory,
        "seconds": round(used.seconds, 1),
        "cpu_seconds": round(used.cpu_seconds, 1),
        "peak_bytes": used.process_bytes,
        "peak_per_weights": round(used.process_bytes / (4 * model.parameters), 3),
        "lost": [lost and round(lost, 4) for lost in json.loads(used.output)["lost"]],
    }
    print(json.dumps(row))
    if row["peak_per_weights"] >= LIMIT and options.size != "60m":
        print(f"more than {LIMIT} times the weights", file=sys.stderr)
    path = RESULTS / "convert_size.json"
    save("convert_size", [*(json.loads(path.read_text())["results"] if path.exists() else []), row])


if __name__ == "__main__":
    main()
