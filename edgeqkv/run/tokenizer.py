"""A model's tokenizer: a Hugging Face ``tokenizers`` JSON file, and what generation needs to know of it.

What such a file can do to a text, and what becomes of it here:

======================  ================================================================================================
truncation              off: a prompt is whole, or refused because the context is too small
padding                 off: a token that nobody wrote is none of the prompt
dropout of a BPE model  off: it is for training; a text has one encoding
post-processor          off: it adds tokens around the text, repeats it or leaves it out, as its template says
normalizer              kept: the model was trained on what it makes of a text, in lower case or another form of Unicode
pre-tokenizer           kept, with the space that some put before the text
added tokens            kept: one that is written in the text becomes its id, with the space beside it where it strips
what has no token       kept: the unknown token, or nothing where there is none; an error where the file has to have one
======================  ================================================================================================

The first three are switched off in the copy that goes into a bundle, too, so that an app gets what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer
from tokenizers.decoders import DecodeStream

from edgeqkv.errors import InputError
from edgeqkv.reading import check_file, read_json
from edgeqkv.run.ends import Ends, declared
from edgeqkv.run.rust import panics_caught

__all__ = ["Tokenizer"]

_FEW = 0.9  # a vocabulary that is padded to a round size is covered by more


class Tokenizer:
    """Text to token ids and back.

    Args:
        path: a ``tokenizer.json``.

    Attributes:
        path: the file.
        switched_off: what of it was switched off, of what a bundle's copy has switched off as well.

    Raises:
        InputError: the file is missing or is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        check_file(path, InputError, "tokenizer file")
        with panics_caught(f"{path} is not a Hugging Face tokenizers JSON file", "Give the model's tokenizer.json"):
            self._tokenizer = _Tokenizer.from_buffer(path.read_bytes())
            self.switched_off = _switch_off(self._tokenizer)
        self._count = self._tokenizer.get_vocab_size(with_added_tokens=True)
        if not self._count:
            raise InputError(f"{path} has no tokens; give the model's tokenizer.json")

    @cached_property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def special_tokens(self) -> list[str]:
        """The tokens that are no text, by their ids."""
        added = self._tokenizer.get_added_tokens_decoder()
        return [added[token].content for token in sorted(added) if added[token].special]

    @cached_property
    def ends(self) -> Ends:
        """The tokens that end a text, as the files beside it say.

        Raises:
            InputError: one of those files is damaged.
        """
        return declared(self, "eos")

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a text; see `ends`."""
        return self.ends.ids

    @cached_property
    def bos_id(self) -> int | None:
        """The token that starts a text; None if the tokenizer has none."""
        return next(iter(declared(self, "bos").ids), None)

    def id_of(self, token: str) -> int | None:
        """The id of a token; None if there is no such token."""
        try:
            index = self._tokenizer.token_to_id(token)
        except UnicodeEncodeError:  # a lone surrogate, which JSON and command lines may have and no token has
            return None
        return None if index is None else int(index)

    def token_of(self, index: int) -> str | None:
        """The token of an id; None if it has none."""
        return self._tokenizer.id_to_token(index) if 0 <= index < self.size else None

    def check_fits(self, vocab_size: int) -> None:
        """Raise `InputError` if it makes tokens that a model with ``vocab_size`` does not have."""
        if self.size > vocab_size:
            raise InputError(
                f"{self.path} makes token ids up to {self.size - 1}, but the model's vocabulary ends at "
                f"{vocab_size - 1}: it belongs to another model. Give the one that the model was trained with "
                f"(--tokenizer)"
            )

    def check_ids(self) -> None:
        """Raise `InputError` if the file gives a token another id than the library does, which counts them itself.

        An app that reads the file takes those of the file.
        """
        content = read_json(self.path, "tokenizer file")
        for token in content.get("added_tokens") or ():
            if self.id_of(token["content"]) != token["id"]:
                raise InputError(
                    f"{self.path} gives the token '{token['content']}' the id {token['id']}, and the tokenizers "
                    f"library {self.id_of(token['content'])}: it counts added tokens without gaps. Give them the ids "
                    f"that follow the vocabulary's"
                )

    def notes(self, vocab_size: int, ends: Ends) -> tuple[str, ...]:
        """What people should know, who use it for a model with ``vocab_size`` and with these end tokens."""
        notes = [*ends.notes]
        if self._count < _FEW * vocab_size:
            notes.append(
                f"{self.path.name} has {self._count:,} tokens, and the model's vocabulary {vocab_size:,}: it may "
                f"belong to another model, and what the model says with the others cannot be read"
            )
        if self.switched_off:
            off = " and ".join(self.switched_off)
            notes.append(f"{self.path.name} asks for {off}, which is switched off: a text is encoded whole")
        if not ends.ids:
            notes.append(
                f"{self.path.name} and the files beside it name no token that ends a text, so that none will; name one "
                f"with --eos"
            )
        return tuple(notes)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, whole and with nothing added to it.

        Raises:
            InputError: the text is no Unicode, or the tokenizer has no token for it and wants one.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the text has {text[error.start]!r} at character {error.start}, which is no character: it was given "
                f"in another encoding than UTF-8"
            ) from error
        with panics_caught(f"{self.path} cannot encode the text"):
            return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens.

        Raises:
            InputError: the tokenizer fails on them.
        """
        with panics_caught(f"{self.path} cannot decode tokens"):
            return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text piece by piece as tokens arrive, never splitting a character that spans several tokens.

        Raises:
            InputError: the tokenizer fails on them.
        """
        decoder = DecodeStream(skip_special_tokens=True)
        for token in ids:
            with panics_caught(f"{self.path} cannot decode token {token}"):
                text = decoder.step(self._tokenizer, token)
            if text:
                yield text

    def save(self, path: Path) -> None:
        """Write it as an app is to have it: the file, without what `switched_off` names."""
        if not self.switched_off:
            path.write_bytes(self.path.read_bytes())
            return
        content = read_json(self.path, "tokenizer file")
        content |= {"truncation": None, "padding": None}
        content["model"] |= {"dropout": None} if "dropout" in self.switched_off else {}
        path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _switch_off(tokenizer: _Tokenizer) -> tuple[str, ...]:
    """Switch off what makes more or less of a text than there is; and say what of it is in the file."""
    found = [name for name in ("truncation", "padding") if getattr(tokenizer, name) is not None]
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None
        found.append("dropout")
    tokenizer.post_processor = None
    return tuple(found)
