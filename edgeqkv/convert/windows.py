"""Where the windows of a text come from that a distillation looks at: any text that can be asked for some of them."""

from __future__ import annotations

import zlib
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.errors import InputError

__all__ = ["Text", "TokenText", "chosen"]

Tensor = torch.Tensor


class Text(Protocol):
    """A text of which windows are drawn."""

    @property
    def identity(self) -> list[int]:
        """What another text would differ in."""

    def check(self, length: int) -> None:
        """Raise `InputError` if it is too short for windows of so many tokens."""

    def windows(self, seed: int, count: int, length: int, share: slice) -> Tensor:
        """``[n, length]`` token ids: of the ``count`` windows that belong to a seed, those of a share."""


class TokenText:
    """A text of token ids ``[n]``."""

    def __init__(self, tokens: npt.NDArray[np.integer]) -> None:
        self._tokens = torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))

    @property
    def identity(self) -> list[int]:
        return [len(self._tokens), zlib.crc32(self._tokens.numpy().tobytes())]

    def check(self, length: int) -> None:
        if len(self._tokens) < 2 * length:
            raise InputError(f"distillation needs a text of {2 * length} tokens or more; there are {len(self._tokens)}")

    def windows(self, seed: int, count: int, length: int, share: slice) -> Tensor:
        starts = chosen(len(self._tokens) - length + 1, seed, count)[share]
        return torch.stack([self._tokens[start : start + length] for start in starts])


def chosen(below: int, seed: int, count: int) -> list[int]:
    """``count`` numbers below a bound, the same ones for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(below, (count,), generator=generator).tolist()
