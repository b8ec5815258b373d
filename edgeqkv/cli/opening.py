"""What several commands open: an original to compare with, and a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import edgeqkv
from edgeqkv.errors import InputError
from edgeqkv.model.kinds import KIND_NAMES

if TYPE_CHECKING:
    from edgeqkv.bundle.bundle import Bundle
    from edgeqkv.model.model import Model
    from edgeqkv.run.tokenizer import Tokenizer

__all__ = ["end_tokens", "open_original", "open_tokenizer"]


def open_original(path: Path | None, bundle: Bundle, *, heads: int | None, ema: bool) -> Model | None:
    """The checkpoint to compare a bundle with, if one was given.

    Raises:
        InputError: it is a model of the other kind.
    """
    if path is None:
        return None
    original = edgeqkv.load(path, heads=heads, ema=ema)
    from edgeqkv.pipeline.spec import kind_of  # after what says which package is missing, if torch is

    exported = bundle.manifest.model.kind
    if kind_of(original) != exported:
        raise InputError(
            f"{path} is {KIND_NAMES[kind_of(original)][0]}, and {bundle.path} holds {KIND_NAMES[exported][0]}"
        )
    return original


def open_tokenizer(bundle: Bundle, given: Path | None) -> Tokenizer:
    """The tokenizer that was given, or else the bundle's.

    Raises:
        InputError: there is neither, or it belongs to another model.
    """
    from edgeqkv.run.tokenizer import Tokenizer

    path = given or bundle.tokenizer_path
    if path is None:
        raise InputError(f"{bundle.path} holds no tokenizer; give one with --tokenizer, here or at export")
    tokenizer = Tokenizer(path)
    tokenizer.check_fits(int(bundle.target(bundle.targets[0]).artifact.vocab_size or 0))
    return tokenizer


def end_tokens(bundle: Bundle, tokenizer: Tokenizer, given: Sequence[str] | None) -> tuple[int, ...]:
    """The tokens that end a text: those that were given, or the bundle's with its tokenizer, or else the tokenizer's.

    Raises:
        InputError: one is no token of the model.
    """
    from edgeqkv.run.ends import eos_ids

    if given is not None:
        return eos_ids(given, tokenizer, int(bundle.target(bundle.targets[0]).artifact.vocab_size or 0))
    card = bundle.manifest.tokenizer
    return card.eos_token_ids if card and tokenizer.path == bundle.tokenizer_path else tokenizer.eos_token_ids
