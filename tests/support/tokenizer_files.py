"""Small tokenizer files, and whatever a test wants in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["added_token", "tokenizer_content", "write_tokenizer"]


def tokenizer_content(**changes: Any) -> dict[str, Any]:
    """A BPE tokenizer of four tokens, a 0, b 1, ab 2 and the space 3; ``model`` is laid over its model."""
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "vocab": {"a": 0, "b": 1, "ab": 2, " ": 3},
        "merges": ["a b"],
    }
    steps = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
    return {
        "version": "1.0",
        "added_tokens": [],
        **dict.fromkeys(steps),
        **changes,
        "model": {**model, **changes.get("model", {})},
    }


def added_token(index: int, content: str, **changes: Any) -> dict[str, Any]:
    """An entry of ``added_tokens``."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": index, "content": content, **flags, **changes}


def write_tokenizer(path: Path, **changes: Any) -> Path:
    """`tokenizer_content` as a file."""
    path.write_text(json.dumps(tokenizer_content(**changes)), encoding="utf-8")
    return path
