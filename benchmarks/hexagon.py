"""Perplexity of a Hexagon export of the demo model on text that it never saw, window by window: the original, the QDQ
graphs on the CPU, and what was compiled in Qualcomm's simulation of the NPU, with the fallback to the CPU off.

    python -m benchmarks.hexagon BUNDLE [--first 0] [--windows 2] [--engines simulator onnxruntime]

A window is as long as the context; its first half is the prompt, and its second half is predicted token by token
(`edgeqkv.run.perplexity`). A call takes a third of a second in the simulation: a window of 512 takes two minutes.
It prints a line of JSON a window, with sums of nats, so that pieces of a run can be added up.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import numpy as np

import edgeqkv
from edgeqkv import demo
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.run.perplexity import original_perplexity, session_perplexity
from edgeqkv.run.session import Session, open_bundle
from edgeqkv.run.tokenizer import Tokenizer


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--first", type=int, default=0, help="the first window")
    parser.add_argument("--windows", type=int, default=2, help="how many")
    parser.add_argument("--engines", nargs="+", default=["simulator", "onnxruntime"])
    given = parser.parse_args()
    bundle = Bundle(given.bundle)
    sessions = {engine: open_bundle(bundle, "hexagon", engine) for engine in given.engines}
    text = demo.heldout_path().read_text("utf-8")
    tokens = np.array(Tokenizer(demo.tokenizer_path()).encode(text), np.int64)
    context = int(bundle.target("hexagon").artifact.context or 1)
    model = edgeqkv.load(demo.checkpoint_path()).with_context(context)
    for index in range(given.first, given.first + given.windows):
        window = tokens[index * context : (index + 1) * context]
        found = {"original": original_perplexity(model, window, context)}
        for engine, session in sessions.items():
            assert isinstance(session, Session)
            found[engine] = session_perplexity(session, window)
        nats = {name: round(math.log(perplexity) * count, 5) for name, (perplexity, count) in found.items()}
        print(json.dumps({"window": index, "tokens": found["original"][1], "nats": nats}), flush=True)


if __name__ == "__main__":
    main()
