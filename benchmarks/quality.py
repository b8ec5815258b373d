"""What quantization costs: the perplexity of artifacts on text that the demo model never saw, against the original's.

Calibration uses the language reference's other topics, as this Python installation carries them.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import edgeqkv
from benchmarks.measure import save
from edgeqkv import demo
from edgeqkv.demo.train import read_corpus

CHOICES: list[dict[str, str]] = [
    {"weights": "fp16"},
    {"weights": "int8"},
    {"weights": "int4"},
    {"weights": "int4", "head": "int8"},
    {"weights": "int4", "calibrate": "text"},
    {"weights": "int4", "calibrate": "text", "head": "int8"},
]
TARGETS = ("onnx", "coreml")


def main() -> None:
    model, rows = edgeqkv.load(demo.checkpoint_path()), []
    with tempfile.TemporaryDirectory(prefix="edgeqkv-quality-") as folder:
        text = Path(folder) / "calibration.txt"
        text.write_text("\n\n".join(read_corpus().reference), encoding="utf-8")
        for target in TARGETS:
            for index, choice in enumerate(CHOICES):
                bundle = edgeqkv.export(
                    model,
                    target,
                    out=Path(folder) / f"{target}-{index}",
                    tokenizer=demo.tokenizer_path(),
                    text=demo.heldout_path(),
                    max_degradation=1.0,  # to measure, not to judge
                    **{**choice, **({"calibrate": str(text)} if "calibrate" in choice else {})},
                )
                quality = bundle.target().quality
                assert quality is not None
                assert quality.original is not None
                size = sum(card.bytes for name, card in bundle.manifest.files.items() if name.startswith("model"))
                rows.append(
                    {
                        "target": target,
                        "weights": choice["weights"],
                        "head": choice.get("head", choice["weights"]),
                        "method": "gptq" if "calibrate" in choice else "nearest",
                        "perplexity": round(quality.perplexity, 4),
                        "ratio": round(quality.perplexity / quality.original, 4),
                        "model_bytes": size,
                    }
                )
                print(rows[-1], flush=True)
        save("quality", {"original": quality.original, "tokens": quality.tokens, "rows": rows})


if __name__ == "__main__":
    main()
