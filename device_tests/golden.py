"""The cases that every app's own code must get right, computed by edgeqkv: ``device_tests/golden.json``.

    python device_tests/golden.py > device_tests/golden.json

A test of edgeqkv holds the file against this script; the apps' tests hold their code against the file.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from edgeqkv import demo
from edgeqkv.bundle.manifest import (
    FORMAT,
    Artifact,
    ChatCard,
    FileCard,
    Graph,
    Manifest,
    ModelCard,
    StateTensor,
    TargetCard,
    TensorSpec,
    TokenizerCard,
)
from edgeqkv.run.generate import Generation, Sampling, sample
from edgeqkv.run.session import Session
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.run.turns import written

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

CHATS = (
    ChatCard(
        first="<s>user\n", answered="</s>\n<s>assistant\n", next="</s>\n<s>user\n", answer="</s>\n<s>assistant\n",
        trimmed=False, system=ChatCard.System(before="<s>system\n", after="</s>\n<s>user\n"),
    ),
    ChatCard(first="<s>[INST] ", answered=" [/INST] ", next="</s>[INST] ", answer=" [/INST]", trimmed=True),
)  # fmt: skip

VOCABULARY, CONTEXT, CHUNK = 40, 24, 5

Array = npt.NDArray[Any]


def spec(role: Any, name: str, dtype: str, *shape: int | str) -> TensorSpec:
    """An input or output."""
    return TensorSpec(name=name, dtype=dtype, shape=shape, role=role)


def graph(
    name: str, *inputs: TensorSpec, logits: TensorSpec, tokens: int = CHUNK, fixed: bool = False,
    window: int | None = None, states: tuple[StateTensor, ...] = (),
) -> Graph:  # fmt: skip
    """Something that is called, with the state tensors that the caller holds at both ends."""
    held = [tensor for tensor in states if tensor.input]
    before = (spec("state", str(tensor.input), tensor.dtype, *tensor.shape) for tensor in held)
    after = (
        spec("state", name, tensor.dtype, *(returned(tensor) if tensor.update == "rows" else tensor.shape))
        for tensor in held
        for name in (str(tensor.output), *tensor.aliases)
    )
    return Graph(
        name=name, file="model.bin", tokens=tokens, fixed=fixed, window=window, inputs=(*inputs, *before),
        outputs=(logits, *after),
    )  # fmt: skip


def returned(tensor: StateTensor) -> tuple[int | str, ...]:
    """The shape of a call's new rows."""
    return tuple("tokens" if size == CONTEXT else size for size in tensor.shape)


def state(update: Any, dtype: str, *, both: bool = False) -> tuple[StateTensor, ...]:
    """A merged state of one layer; ``both``: given back twice, as keys and as values."""
    ends: dict[str, Any] = {} if update == "runtime" else {"input": "past_kv", "output": "present_kv"}
    if both:
        ends["aliases"] = ("present_kv_as_values",)
    tensor = StateTensor(
        name="kv", role="kv", layer=None if update == "runtime" else 0, dtype=dtype, shape=(1, 2, CONTEXT, 4),
        update=update, **ends,
    )  # fmt: skip
    return (tensor,)


def artifact(target: str, form: str, graphs: tuple[Graph, ...], states: tuple[StateTensor, ...]) -> Artifact:
    """An export as the app's side sees it."""
    return Artifact(
        target=target, form=form, weights="int4", state=states[0].dtype, context=CONTEXT, chunk=CHUNK,
        vocab_size=VOCABULARY, axes=("batch", "kv_heads", "context", "head_dim"), graphs=graphs, state_tensors=states,
    )  # fmt: skip


def own(tokens: int | str) -> tuple[TensorSpec, ...]:
    """The inputs of edgeqkv's own ONNX graphs, which take so many tokens."""
    return (
        spec("tokens", "input_ids", "int64", 1, tokens),
        spec("positions", "position_ids", "int64", 1, tokens),
        spec("logit_index", "logit_index", "int64", 1),
    )


def started(dtype: str, ids: str, place: str, tokens: int | str) -> tuple[TensorSpec, ...]:
    """The inputs of graphs that are given the place of their first token."""
    return spec("tokens", ids, dtype, 1, tokens), spec("start", place, dtype, 1)


