"""Prediction against measurement of a process's memory, at 300M: format × weights × context.

    python -m benchmarks.budget [--target NAME]…

Every case is exported, predicted from its files, and run in a fresh process that loads, prefills its whole context
and decodes. Random weights: memory does not depend on the values. What a process holds before there is a model
(Python, packages, the runtime's library) is measured in it and part of both sides; the last column leaves it out.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from pathlib import Path
from typing import Any

import edgeqkv
from benchmarks.measure import checkpoint, save
from edgeqkv.backends import backend
from edgeqkv.budget.measure import compare, measure
from edgeqkv.budget.plan import ModelShape, footprint, footprint_of, plan_of
from edgeqkv.errors import UnsupportedError

SCALE, VARIANT = "300m", "q-k=v+gqa4"
TARGETS = ("onnx", "executorch")
CONTEXTS = (512, 2048)
LIMIT = 0.10
MB = 10**6


def run(model: Any, target: str, weights: str, context: int, **choices: str | None) -> dict[str, Any]:
    """Export, predict and measure one case, of which ``choices`` says more; sizes are in bytes."""
    with tempfile.TemporaryDirectory(prefix="edgeqkv-budget-") as out:
        options = {"weights": weights, "context": context, "verify": False, **choices}
        bundle = edgeqkv.export(model, target, out=Path(out) / "bundle", **options)
        artifact = bundle.target(target).artifact
        plan = plan_of(ModelShape.of_card(bundle.manifest.model), artifact, tokenizer=0)
        predicted = footprint_of(bundle.path, artifact, plan)
        measured = measure(bundle.path, artifact)
    rows = {row.name: row for row in compare(predicted, measured, target)}
    peak = next(row for name, row in rows.items() if name.startswith("peak"))
    alone = rows["- above the import"]
    return {
        "target": target,
        "form": artifact.form,
        "weights": weights,
        "head": choices.get("head"),
        "state": artifact.state,
        "context": context,
        "predicted": peak.predicted,
        "measured": peak.measured,
        "error": peak.error,
        "predicted_above_import": alone.predicted,
        "measured_above_import": alone.measured,
        "error_above_import": alone.error,
        "planned_without_files": footprint(plan).peak,
        "predicted_on_a_device": predicted.peak,
        "phases": {name: dataclasses.asdict(row) for name, row in rows.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--target", action="append", help="default: all that can be measured here")
    targets = parser.parse_args().target or TARGETS
    model = edgeqkv.load(checkpoint(SCALE, VARIANT))
    results = []
    print("target weights context predicted measured error | without the import: predicted measured error")
    for target in targets:
        try:
            precisions = tuple(backend(target).schemes)
        except UnsupportedError as error:
            print(f"{target}: left out, {error}")
            continue
        for weights in precisions:
            for context in CONTEXTS:
                row = run(model, target, weights, context)
                results.append(row)
                print(
                    f"{target:10} {weights:5} {context:5} {row['predicted'] / MB:8.1f} {row['measured'] / MB:8.1f} "
                    f"{row['error']:+6.1%} | {row['predicted_above_import'] / MB:8.1f} "
                    f"{row['measured_above_import'] / MB:8.1f} {row['error_above_import']:+6.1%}",
                    flush=True,
                )
                save("budget", results)
    worst = max(abs(row["error"]) for row in results)
    print(f"largest error {worst:.1%}")
    if worst > LIMIT:
        sys.exit(f"a prediction is off by more than {LIMIT:.0%}")


if __name__ == "__main__":
    main()
