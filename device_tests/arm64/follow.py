"""Runs on the emulated core: feeds tokens to a bundle with edgeqkv's own session and saves the logits of each step.

Needs no more of edgeqkv than numpy, pydantic and ONNX Runtime.

    python follow.py OUT.npz STEPS PROMPT_IDS BUNDLE...       ids separated by commas; one array a bundle, by its name
"""

from __future__ import annotations

import platform
import sys
from pathlib import Path

import numpy as np

from device_tests.suite import greedy

out, steps, ids, *bundles = sys.argv[1:]
prompt = [int(token) for token in ids.split(",")]
logits = {Path(bundle).name: greedy(Path(bundle), prompt, int(steps)) for bundle in bundles}
np.savez(out, machine=np.array(platform.machine()), **logits)