def artifacts() -> dict[str, Artifact]:
    """Every way in which an export of today is called, and one that gives back new rows of the state alone."""
    one = spec("logits", "logits", "fp32", 1, VOCABULARY)
    half = spec("logits", "logits", "fp16", 1, VOCABULARY)
    every = spec("logits", "logits", "fp16", 1, "tokens", VOCABULARY)
    ids = spec("tokens", "inputIds", "int32", 1, "tokens")
    length = spec("length", "kv_len", "int64", 1)
    in_place, twice, rows = state("in_place", "fp32"), state("in_place", "fp32", both=True), state("rows", "fp32")
    of_runtime, of_coreml = state("runtime", "fp32"), state("runtime", "fp16")
    windows = tuple(
        graph(f"{name}_{window}", *own(tokens), logits=one, tokens=tokens, fixed=True, window=window, states=in_place)
        for window in (12, CONTEXT)
        for name, tokens in (("prefill", CHUNK), ("decode", 1))
    )
    pair = {"prefill": CHUNK, "decode": 1}
    of_rows = tuple(
        graph(name, *own(tokens), logits=one, tokens=tokens, fixed=True, states=rows) for name, tokens in pair.items()
    )
    genai = (
        spec("tokens", "input_ids", "int64", 1, "tokens"),
        spec("mask", "attention_mask", "int64", 1, "end"),
        spec("positions", "position_ids", "int64", 1, "tokens"),
    )
    fixed = tuple(
        graph(name, *started("int64", "tokens", "input_pos", tokens), logits=one, tokens=tokens, fixed=True)
        for name, tokens in pair.items()
    )
    functions = tuple(
        graph(
            name, *started("int32", "input_ids", "position", tokens), logits=half, tokens=tokens, fixed=True,
            window=CONTEXT,
        )
        for name, tokens in pair.items()
    )  # fmt: skip
    masked = spec("mask", "fullAttentionMask", "fp16", 1, 1, "tokens", "end")
    counted = spec("length", "causalMask", "fp16", 1, 1, 1, "end + 1")
    forward = graph("forward", *started("int64", "tokens", "input_pos", "tokens"), logits=one)
    whole = {"logits": every, "tokens": CONTEXT}
    return {
        "onnx": artifact(
            "onnx", "portable", (graph("model", *own("tokens"), length, logits=one, states=twice),), twice
        ),
        "onnx static": artifact("onnx", "static", windows, in_place),
        "onnx genai": artifact(
            "onnx", "genai",
            (graph("model", *genai, logits=spec("logits", "logits", "fp32", 1, 1, VOCABULARY), states=in_place),),
            in_place,
        ),
        "onnx rows": artifact("onnx", "rows", of_rows, rows),
        "executorch": artifact("executorch", "stock", (forward,), of_runtime),
        "executorch static": artifact("executorch", "static", fixed, of_runtime),
        "coreml": artifact("coreml", "conv", functions, of_coreml),
        "coreml mask": artifact("coreml", "mask", (graph("main", ids, masked, **whole),), of_coreml),
        "coreml count": artifact("coreml", "count", (graph("main", ids, counted, **whole),), of_coreml),
    }  # fmt: skip


ARTIFACTS: Final = artifacts()


def fake_logits(token: int, position: int) -> npt.NDArray[np.float32]:
    """The logits of a model that every language can compute exactly: whole numbers made of the last token and its
    position."""
    ids = np.arange(VOCABULARY)
    return ((token * 7 + ids * (13 + position) + position * 3) % 23).astype(np.float32)


