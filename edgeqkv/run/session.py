"""Running a model, whatever runs it: a decoder is fed tokens and keeps a state, an encoder runs whole inputs.

Every backend's session differs in one method; the checks, the chunking and the bookkeeping are here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeqkv.bundle.manifest import EncoderArtifact
from edgeqkv.errors import ContextFull, InputError

__all__ = ["EncoderSession", "Session"]


class Session(ABC):
    """A decoder with its state.

    Args:
        capacity: tokens that the state has room for.
        chunk: the most tokens that one step takes.
        vocab_size: token ids are ``0 … vocab_size - 1``.
        state_bytes: memory that the state really takes.
        precision: the coarsest number format that it computes in or stores its state in.
    """

    def __init__(
        self, *, capacity: int, chunk: int, vocab_size: int, state_bytes: int, precision: str = "fp32"
    ) -> None:
        self.capacity = capacity
        self.chunk = chunk
        self.vocab_size = vocab_size
        self.state_bytes = state_bytes
        self.precision = precision
        self._position = 0

    @property
    def position(self) -> int:
        """Tokens fed since the start or the last `reset`."""
        return self._position

    def feed(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.float32]:
        """Append tokens to the context, in chunks, and return the logits after the last one, ``[vocab]``.

        Raises:
            ContextFull: there is no room for all of them; nothing was fed.
            InputError: there are none, or one is not a token of this model; nothing was fed.
        """
        ids = self._checked(tokens)
        for start in range(0, len(ids), self.chunk):
            piece = ids[start : start + self.chunk]
            logits = self._step(piece, self._position)
            self._position += len(piece)
        return logits

    def reset(self) -> None:
        """Forget everything that was fed. Rows of the state are overwritten before they are read again."""
        self._position = 0

    @abstractmethod
    def _step(self, ids: npt.NDArray[np.int64], position: int) -> npt.NDArray[np.float32]:
        """Run 1 to ``chunk`` tokens standing at ``position`` and after it; the logits of the last, ``[vocab]``."""

    def _checked(self, tokens: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        given = np.asarray(tokens)
        if given.ndim != 1 or given.size == 0 or not np.issubdtype(given.dtype, np.integer):
            raise InputError(f"feed takes a list of one or more token ids, not {_shown(tokens)}")
        ids = given.astype(np.int64)
        wrong = ids[(ids < 0) | (ids >= self.vocab_size)]
        if wrong.size:
            raise InputError(f"token {wrong[0]} is not in this model's vocabulary, 0 to {self.vocab_size - 1}")
        if self._position + ids.size > self.capacity:
            raise ContextFull(
                f"{ids.size} more tokens do not fit: {self._position} of {self.capacity} positions are taken. "
                f"Start over with reset(), or export with a larger context"
            )
        return ids


class EncoderSession(ABC):
    """An encoder.

    Args:
        artifact: what is run.
        precision: the coarsest number format that it computes in.
    """

    def __init__(self, artifact: EncoderArtifact, precision: str = "fp32") -> None:
        self.artifact = artifact
        self.precision = precision

    def run(self, inputs: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Logits ``[n, …]`` of ``n`` inputs ``[n, …]``; more or fewer of them than the artifact's batch will do.

        Raises:
            InputError: they are of another shape or type, or one is not a token of this model.
        """
        given = self._checked(np.asarray(inputs))
        batch = self.artifact.batch
        results = []
        for start in range(0, len(given), batch):
            piece = given[start : start + batch]
            # Inputs know nothing of each other, so that any will do to fill up the last batch.
            whole = (
                piece if len(piece) == batch else np.concatenate([piece, np.repeat(piece[:1], batch - len(piece), 0)])
            )
            results.append(self._run(np.ascontiguousarray(whole))[: len(piece)])
        return np.concatenate(results)

    @abstractmethod
    def _run(self, batch: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
        """Logits ``[batch, …]`` of exactly one batch."""

    def _checked(self, given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shape, values = self.artifact.input.shape[1:], self.artifact.values
        kind, what = (np.floating, "numbers") if values is None else (np.integer, "token ids")
        if given.shape[1:] != shape or not given.size or not np.issubdtype(given.dtype, kind):
            raise InputError(
                f"this model takes {what} of shape [n, {', '.join(map(str, shape))}], not {given.dtype} of shape "
                f"{list(given.shape)}"
            )
        if values is None:
            if not np.isfinite(given).all():
                raise InputError("the input holds NaN or infinity")
            return given.astype(np.float32)
        wrong = given[(given < 0) | (given >= values)]
        if wrong.size:
            raise InputError(f"token {wrong.flat[0]} is not in this model's vocabulary, 0 to {values - 1}")
        return given.astype(np.int64)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
