"""A model's tokenizer: a Hugging Face ``tokenizers`` JSON file, and what generation needs to know of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from tokenizers import Tokenizer as _Tokenizer
from tokenizers.decoders import DecodeStream

from edgeqkv.errors import InputError

__all__ = ["Tokenizer", "read_text"]

_ENDS = ("<|endoftext|>", "</s>", "<eos>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>")
_STARTS = ("<s>", "<bos>", "<|begin_of_text|>", "<|endoftext|>")


class Tokenizer:
    """Text to token ids and back.

    Args:
        path: a ``tokenizer.json``.

    Raises:
        InputError: the file is missing or is no tokenizer.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"there is no tokenizer file {path}")
        try:
            self._tokenizer = _Tokenizer.from_file(str(path))
        except Exception as error:  # the library's errors share no base class but this one
            raise InputError(f"{path} is not a Hugging Face tokenizers JSON file: {error}") from error

    @property
    def size(self) -> int:
        """One more than the largest token id."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """The tokens that end a text."""
        return tuple(self._ids(_ENDS))

    @property
    def bos_id(self) -> int | None:
        """The token that starts a text; None if the tokenizer has none."""
        return next(self._ids(_STARTS), None)

    def check_fits(self, vocab_size: int) -> None:
        """Raise `InputError` if it makes tokens that a model with ``vocab_size`` does not have."""
        if self.size > vocab_size:
            raise InputError(
                f"{self.path} makes token ids up to {self.size - 1}, but the model's vocabulary ends at "
                f"{vocab_size - 1}: it belongs to another model"
            )

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, with nothing added to it."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids, without special tokens."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def stream(self, ids: Iterable[int]) -> Iterator[str]:
        """Text piece by piece as tokens arrive, never splitting a character that spans several tokens."""
        decoder = DecodeStream(skip_special_tokens=True)
        for token in ids:
            text = decoder.step(self._tokenizer, token)
            if text:
                yield text

    def _ids(self, names: Sequence[str]) -> Iterator[int]:
        for name in names:
            index = self._tokenizer.token_to_id(name)
            if index is not None:
                yield int(index)


def read_text(path: Path) -> str:
    """A text file's content.

    Raises:
        InputError: it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not text in UTF-8: {error}") from error