def fake_rows(shape: list[int], position: int) -> npt.NDArray[np.float32]:
    """A call's new rows of the state: whole numbers that say when they were made, and where they belong."""
    return (position * 1000 + np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


class FakeRunner:
    """That model as what runs an artifact. It writes down its calls: the graph and its inputs, and how many tokens
    counted and where the first stood."""

    precision, state_bytes = "fp32", 0

    def __init__(self, used: Artifact) -> None:
        self._artifact = used
        self.calls: list[list[int]] = []
        self.inputs: list[tuple[str, dict[str, Array]]] = []

    def call(self, graph: Graph, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
        by_role = {each.role: inputs[each.name] for each in graph.inputs if each.name in inputs}
        ids = by_role["tokens"].ravel()
        last = int(by_role["logit_index"].item()) if "logit_index" in by_role else len(ids) - 1
        start = position_of(by_role, last + 1)
        self.calls.append([last + 1, start])
        self.inputs.append((graph.name, {name: value.copy() for name, value in inputs.items()}))
        rows = range(len(ids)) if "tokens" in graph.logits.shape else (last,)
        logits = np.stack([fake_logits(int(ids[row]), start + row) for row in rows])
        outputs = {graph.logits.name: logits.reshape(1, -1, VOCABULARY)}
        for tensor in self._artifact.state_tensors:
            if tensor.update == "rows":
                shape = [len(ids) if size == "tokens" else int(size) for size in returned(tensor)]
                outputs[str(tensor.output)] = fake_rows(shape, start)
        return outputs

    def close(self, graph: Graph) -> None:
        """There is nothing to give back."""


def position_of(inputs: Mapping[Any, Array], count: int) -> int:
    """Where the first of a call's tokens stands, as its inputs say, each in its way."""
    for role in ("positions", "start"):
        if role in inputs:
            return int(inputs[role].flat[0])
    if "mask" in inputs:
        return inputs["mask"].shape[-1] - count
    return inputs["length"].shape[-1] - 1 - count


def fake_session(name: str) -> tuple[Session, FakeRunner]:
    """A session on one of the artifacts, and its runner."""
    runner = FakeRunner(ARTIFACTS[name])
    return Session(ARTIFACTS[name], runner), runner


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
        session, runner = fake_session("onnx")
        generation = Generation(session, prompt, max_tokens=max_tokens, eos_token_ids=eos)
        tokens = list(generation)
        assert generation.stopped
        yield {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "eos_token_ids": list(eos),
            "tokens": tokens,
            "stopped": generation.stopped.name.lower(),
            "calls": runner.calls,
        }


def feed_cases() -> Iterator[dict[str, Any]]:
    """What every artifact's graphs are called with when tokens are fed to it: which graph, and its inputs by name; of
    the state, what the caller writes to it (``rows``)."""
    feeds = ([7, 1, 30], [2], list(range(12)), [9] * 6, [39, 38])
    for name in ARTIFACTS:
        session, runner = fake_session(name)
        for feed in feeds:
            logits = session.feed(feed)
            assert np.array_equal(logits, fake_logits(feed[-1], session.position - 1))
        yield {
            "artifact": name,
            "feeds": feeds,
            "calls": [
                {
                    "graph": graph,
                    "inputs": {
                        key: {"shape": value.shape, "values": value.ravel().tolist()} for key, value in inputs.items()
                    },
                }
                for graph, inputs in runner.inputs
            ],
        }


def chat_cases() -> Iterator[dict[str, Any]]:
    """Pieces of chat templates, conversations, and the texts that they make of them."""
    said = {"role": "system", "content": "Be short."}
    texts = (" Who are you?\n", "A model.", "Why?", "\tBecause. ", "naïve 日本語 🙂")
    roles = ("user", "assistant")
    for card in CHATS:
        for turns in (1, 3, 5):
            asked = [{"role": roles[place % 2], "content": text} for place, text in enumerate(texts[:turns])]
            for messages in (asked, *([[said, *asked]] if card.system else [])):
                yield {"card": card.model_dump(), "messages": messages, "text": written(card, messages)}


def manifest(files: dict[str, str]) -> str:
    """A bundle's manifest, as edgeqkv writes it, for files of the given contents."""
    return Manifest(
        format=FORMAT,
        edgeqkv="0.1.0",
        model=ModelCard(kind="decoder", variant="q-k=v+gqa2", parameters=1234, config={}, source={}, notes=()),
        tokenizer=TokenizerCard(file="tokenizer.json", size=VOCABULARY, bos_id=0, eos_token_ids=(0, 3), chat=CHATS[0]),
        targets={name: TargetCard(artifact=ARTIFACTS[name], verification=None) for name in ("onnx", "coreml")},
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
        "artifacts": {name: used.model_dump(mode="json") for name, used in ARTIFACTS.items()},
        "generation": list(generation_cases()),
        "feeds": list(feed_cases()),
        "chat": list(chat_cases()),
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
