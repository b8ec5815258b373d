"""The cases that every app's own code must get right, computed by edgeqkv: ``device_tests/golden.json``.

    python device_tests/golden.py > device_tests/golden.json

A test of edgeqkv holds the file against this script; the apps' tests hold their code against the file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeqkv import demo
from edgeqkv.bundle.bundle import FORMAT, FileCard, Manifest, ModelCard, TargetCard, TokenizerCard
from edgeqkv.bundle.manifest import Artifact, Graph, StateTensor, TensorSpec
from edgeqkv.run.generate import Generation, Sampling, sample
from edgeqkv.run.session import Session
from edgeqkv.run.tokenizer import Tokenizer

PROMPTS = (
    "The coroutine then",
    'The "while" statement\n\n  is used for  repeated   execution.',
    "I'll say: they've 42 things, haven't they?",
    "naïve café, 日本語, 🙂👍🏽 and Ω≈1",
    "tabs\tand\u00a0no-break\u2003spaces \r\n at the end  ",
    "one<|endoftext|>two",
    "x",
)

SAMPLINGS = (
    Sampling(),
    Sampling(temperature=1.0),
    Sampling(temperature=0.7, top_k=5),
    Sampling(temperature=1.3, top_p=0.8),
    Sampling(temperature=0.9, top_k=20, top_p=0.5),
    Sampling(temperature=2.0, top_k=1),
)

VOCABULARY, CONTEXT, CHUNK = 40, 24, 5


def fake_logits(token: int, position: int) -> npt.NDArray[np.float32]:
    """The logits of a model that every language can compute exactly: whole numbers made of the last token and its
    position."""
    ids = np.arange(VOCABULARY)
    return ((token * 7 + ids * (13 + position) + position * 3) % 23).astype(np.float32)


class FakeSession(Session):
    """That model as a session, which writes down its calls: ``[tokens, position]``."""

    def __init__(self) -> None:
        super().__init__(capacity=CONTEXT, chunk=CHUNK, vocab_size=VOCABULARY, state_bytes=0)
        self.calls: list[list[int]] = []

    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        self.calls.append([len(ids), position])
        return fake_logits(int(ids[-1]), position + len(ids) - 1)


def token_cases(tokenizer: Tokenizer) -> Iterator[dict[str, Any]]:
    """Texts, their token ids, and the pieces in which those stream back."""
    for text in PROMPTS:
        ids = tokenizer.encode(text)
        yield {"text": text, "ids": ids, "decoded": tokenizer.decode(ids), "pieces": list(tokenizer.stream(ids))}


def sampling_cases() -> Iterator[dict[str, Any]]:
    """Logits, settings, the uniform random number that was drawn, and the token that it picks."""
    for seed, sampling in enumerate(SAMPLINGS * 4):
        logits = np.random.default_rng(100 + seed).normal(scale=3, size=64).round(3).astype(np.float32)
        picked = sample(logits, sampling, np.random.default_rng(seed))
        yield {
            "logits": [round(float(value), 3) for value in logits],
            "temperature": sampling.temperature,
            "top_k": sampling.top_k,
            "top_p": sampling.top_p,
            "uniform": np.random.default_rng(seed).random(),
            "token": picked,
        }
    tie = np.zeros(64, np.float32)
    yield {
        "logits": tie.tolist(),
        "temperature": 0.0,
        "top_k": 0,
        "top_p": 1.0,
        "uniform": 0.0,
        "token": sample(tie, Sampling(), np.random.default_rng(0)),
    }


def generation_cases() -> Iterator[dict[str, Any]]:
    """Prompts for the model above, what is generated, why it stops, and the calls that it took."""
    for prompt, max_tokens, eos in (
        ([1, 2, 3], 6, ()),
        (list(range(12)), None, ()),
        ([5] * CONTEXT, None, ()),
        ([4, 9, 30, 2, 8, 8], 10, (17, 3, 22)),
        ([7] * 11, 40, (0, 1, 2, 3, 4)),
    ):
        session = FakeSession()
        generation = Generation(session, prompt, max_tokens=max_tokens, eos_ids=eos)
        tokens = list(generation)
        assert generation.stopped
        yield {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "eos_ids": list(eos),
            "tokens": tokens,
            "stopped": generation.stopped.name.lower(),
            "calls": session.calls,
        }


def fixed_plan(tokens: int, chunk: int) -> list[int]:
    """Calls where prefill takes exactly a chunk: what is left over goes token by token (docs/coreml.md)."""
    return [chunk] * (tokens // chunk) + [1] * (tokens % chunk)


def plan_cases() -> Iterator[dict[str, Any]]:
    """The sizes of the calls that feed a number of tokens, to graphs that take up to a chunk and to fixed ones."""
    for tokens, chunk in ((1, 5), (5, 5), (6, 5), (12, 5), (24, 5), (3, 1)):
        session = FakeSession()
        session.chunk = chunk
        session.feed([0] * tokens)
        sizes = [size for size, _ in session.calls]
        yield {"tokens": tokens, "chunk": chunk, "any": sizes, "fixed": fixed_plan(tokens, chunk)}


def artifact(target: str) -> Artifact:
    """An export as the app's side sees it: with a state that the caller holds (onnx) or the runtime (coreml)."""
    held = target == "onnx"
    state = StateTensor(
        name="kv", role="kv", layer=0 if held else None, dtype="fp32" if held else "fp16", shape=(1, 2, CONTEXT, 8),
        input="past_kv" if held else None, output="present_kv" if held else None,
        aliases=("present_kv_as_values",) if held else (),
    )  # fmt: skip
    calls = {"model": (CHUNK, False)} if held else {"prefill": (CHUNK, True), "decode": (1, True)}
    return Artifact(
        target=target, form="portable" if held else "conv", weights="int4", state=state.dtype, context=CONTEXT,
        chunk=CHUNK, vocab_size=VOCABULARY, axes=("batch", "kv_heads", "context", "head_dim"), versions={},
        state_tensors=(state,),
        graphs=tuple(
            Graph(
                name=name, file="model.bin", tokens=tokens, fixed=fixed,
                inputs=(TensorSpec(name="input_ids", dtype="int64", shape=(1, tokens if fixed else "T")),),
                outputs=(TensorSpec(name="logits", dtype="fp32", shape=(1, VOCABULARY)),),
            )
            for name, (tokens, fixed) in calls.items()
        ),
    )  # fmt: skip


