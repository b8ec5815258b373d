"""The two kinds of models, and refusing what is for the other one; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Literal, TypeAlias

from edgeqkv.errors import InputError

__all__ = ["KIND_NAMES", "Kind", "refuse_foreign"]

Kind: TypeAlias = Literal["decoder", "encoder"]

KIND_NAMES: Final[Mapping[str, tuple[str, str]]] = {
    "decoder": ("a language model", "language models"),
    "encoder": ("an encoder", "encoders"),
}
"""What a kind of model is called: one of them, and many."""


def refuse_foreign(holder: str, kind: str, flags: Sequence[str]) -> None:
    """Raise `InputError` if there are any: options that are not for this kind of model.

    ``holder`` is how the message begins: "model.pt is", "build/model holds".
    """
    if flags:
        verb, other = "is" if len(flags) == 1 else "are", "decoder" if kind == "encoder" else "encoder"
        raise InputError(f"{holder} {KIND_NAMES[kind][0]}, and {', '.join(flags)} {verb} for {KIND_NAMES[other][1]}")
