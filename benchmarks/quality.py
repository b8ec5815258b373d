"""What quantization costs: the perplexity of artifacts on text that the demo model never saw, against the original's.

    python -m benchmarks.quality [NAME …]

Calibration uses the text that the model was trained on, as this Python installation carries it: the topics of the
language reference but for those that are held out (``reference``), and the prose of the standard library with them
(``all``). With names of weights (int4, int8, …) only their rows are measured again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgeqkv
from benchmarks.measure import RESULTS, save
from edgeqkv import demo
from edgeqkv.demo.train import read_corpus

EVERYWHERE = ("onnx", "executorch", "coreml")


@dataclass(frozen=True)
class Case:
    """An export to measure; ``tune`` 0 leaves it at GPTQ."""

    weights: str
    head: str | None = None
    calibrate: str | None = None
    tune: int | None = None
    state: str | None = None
    form: str | None = None
    targets: tuple[str, ...] = EVERYWHERE


CASES = [
    Case("fp16"),
    Case("int8"),
    Case("int4"),
    Case("int4", "int8"),
    Case("int4", calibrate="all", tune=0),
    Case("int4", "int8", calibrate="all", tune=0),
    Case("int4", calibrate="all"),
    Case("int4", "int8", calibrate="all"),
    Case("lut4", targets=("coreml",)),
    Case("lut4", calibrate="all", targets=("coreml",)),
    Case("int4", calibrate="reference", targets=("onnx",)),
    Case("int4", calibrate="all", state="int8", form="ort", targets=("onnx",)),
    Case("int4", calibrate="all", state="int8", targets=("executorch",)),
]


def measured(case: Case, texts: dict[str, Path], out: Path) -> list[dict[str, Any]]:
    """A row for each of the case's targets."""
    bundle = edgeqkv.export(
        edgeqkv.load(demo.checkpoint_path()),
        case.targets,
        out=out,
        tokenizer=demo.tokenizer_path(),
        weights=case.weights,
        head=case.head,
        state=case.state,
        form=case.form,
        calibrate=texts[case.calibrate] if case.calibrate else None,
        tune=case.tune,
        text=demo.heldout_path(),
        max_degradation=1.0,  # to measure, not to judge
    )
    rows = []
    for name, card in bundle.manifest.targets.items():
        assert card.quality is not None
        assert card.quality.original is not None
        files = {graph.file for graph in card.artifact.graphs} | {
            f"{graph.file}.data" for graph in card.artifact.graphs
        }
        sizes = [each.bytes for file, each in bundle.manifest.files.items() if file.split("/")[0] in files]
        rows.append(
            {
                "target": name,
                "weights": case.weights,
                "head": case.head or case.weights,
                "state": card.artifact.state,
                "method": card.quantization.method if card.quantization else "none",
                "calibration": case.calibrate,
                "original": card.quality.original,
                "tokens": card.quality.tokens,
                "perplexity": round(card.quality.perplexity, 4),
                "ratio": round(card.quality.perplexity / card.quality.original, 4),
                "model_bytes": sum(sizes),
            }
        )
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    names: list[str] = parser.parse_args().names
    path = RESULTS / "quality.json"
    kept = json.loads(path.read_text())["results"]["rows"] if names else []
    rows = [row for row in kept if row["weights"] not in names]
    corpus = read_corpus()
    documents = {"reference": corpus.reference, "all": corpus.reference + corpus.library}
    with tempfile.TemporaryDirectory(prefix="edgeqkv-quality-") as folder:
        texts = {name: Path(folder) / f"{name}.txt" for name in documents}
        for name, text in texts.items():
            text.write_text("\n\n".join(documents[name]), encoding="utf-8")
        for index, case in enumerate(CASES):
            if not names or case.weights in names:
                rows += measured(case, texts, Path(folder) / str(index))
    save("quality", {"rows": rows})


if __name__ == "__main__":
    main()
