"""The built-in demo: a small language model with one merged KV state, trained on Python's own documentation.

0.9 M parameters: 4 layers of 4 query heads and 2 KV heads, Q-K=V (`q-k=v+gqa2`), 1024 byte-level BPE
tokens, 512 positions. It writes phrases and sentences in the manner of the Python reference, repeats
itself, and does not know what it is talking about: it is here so that every command has a trained model
to work on without a download, and so that a perplexity before and after quantization means something.

`python -m edgeqkv.demo.train` retrains it from text that every CPython installation carries. This module
imports nothing but the standard library.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "DEMO_PROMPT",
    "DEMO_PROMPTS",
    "PERPLEXITY",
    "WINDOW",
    "checkpoint_path",
    "heldout_path",
    "teacher_path",
    "tokenizer_path",
]

_HERE = Path(__file__).parent

WINDOW = 512
"""Tokens per window when perplexity is measured; the model's number of positions."""

PERPLEXITY = 18.260
"""`exp` of the mean nats per token on `heldout.txt`: the shipped fp16 weights, computed in fp32.

The text is encoded whole, without an end-of-text token. Window k feeds tokens [512k, 512k + 512) into an
empty state and predicts tokens [512k + 1, 512k + 513), so every token but the text's first counts once.
"""

DEMO_PROMPTS = ("The coroutine then has a", "Each value from the mapping", "As in integer literals")
"""Prompts whose greedy continuation reads well, picked from many: on most, a model this small soon loops."""

DEMO_PROMPT = DEMO_PROMPTS[0]
"""The prompt that the commands use when the user gives none."""


def checkpoint_path() -> Path:
    """The checkpoint: a `final_model.pt` of the authors' language-model format, weights in fp16."""
    return _HERE / "model.pt"


def teacher_path() -> Path:
    """A checkpoint of an ordinary model (`qkv`, 8 heads, 256 positions, fp16), for conversion to start from.

    The tokenizer and the held-out text are the same.
    """
    return _HERE / "teacher.pt"


def tokenizer_path() -> Path:
    """The tokenizer that belongs to the checkpoint, as Hugging Face `tokenizers` JSON."""
    return _HERE / "tokenizer.json"


def heldout_path() -> Path:
    """Documentation text that neither the model nor the tokenizer was trained on (UTF-8)."""
    return _HERE / "heldout.txt"
