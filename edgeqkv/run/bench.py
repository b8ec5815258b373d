"""How fast a session is here: tokens a second of a prompt and of generation, or inputs a second of an encoder.

The figures are of this machine and this moment: comparing two rows needs both from one quiet machine.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgeqkv.errors import InputError
from edgeqkv.model.pixels import normalized
from edgeqkv.run.session import EncoderSession, Session
from edgeqkv.settings import check_all

__all__ = ["BenchResult", "bench_session"]

_SEED = 20261125


class BenchResult(BaseModel):
    """One measurement, repeated.

    Attributes:
        test: ``prompt``, ``generate`` or ``run``.
        count: tokens, or inputs, of one repetition.
        position: tokens that stood in the state before it.
        per_second: of each repetition.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    test: str
    count: int
    position: int
    per_second: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.per_second))

    @property
    def deviation(self) -> float:
        """Standard deviation of the repetitions."""
        return float(np.std(self.per_second))


def bench_session(
    session: Session | EncoderSession, *, prompt: int, generate: int, repeats: int
) -> tuple[BenchResult, ...]:
    """Measure a session; the first repetition of each kind is run once before, and not counted.

    Args:
        session: the session.
        prompt: tokens of the prompt, at once; of an encoder, the inputs.
        generate: tokens that are fed one by one behind it; an encoder generates none.
        repeats: repetitions that count.

    Raises:
        InputError: a number is beyond its range, or prompt and generation do not fit into the context.
    """
    check_all(prompt=prompt, generate=generate, repeats=repeats)
    random = np.random.default_rng(_SEED)
    if isinstance(session, EncoderSession):
        return (_repeated("run", prompt, 0, _inputs(session, prompt, random), repeats),)
    if prompt + generate > session.capacity:
        raise InputError(
            f"a prompt of {prompt} tokens and {generate} more do not fit into the context of {session.capacity}; "
            f"choose fewer"
        )
    ids = random.integers(0, session.vocab_size, prompt + generate)

    def feed_prompt() -> float:
        session.reset()
        started = time.perf_counter()
        session.feed(ids[:prompt])
        return time.perf_counter() - started

    def feed_rest() -> float:
        if session.position != prompt:
            session.reset()
            session.feed(ids[:prompt])
        started = time.perf_counter()
        for token in ids[prompt:]:
            session.feed(token[None])
        return time.perf_counter() - started

    return (
        _repeated("prompt", prompt, 0, feed_prompt, repeats),
        _repeated("generate", generate, prompt, feed_rest, repeats),
    )


def _inputs(session: EncoderSession, count: int, random: np.random.Generator) -> Callable[[], float]:
    artifact = session.artifact
    shape = (count, *(int(size) for size in artifact.whole_input.shape[1:]))
    if artifact.vocab_size is not None:
        inputs: npt.NDArray[Any] = random.integers(0, artifact.vocab_size, shape)
    elif artifact.normalization is not None:
        pixels = random.integers(0, 256, shape).astype(np.uint8)
        inputs = normalized(pixels, artifact.normalization.mean, artifact.normalization.std)
    else:
        inputs = random.normal(size=shape).astype(np.float32)

    def run() -> float:
        started = time.perf_counter()
        session.run(inputs)
        return time.perf_counter() - started

    return run


def _repeated(test: str, count: int, position: int, seconds_of: Callable[[], float], repeats: int) -> BenchResult:
    seconds_of()
    rates = tuple(count / seconds_of() for _ in range(repeats))
    return BenchResult(test=test, count=count, position=position, per_second=rates)
