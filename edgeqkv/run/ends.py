"""Which tokens end a text, and which starts one: what the user says, the files beside a tokenizer, or known names.

Hugging Face's models say it in several files, and not all in the same one; every token that one of them calls an end is
one. Only where none says anything are names taken for it that are known to mean it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol

from edgeqkv.errors import InputError
from edgeqkv.reading import is_file, read_json

__all__ = ["NONE", "Ends", "declared", "eos_ids"]

_FILES: Final = ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json", "config.json")

_ENDS: Final = (
    "<|endoftext|> </s> <eos> <EOS> [EOS] <|eos|> <|EOS|> <|end_of_text|> <|end_of_sentence|> <|END_OF_SENTENCE|> "
    "<\uff5cend\u2581of\u2581sentence\uff5c> <|end|> <|return|> <|call|> <|im_end|> <|eot_id|> <|eom_id|> <|eot|> "
    "<|EOT|> <eot> <EOT> [EOT] <end_of_turn> <turn|> <|end_of_turn|> <|endofturn|> <|END_OF_TURN_TOKEN|>"
)
_STARTS: Final = (
    "<s> <bos> <BOS> [BOS] <|begin_of_text|> <|startoftext|> <\uff5cbegin\u2581of\u2581sentence\uff5c> <|endoftext|>"
)
_NAMES: Final = {"eos": _ENDS.split(), "bos": _STARTS.split()}


@dataclass(frozen=True)
class Ends:
    """Token ids, where they are from, and what was passed over; for people."""

    ids: tuple[int, ...]
    source: str = ""
    notes: tuple[str, ...] = ()


NONE: Final = Ends(())


class Vocabulary(Protocol):
    """What a tokenizer says of its tokens; see `edgeqkv.run.tokenizer.Tokenizer`."""

    @property
    def path(self) -> Path: ...

    @property
    def special_tokens(self) -> list[str]: ...

    def id_of(self, token: str) -> int | None: ...

    def token_of(self, index: int) -> str | None: ...


def declared(tokenizer: Vocabulary, which: Literal["eos", "bos"]) -> Ends:
    """The tokens of a kind, as the files beside a tokenizer say, or else by their names.

    Raises:
        InputError: one of the files is damaged, or says something that is no token.
    """
    ids: dict[int, str] = {}
    notes = []
    for file in filter(is_file, (tokenizer.path.with_name(name) for name in _FILES)):
        for said in _said(file, read_json(file, "configuration"), which):
            token = tokenizer.id_of(said) if isinstance(said, str) else said
            if token is None or tokenizer.token_of(token) is None:
                notes.append(f"{file.name} names {said!r} as {which} token, which {tokenizer.path.name} does not have")
            else:
                ids.setdefault(token, file.name)
    if not ids:
        ids = {token: "its name" for name in _NAMES[which] if (token := tokenizer.id_of(name)) is not None}
    return Ends(tuple(ids), ", ".join(dict.fromkeys(ids.values())), tuple(dict.fromkeys(notes)))


def _said(file: Path, content: dict[str, Any], which: str) -> Iterator[int | str]:
    """Every id and every token that a file names; none where it has null."""
    given = content.get(f"{which}_token_id")
    for token in given if isinstance(given, list) else [given]:
        if token is None:
            continue
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise InputError(
                f"{file}: {which}_token_id is {str(given)[:60]}, which is neither an id nor a list of ids; correct it, "
                f"or take the file away"
            )
        yield token
    name = content.get(f"{which}_token")
    name = name.get("content") if isinstance(name, dict) else name
    if name is not None:
        if not isinstance(name, str):
            raise InputError(f"{file}: {which}_token is {str(name)[:60]}, which is no token; correct it")
        yield name


def eos_ids(given: Sequence[int | str], tokenizer: Vocabulary | None, vocab_size: int) -> tuple[int, ...]:
    """The ids of what a user named as end tokens: ids, or tokens of the tokenizer.

    Raises:
        InputError: one is no token of the model.
    """
    found = []
    for each in given:
        token = each
        if isinstance(each, str):
            token = int(each) if each.isascii() and each.isdigit() and len(each) < 20 else _named(each, tokenizer)
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InputError(f"--eos {each} is no token of the model; its ids are 0 to {vocab_size - 1}")
        found.append(token)
    return tuple(dict.fromkeys(found))


def _named(name: str, tokenizer: Vocabulary | None) -> int:
    if tokenizer is None:
        raise InputError(
            f"--eos '{name}' needs the model's tokenizer; give it with --tokenizer, or give the token's id"
        )
    token = tokenizer.id_of(name)
    if token is None:
        special = ", ".join(tokenizer.special_tokens[:12]) or "none"
        raise InputError(f"--eos '{name}' is no token of {tokenizer.path}; its special tokens: {special}")
    return token
