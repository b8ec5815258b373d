"""Generating text with a session: greedy or sampled, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from edgeqkv.errors import InputError
from edgeqkv.run.session import Session
from edgeqkv.run.tokenizer import Tokenizer
from edgeqkv.settings import check, check_all

__all__ = ["Generation", "Sampling", "StopReason", "generate", "sample"]


class StopReason(StrEnum):
    """Why a generation ended."""

    END_OF_TEXT = "the model ended the text"
    MAX_TOKENS = "the asked number of tokens was reached"
    CONTEXT_FULL = "the context is full"


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn.

    Attributes:
        temperature: 0 takes the most likely token; 1 draws from the model's own distribution.
        top_k: draw among this many of the most likely tokens; 0: among all.
        top_p: draw among the most likely tokens that together have this probability (nucleus sampling,
            Holtzman et al. 2020); 1: among all.
        seed: of the random numbers; the same seed gives the same text.

    Raises:
        InputError: a value is out of its range.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_all(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p, seed=self.seed)


def sample(logits: npt.NDArray[np.float32], sampling: Sampling, random: np.random.Generator) -> int:
    """Draw a token id from ``logits [vocab]``."""
    if sampling.temperature == 0:
        return int(logits.argmax())
    order = np.argsort(-logits, kind="stable")
    below = logits[order].astype(np.float64) - logits[order[0]]
    if sampling.top_k:
        below = below[: sampling.top_k]
    with np.errstate(over="ignore"):  # next to a tiny temperature the distance is infinite, and the probability 0
        probabilities = np.exp(below / sampling.temperature)
    probabilities /= probabilities.sum()
    # The most likely tokens up to and including the one that reaches top_p.
    kept = int(np.searchsorted(np.cumsum(probabilities), sampling.top_p)) + 1
    probabilities = probabilities[:kept]
    return int(order[random.choice(len(probabilities), p=probabilities / probabilities.sum())])


class Generation(Iterator[int]):
    """Token ids as they are generated; ``stopped`` says why there are no more, once there are none."""

    def __init__(
        self,
        session: Session,
        prompt: list[int],
        *,
        max_tokens: int | None = None,
        sampling: Sampling | None = None,
        eos_token_ids: tuple[int, ...] = (),
    ) -> None:
        check("max_tokens", max_tokens)
        self.stopped: StopReason | None = None
        self.tokens: list[int] = []
        self._session = session
        self._max_tokens = max_tokens
        self._sampling = sampling or Sampling()
        self._eos_token_ids = eos_token_ids
        self._random = np.random.default_rng(self._sampling.seed)
        self._logits: npt.NDArray[np.float32] | None = session.feed(prompt)

    def __next__(self) -> int:
        if self.stopped is not None:
            raise StopIteration
        if self._max_tokens is not None and len(self.tokens) >= self._max_tokens:
            return self._stop(StopReason.MAX_TOKENS)
        if self._logits is None:
            if self._session.position >= self._session.capacity:
                return self._stop(StopReason.CONTEXT_FULL)
            self._logits = self._session.feed(self.tokens[-1:])
        token = sample(self._logits, self._sampling, self._random)
        if token in self._eos_token_ids:
            return self._stop(StopReason.END_OF_TEXT)
        self.tokens.append(token)
        self._logits = None
        return token

    def _stop(self, reason: StopReason) -> int:
        self.stopped = reason
        raise StopIteration


def generate(
    session: Session,
    tokenizer: Tokenizer,
    prompt: str,
    *,
    max_tokens: int | None = None,
    sampling: Sampling | None = None,
    eos_token_ids: tuple[int, ...] | None = None,
) -> Generation:
    """Start generating after a prompt; iterate for token ids, or give them to `Tokenizer.stream` for text.

    Args:
        session: a decoder's, fresh or after `Session.reset`.
        tokenizer: the model's.
        prompt: the text to continue.
        max_tokens: tokens to generate at most; until the context is full if not given.
        sampling: how the next token is drawn; greedily if not given.
        eos_token_ids: the tokens that end the text; the tokenizer's if not given.

    Raises:
        ContextFull: the prompt alone does not fit.
        InputError: the prompt is empty, or a setting is out of its range.
    """
    ids = tokenizer.encode(prompt)
    if not ids:
        what = f"holds nothing that {tokenizer.path} has a token for" if prompt else "is empty"
        raise InputError(f"the prompt {what}; give at least one character that becomes a token")
    ends = tokenizer.eos_token_ids if eos_token_ids is None else eos_token_ids
    return Generation(session, ids, max_tokens=max_tokens, sampling=sampling, eos_token_ids=ends)
