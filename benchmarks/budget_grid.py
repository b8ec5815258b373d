"""Prediction against measurement of a process's memory over form × weights × head × state, at 40 M parameters.

    python -m benchmarks.budget_grid [--target NAME]… [--form NAME]…

As `benchmarks.budget`, with a model that is small enough to have every combination, at some ten seconds each. Exits
with 1 if a prediction is off by more than 3 %.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import edgeqkv
from benchmarks.budget import MB, TARGETS, run
from benchmarks.measure import save
from edgeqkv.backends import backend
from edgeqkv.backends.target import forms_of
from edgeqkv.checkpoints.synthetic import write_random_checkpoint

VARIANT = "q-k=v+gqa4"
SIZES = {"n_layer": 8, "n_embd": 512, "n_head": 8, "n_positions": 512, "vocab_size": 32000}
HEADS = {"int4": (None, "int8", "fp16", "fp32"), "int8": (None, "fp32"), "fp16": (None, "fp32"), "fp32": (None,)}
"""Precision of the weights → those of the head, of which a target takes what it has."""
STATES = ("fp32", "int8")
END = (0,)  # of a text: onnxruntime-genai wants one, and a random model has no tokenizer that says it
LIMIT = 0.03


def cases(target: str, forms: list[str] | None) -> Iterator[dict[str, Any]]:
    """What is asked of every export of a target."""
    offered = backend(target)
    for form in forms_of(offered, causal=True):
        if forms and form not in forms:
            continue
        for weights in offered.schemes:
            for head in HEADS.get(weights, (None,)):
                if head in (None, *offered.schemes):
                    yield from ({"form": form, "weights": weights, "head": head, "state": each} for each in STATES)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", action="append", help="default: all that can be measured here")
    parser.add_argument("--form", action="append", help="default: all")
    arguments = parser.parse_args()
    results = []
    print("target form weights head state predicted measured error | without the import: predicted measured error")
    with tempfile.TemporaryDirectory(prefix="edgeqkv-budget-") as scratch:
        model = edgeqkv.load(write_random_checkpoint(Path(scratch) / "40m.pt", VARIANT, **SIZES))
        for target in arguments.target or TARGETS:
            for case in cases(target, arguments.form):
                row = run(model, target, context=SIZES["n_positions"], eos=END, **case)
                results.append(row)
                print(
                    f"{target:10} {case['form']:8} {case['weights']:5} {case['head'] or 'same':5} {case['state']:5} "
                    f"{row['predicted'] / MB:8.1f} {row['measured'] / MB:8.1f} {row['error']:+6.1%} | "
                    f"{row['predicted_above_import'] / MB:8.1f} {row['measured_above_import'] / MB:8.1f} "
                    f"{row['error_above_import']:+6.1%}",
                    flush=True,
                )
                save("budget_grid", results)
    worst = max(results, key=lambda row: abs(row["error"]))
    print(f"largest error {worst['error']:+.1%}: {worst['form']}, {worst['weights']}, head {worst['head']}")
    if abs(worst["error"]) > LIMIT:
        sys.exit(f"a prediction is off by more than {LIMIT:.0%}")


if __name__ == "__main__":
    main()
