"""What the block of int4 costs: perplexity of ONNX exports by values that share a scale, against the original's.

    python -m benchmarks.blocks [--model DIR] [--characters N] [--blocks N …] [--methods nearest gptq tuned]

Of the built-in model, or of a model directory with its tokenizer (`benchmarks.real_model` makes one), on the demo's
held-out text; calibrated on the text that the built-in model was trained on. ``--characters`` cuts both texts.
Speed by block is in `benchmarks.peers`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import edgeqkv
from benchmarks.measure import RESULTS, save
from edgeqkv import demo
from edgeqkv.demo.train import read_corpus

METHODS = {"nearest": None, "gptq": 0, "tuned": 300}
"""Steps of tuning after calibration; None without one."""


def measured(
    model: Path, tokenizer: Path, method: str, block: int, texts: tuple[Path, Path], context: int
) -> dict[str, Any]:
    """The row of one export."""
    training, heldout = texts
    steps = METHODS[method]
    with tempfile.TemporaryDirectory(prefix="edgeqkv-blocks-") as folder:
        bundle = edgeqkv.export(
            edgeqkv.load(model),
            "onnx",
            out=Path(folder) / "bundle",
            tokenizer=tokenizer,
            weights="int4",
            block=block,
            context=context,
            calibrate=None if steps is None else training,
            tune=steps,
            text=heldout,
            max_degradation=100.0,  # to measure, not to judge
            verify=False,
        )
        quality = bundle.target().quality
        assert quality is not None
        assert quality.original is not None
        return {
            "model": model.stem if model != demo.checkpoint_path() else "demo",
            "method": method,
            "block": block,
            "ratio": round(quality.perplexity / quality.original, 4),
            "tokens": quality.tokens,
            "weight_bytes": (bundle.path / "model.onnx.data").stat().st_size,
        }


def main() -> None:
    """Measure, and write the results; rows that are not measured again are kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=demo.checkpoint_path())
    parser.add_argument("--characters", type=int, help="of the texts; all if not given")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 64, 128])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    options = parser.parse_args()
    own = options.model == demo.checkpoint_path()
    tokenizer = demo.tokenizer_path() if own else options.model / "tokenizer.json"
    path = RESULTS / "blocks.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["results"] if path.exists() else []
    corpus = read_corpus()
    with tempfile.TemporaryDirectory(prefix="edgeqkv-texts-") as folder:
        texts = Path(folder) / "documentation.txt", Path(folder) / "heldout.txt"
        training, heldout = "\n\n".join(corpus.reference + corpus.library), demo.heldout_path().read_text("utf-8")
        for text, content in zip(texts, (training, heldout), strict=True):
            text.write_text(content[: options.characters], encoding="utf-8")
        for method in options.methods:
            for block in options.blocks:
                row = measured(options.model, tokenizer, method, block, texts, 512 if own else 256)
                print(row, flush=True)
                rows = [each for each in rows if any(each[key] != row[key] for key in ("model", "method", "block"))]
                rows.append(row)
                save("blocks", rows)


if __name__ == "__main__":
    main()
