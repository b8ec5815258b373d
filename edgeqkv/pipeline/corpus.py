"""The text that a conversion looks at: a small one is encoded at once, and of a large one only what is looked at.

A window of a large text begins anywhere in the file, at the next space, and is encoded by itself. So a text may be
larger than memory, and what a step of distillation sees is said by the step alone, whoever asks and whatever came
before.
"""

from __future__ import annotations

import codecs
import zlib
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.convert.distill import Schedule
from edgeqkv.convert.windows import Text, TokenText, chosen
from edgeqkv.errors import InputError
from edgeqkv.reading import check_file, read_text
from edgeqkv.run.tokenizer import Tokenizer

__all__ = ["Corpus", "corpus_of"]

_AT_ONCE: Final = 1 << 24  # bytes of text: some seconds, and a few hundred megabytes
_VALIDATED: Final = 20  # one part of so many is kept from distillation
_ENOUGH_WINDOWS: Final = 16  # of it: more are not looked at

_BYTES_A_TOKEN: Final = 8  # a guess: where tokens are longer, more is read
_UNSURE: Final = 8  # tokens at the end of what was read, which depend on what comes after
_WORD: Final = 64  # characters in which a space is looked for
_TRIES: Final = 100
_SAMPLES: Final = 16  # pieces of a file that tell it from another
_SAMPLE: Final = 4096  # their bytes


class Corpus(Protocol):
    """A calibration text."""

    @property
    def shown(self) -> Text:
        """What distillation may see."""

    def tokens(self, windows: int) -> npt.NDArray[np.int64]:
        """What the closed form looks at: the whole text ``[n]``, or windows ``[n, length]`` spread over it."""

    def kept(self) -> npt.NDArray[np.int64]:
        """What is kept from distillation, to tell whether it helped."""


def corpus_of(path: Path, tokenizer: Tokenizer, context: int) -> Corpus:
    """The text in a file, for a model of so many positions.

    Raises:
        InputError: it cannot be read or is not UTF-8.
    """
    if check_file(path, InputError, "text file") > _AT_ONCE:
        return _Large(path, tokenizer, context)
    return _Small(np.array(tokenizer.encode(read_text(path)), dtype=np.int64), context)


class _Small:
    def __init__(self, tokens: npt.NDArray[np.int64], context: int) -> None:
        self._tokens = tokens
        self._shown = max(0, len(tokens) - max(context, len(tokens) // _VALIDATED))

    @property
    def shown(self) -> Text:
        return TokenText(self._tokens[: self._shown])

    def tokens(self, windows: int) -> npt.NDArray[np.int64]:
        return self._tokens

    def kept(self) -> npt.NDArray[np.int64]:
        return self._tokens[self._shown :]


class _Large:
    def __init__(self, path: Path, tokenizer: Tokenizer, context: int) -> None:
        size = path.stat().st_size
        self._context, border = context, size - size // _VALIDATED
        self._whole = _FileText(path, tokenizer, 0, size)
        self._shown = _FileText(path, tokenizer, 0, border)
        self._kept = _FileText(path, tokenizer, border, size)

    @property
    def shown(self) -> Text:
        return self._shown

    def tokens(self, windows: int) -> npt.NDArray[np.int64]:
        return self._whole.spread(windows, min(Schedule.length, self._context))

    def kept(self) -> npt.NDArray[np.int64]:
        return np.array(self._kept.after(0, _ENOUGH_WINDOWS * self._context), dtype=np.int64)


class _FileText:
    """The part of a text file from one byte to another, of which nothing is in memory."""

    def __init__(self, path: Path, tokenizer: Tokenizer, start: int, stop: int) -> None:
        self._path, self._tokenizer, self._start, self._size = path, tokenizer, start, stop - start

    @property
    def identity(self) -> list[int]:
        seen = 0
        for offset in np.linspace(0, max(0, self._size - _SAMPLE), _SAMPLES).astype(int).tolist():
            seen = zlib.crc32(self._read(offset, _SAMPLE), seen)
        return [self._start, self._size, seen]

    def check(self, length: int) -> None:
        self.windows(0, 1, length, slice(None))

    def windows(self, seed: int, count: int, length: int, share: slice) -> torch.Tensor:
        seeds = chosen(1 << 62, seed, count)[share]
        return torch.tensor([self._window(chosen(self._size, each, _TRIES), length) for each in seeds])

    def spread(self, count: int, length: int) -> npt.NDArray[np.int64]:
        """``[count, length]``, from the beginning to the end."""
        part = self._size // count
        starts = [[index * part + offset for offset in chosen(part, index, _TRIES)] for index in range(count)]
        return np.array([self._window(each, length) for each in starts], dtype=np.int64)

    def _window(self, offsets: list[int], length: int) -> list[int]:
        """The window at the first of several places that has one: some are too near the end."""
        for offset in offsets:
            found = self.after(offset, length)
            if len(found) == length:
                return found
        raise InputError(f"{self._path} has hardly any windows of {length} tokens; give a text that is one")

    def after(self, offset: int, count: int) -> list[int]:
        """The ``count`` tokens from a place on, fewer where the text ends."""
        size = (count + _UNSURE) * _BYTES_A_TOKEN
        while True:
            found = self._tokenizer.encode(self._text(offset, size))
            ends = offset + size >= self._size
            if ends or len(found) >= count + _UNSURE:
                return found[:count]
            size *= 2

    def _text(self, offset: int, size: int) -> str:
        """The characters that are whole in a piece, from the first space on that comes soon."""
        read = self._read(offset, size)
        first = self._start + offset
        begin = 0
        while first and begin < min(len(read), 3) and read[begin] & 0xC0 == 0x80:  # the rest of a character
            begin += 1
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(read[begin:])
        except UnicodeDecodeError as error:
            place = first + begin + error.start
            raise InputError(f"{self._path} is not text in UTF-8: {error.reason} at byte {place}") from error
        if not first:
            return text
        return text[next((index for index, each in enumerate(text[:_WORD]) if each.isspace()), 0) :]

    def _read(self, offset: int, size: int) -> bytes:
        with self._path.open("rb") as file:
            file.seek(self._start + offset)
            return file.read(min(size, self._size - offset))
