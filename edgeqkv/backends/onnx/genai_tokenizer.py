"""Which tokenizers onnxruntime-genai reads as they are meant, and what it needs beside them.

The runtime has its own implementation (onnxruntime-extensions), which passes over what it does not know of a
``tokenizer.json`` and then makes other tokens without a word. What is let through here is what gave the same ids as the
``tokenizers`` library in a comparison of the two (onnxruntime-genai 0.18): byte-level BPE, split by GPT-2's pattern or
one of its own. What gave others: a space put before the text, Unicode normalization, splitting into digits, Metaspace
(the way of SentencePiece, BPE or Unigram), added tokens that strip the space beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgeqkv.errors import UnsupportedError

__all__ = ["tokenizer_config"]


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
    return _splitting_obstacle(tokenizer.get("pre_tokenizer") or {"type": "nothing"})


def _splitting_obstacle(splitting: Mapping[str, Any]) -> str:
    steps = splitting["pretokenizers"] if splitting["type"] == "Sequence" else [splitting]
    *patterns, last = steps
    if [step["type"] for step in steps] not in (["ByteLevel"], ["Split", "ByteLevel"]):
        return f"splits text with {', '.join(step['type'] for step in steps)}, not byte-level BPE's way"
    if last.get("add_prefix_space", True):
        return "puts a space before the text"
    for step in patterns:
        isolates = step.get("behavior") == "Isolated" and not step.get("invert")
        if not isolates or "Regex" not in step["pattern"] or last.get("use_regex", True):
            return "splits text with more than one pattern, or drops what it splits at"
    return ""
