"""Run every benchmark, one after the other, each in a process of its own: ``make bench``.

Not those of a real model and against peers, which have to be installed first.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = sorted(
    path.stem
    for path in Path(__file__).parent.glob("*.py")
    if not path.stem.startswith(("_", "peer")) and path.stem not in ("measure", "gguf_model", "real_model")
)

for name in BENCHMARKS:
    print(f"== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