def manifest(files: dict[str, str]) -> str:
    """A bundle's manifest, as edgeqkv writes it, for files of the given contents."""
    return Manifest(
        format=FORMAT,
        edgeqkv="0.1.0",
        model=ModelCard(kind="decoder", variant="q-k=v+gqa2", parameters=1234, config={}, source={}, notes=()),
        tokenizer=TokenizerCard(file="tokenizer.json", size=VOCABULARY, bos_id=0, eos_ids=(0, 3)),
        targets={name: TargetCard(artifact=artifact(name), verification=None) for name in ("onnx", "coreml")},
        files={
            name: FileCard(bytes=len(text.encode()), sha256=hashlib.sha256(text.encode()).hexdigest())
            for name, text in files.items()
        },
    ).model_dump_json(indent=2)


def golden() -> dict[str, Any]:
    """All cases."""
    files = {"model.bin": "the model", "tokenizer.json": "{}"}
    text = manifest(files)
    return {
        "tokenizer": list(token_cases(Tokenizer(demo.tokenizer_path()))),
        "sampling": list(sampling_cases()),
        "model": {"vocabulary": VOCABULARY, "context": CONTEXT, "chunk": CHUNK},
        "generation": list(generation_cases()),
        "plans": list(plan_cases()),
        "bundle": {"files": files, "manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()},
    }


def document() -> str:
    """The file's text: a case a line, so that a change of one is a change of a line."""
    parts = []
    for name, cases in golden().items():
        value = json.dumps(cases)
        if isinstance(cases, list):
            value = "[\n" + ",\n".join(json.dumps(case) for case in cases) + "\n]"
        parts.append(f"{json.dumps(name)}: {value}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.stdout.write(document())
