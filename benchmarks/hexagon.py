"""Perplexity of a Hexagon export of the demo model on text that it never saw, window by window: the original, the QDQ
graphs on the CPU, and what was compiled in Qualcomm's simulation of the NPU, with the fallback to the CPU off.

    python -m benchmarks.hexagon BUNDLE [--first 0] [--windows 2] [--engines simulator onnxruntime]

A window is as long as the context; its first half is the prompt, and its second half is predicted token by token, as
`edgeqkv.run.perplexity` does. A call takes a third of a second in the simulation: a window of 512 takes two minutes.
It prints a line of JSON a window, with sums of nats, so that pieces of a run can be added up.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

import edgeqkv
from edgeqkv import demo
from edgeqkv.bundle.bundle import Bundle
from edgeqkv.reference.outputs import sequence_logits
from edgeqkv.run.session import Session, open_bundle
from edgeqkv.run.tokenizer import Tokenizer


def nats(logits: npt.NDArray[np.float32], truth: npt.NDArray[np.int64]) -> float:
    """What the true tokens cost."""
    exact = logits.astype(np.float64)
    peak = exact.max(1, keepdims=True)
    total = np.log(np.exp(exact - peak).sum(1)) + peak[:, 0]
    return float((total - exact[np.arange(len(truth)), truth]).sum())


def predicted(session: Session, window: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """Logits of a window's second half."""
    session.reset()
    half = len(window) // 2
    return np.stack([session.feed(window[:half]), *(session.feed([token]) for token in window[half:-1])])


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
        truth = window[context // 2 :]
        rows = range(context // 2 - 1, context - 1)
        logits = {"original": sequence_logits(model, window[:-1], rows=rows)}
        for engine, session in sessions.items():
            assert isinstance(session, Session)
            logits[engine] = predicted(session, window)
        found = {name: round(nats(each, truth), 5) for name, each in logits.items()}
        print(json.dumps({"window": index, "tokens": len(truth), "nats": found}), flush=True)


if __name__ == "__main__":
    main()
