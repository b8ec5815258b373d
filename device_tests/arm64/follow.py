"""Runs on the emulated core: feeds tokens to bundles with edgeqkv's own session and saves the logits of each step.

Needs no more of edgeqkv than numpy, pydantic and ONNX Runtime.

    python follow.py OUT.npz IDS ENGINE[,ENGINE] BUNDLE...      one array for a bundle and an engine: NAME.ENGINE
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np

from device_tests.suite import greedy

out, ids, engines, *bundles = sys.argv[1:]
prompt = [int(token) for token in ids.split(",")]
runs = {
    f"{Path(bundle).name}.{engine}": greedy(Path(bundle), prompt, engine)
    for bundle in bundles
    for engine in engines.split(",")
}
np.savez(out, machine=np.array(platform.machine()), **runs)
