"""What stock runtimes write for SmolLM2-135M-Instruct, beside what transformers writes: greedy, in its chat template.

    python -m benchmarks.real_chat MODEL [--runtimes executorch onnxruntime-genai] [--tokens N] [--folder DIR]

MODEL is the Hugging Face directory that `benchmarks.real_model` makes. It is exported in fp32 for ExecuTorch's own
``TextLLMRunner`` and for onnxruntime-genai; neither knows of edgeqkv. They are given the prompt that the model's chat
template makes, and what they write is compared as text, up to where transformers ends.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import edgeqkv
from benchmarks.measure import save
from edgeqkv.extras import installed_version

QUESTIONS = (
    "What is the capital of France? Answer in one sentence.",
    "Explain in a few sentences why the sky is blue.",
    "Write a short story about a dog and a lighthouse.",
)
CONTEXT = 192


def wanted(model: Path, tokens: int) -> list[tuple[str, str, int]]:
    """By question, the prompt, what transformers writes after it, and of how many tokens that is."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    original = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    found = []
    for question in QUESTIONS:
        said = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        with torch.inference_mode():
            (row,) = original.generate(**ids, max_new_tokens=tokens, do_sample=False, pad_token_id=0)
        new = row[ids["input_ids"].shape[1] :]
        found.append((prompt, tokenizer.decode(new, skip_special_tokens=True), len(new)))
    return found


def of_executorch(folder: Path, prompts: list[str], tokens: int) -> list[str]:
    """What ``TextLLMRunner`` writes: to the standard output, followed by a line of statistics."""
    from executorch.extension.llm.runner import GenerationConfig, TextLLMRunner

    written = []
    for prompt in prompts:
        runner = TextLLMRunner(str(folder / "model.pte"), str(folder / "tokenizer.json"))
        config = GenerationConfig(echo=False, max_new_tokens=tokens, temperature=0.0)
        with output_of_runtimes() as file:
            runner.generate(prompt, config)
            output = file.read_bytes()
        written.append(output.split(b"PyTorchObserver")[0].decode(errors="replace").split("<|im_end|>")[0])
    return written


@contextlib.contextmanager
def output_of_runtimes() -> Iterator[Path]:
    """A file that gets what the process writes to its standard output, its libraries' too."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        before = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            yield Path(file.name)
        finally:
            os.dup2(before, 1)
            os.close(before)


def of_genai(folder: Path, prompts: list[str], tokens: int) -> list[str]:
    """What onnxruntime-genai writes, with its own tokenizer."""
    import onnxruntime_genai as og

    model = og.Model(str(folder))
    tokenizer = og.Tokenizer(model)
    written = []
    for prompt in prompts:
        ids = tokenizer.encode(prompt)
        params = og.GeneratorParams(model)
        params.set_search_options(max_length=len(ids) + tokens, do_sample=False)
        generator = og.Generator(model, params)
        generator.append_tokens(np.array([ids], np.int32))
        while not generator.is_done():
            generator.generate_next_token()
        written.append(tokenizer.decode(generator.get_sequence(0)[len(ids) :]).split("<|im_end|>")[0])
    return written


RUNTIMES: dict[str, tuple[str, str, Any]] = {
    "executorch": ("executorch", "stock", of_executorch),
    "onnxruntime-genai": ("onnx", "genai", of_genai),
}


def main() -> None:
    """Export, let all write, compare, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=list(RUNTIMES))
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path("build/real_chat"))
    options = parser.parse_args()
    tokenizer = options.model / "tokenizer.json"
    original = wanted(options.model, options.tokens)
    rows = []
    for name in options.runtimes:
        target, form, write = RUNTIMES[name]
        given: dict[str, Any] = {"form": form, "weights": "fp32", "context": CONTEXT, "chunk": CONTEXT}
        folder = options.folder / name
        if not (folder / "manifest.json").exists():
            edgeqkv.export(edgeqkv.load(options.model), target, out=folder, tokenizer=tokenizer, verify=False, **given)
        texts = write(folder, [prompt for prompt, _, _ in original], options.tokens)
        for question, (_, text, count), found in zip(QUESTIONS, original, texts, strict=True):
            equal = found.strip() == text.strip()
            version = installed_version(name)
            rows.append({"runtime": name, "version": version, "question": question, "tokens": count, "equal": equal})
            print(json.dumps(rows[-1] if equal else {**rows[-1], "found": found, "wanted": text}), flush=True)
    save("real_chat", rows)


if __name__ == "__main__":
    main()
