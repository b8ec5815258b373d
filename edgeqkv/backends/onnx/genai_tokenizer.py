"""Which tokenizers onnxruntime-genai reads as they are meant, and what it needs beside them.

The runtime has its own implementation (onnxruntime-extensions), which passes over what it does not know of a
``tokenizer.json`` and then makes other tokens without a word. What is let through here is what gave the same ids as the
``tokenizers`` library in a comparison of the two (onnxruntime-genai 0.18): byte-level BPE, split by GPT-2's pattern or
by that of tiktoken's cl100k. What did not: a space put before the text, Unicode normalization, splitting by other
patterns, Metaspace (the way of SentencePiece, BPE or Unigram), added tokens that strip the space beside them.

Single digits split off before GPT-2's pattern (SmolLM's way) it passes over too, as the step that it is called in such
a file. Written as two patterns one after the other, which are the same to the ``tokenizers`` library, it gives the same
ids.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from edgeqkv.errors import UnsupportedError

__all__ = ["CL100K", "rewritten", "tokenizer_config"]

CL100K: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How tiktoken's cl100k_base splits text, as tokenizers of this family write it (Llama 3, Phi 4)."""

_GPT2: Final = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""How GPT-2 splits text, which is what the byte-level step does unless it is told not to."""

_DIGIT: Final = r"\p{N}"


def rewritten(path: Path) -> dict[str, Any] | None:
    """The same tokenizer in words that the runtime reads as they are meant; None where it is in such words already."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    steps = _steps(content)
    if [step["type"] for step in steps] != ["Digits", "ByteLevel"]:
        return None
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in (_DIGIT, _GPT2)
    ]
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [*splits, {**steps[1], "use_regex": False}]}
    content |= {"truncation": None, "padding": None}  # a text is encoded whole
    content["model"] |= {"dropout": None} if "dropout" in content["model"] else {}
    return content


def tokenizer_config(path: Path) -> dict[str, Any]:
    """The content of the ``tokenizer_config.json`` that goes with a tokenizer.

    Raises:
        UnsupportedError: the runtime would read it as another one; the message says what of it.
    """
    obstacle = _obstacle(json.loads(path.read_text(encoding="utf-8")))
    if obstacle:
        raise UnsupportedError(
            f"onnxruntime-genai would make other tokens than {path.name}, which {obstacle}. Leave out --tokenizer, and "
            f"give that runtime token ids"
        )
    return {"tokenizer_class": "PreTrainedTokenizerFast"}


def _obstacle(tokenizer: Mapping[str, Any]) -> str:
    """What the runtime does not do as this tokenizer asks; empty if there is nothing."""
    kind = tokenizer["model"].get("type", "BPE")
    if kind != "BPE":
        return f"is {kind}, not byte-level BPE"
    if tokenizer.get("normalizer"):
        return f"normalizes text ({tokenizer['normalizer']['type']})"
    if any(token.get("lstrip") or token.get("rstrip") for token in tokenizer.get("added_tokens", ())):
        return "has added tokens that strip the space beside them"
    return _splitting_obstacle(_steps(tokenizer))


def _steps(tokenizer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The steps in which text is split."""
    splitting = tokenizer.get("pre_tokenizer") or {"type": "nothing"}
    steps: list[dict[str, Any]] = splitting["pretokenizers"] if splitting["type"] == "Sequence" else [splitting]
    return steps


def _splitting_obstacle(steps: list[dict[str, Any]]) -> str:
    known = [[("GPT-2", "Isolated", False)], [(CL100K, "Isolated", False)]]
    if steps[0]["type"] == "Digits" and steps[0].get("individual_digits") and len(steps) == 2:
        steps, known = steps[1:], known[:1]
    if [step["type"] for step in steps] not in (["ByteLevel"], ["Split", "ByteLevel"]):
        return f"splits text with {', '.join(step['type'] for step in steps)}, not byte-level BPE's way"
    *patterns, last = steps
    if last.get("add_prefix_space", True):
        return "puts a space before the text"
    splits = [(step["pattern"].get("Regex"), step.get("behavior"), step.get("invert", False)) for step in patterns]
    splits += [("GPT-2", "Isolated", False)] if last.get("use_regex", True) else []
    if splits not in known:
        return "splits text by another pattern than GPT-2's or cl100k's"
    return ""
