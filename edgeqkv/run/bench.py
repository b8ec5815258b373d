"""How fast a session is here: what a prompt takes, and a token at several fills of the state; or an encoder's input.

The figures are of this machine and this moment: comparing two needs both from one run, in turn (`edgeqkv.bench`).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from edgeqkv.errors import InputError
from edgeqkv.model.pixels import normalized
from edgeqkv.run.session import EncoderSession, Session

__all__ = ["Load", "Round", "bench_round", "check_load", "default_fills", "peak_memory"]

_SEED = 20261125
_SHORT = 128  # tokens that a chat begins with


class Load(BaseModel):
    """What a session is to do in a round.

    Attributes:
        prompt: tokens of the prompt, at once; of an encoder, inputs.
        generate: tokens that are fed one by one at each fill.
        fills: tokens that stand in the state before them; of an encoder none.
        repeats: repetitions that count.
        warmup: repetitions before them that do not.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: int
    generate: int
    fills: tuple[int, ...] = ()
    repeats: int
    warmup: int


class Round(BaseModel):
    """What one process measured, in seconds and bytes.

    Attributes:
        load: from nothing but the imported runtime to a session that has taken a token, or an input.
        first_token: the first prompt after that.
        prompts: each repetition of the prompt; of an encoder, of its inputs.
        tokens: at each fill, every single token.
        peak_bytes: the most memory that the process held; 0 where the system does not tell.
        imported_bytes: what it held with the runtime imported, and no model.
        bytes_per_second: how fast this process reads memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    load: float
    first_token: float
    prompts: tuple[float, ...]
    tokens: tuple[tuple[float, ...], ...] = ()
    peak_bytes: int
    imported_bytes: int
    bytes_per_second: float = 0.0


def default_fills(context: int, generate: int) -> tuple[int, ...]:
    """Where decoding is measured if nobody says: early, in the middle and at the end of the context.

    >>> default_fills(2048, 16), default_fills(64, 8)
    ((128, 1024, 2032), (32, 56))
    """
    wanted = (_SHORT, context // 2, context - generate)
    return tuple(sorted({fill for fill in wanted if 0 < fill <= context - generate}))


def check_load(load: Load, context: int, where: str) -> None:
    """Raise `InputError` where the tokens do not fit into a context; ``where`` is whose it is."""
    most = max((load.prompt, *(fill + load.generate for fill in load.fills)))
    if most <= context:
        return
    fill = max(load.fills, default=0)
    what = f"{fill} tokens and {load.generate} more" if most > load.prompt else f"a prompt of {load.prompt} tokens"
    raise InputError(f"{what} do not fit into the context of {context} of {where}; choose fewer")


def bench_round(opened: Callable[[], Session | EncoderSession], load: Load) -> Round:
    """Open a session and measure it. The process is to have imported the runtime, and nothing of the model."""
    random = np.random.default_rng(_SEED)
    imported = peak_memory()
    started = time.perf_counter()
    session = opened()
    if isinstance(session, EncoderSession):
        inputs = _inputs(session, load.prompt, random)
        session.run(inputs[:1])
        loaded = time.perf_counter() - started
        runs = [_timed(lambda: session.run(inputs)) for _ in range(1 + load.warmup + load.repeats)]
        return Round(
            load=loaded,
            first_token=runs[0],
            prompts=tuple(runs[-load.repeats :]),
            peak_bytes=peak_memory(),
            imported_bytes=imported,
        )
    ids = random.integers(0, session.vocab_size, session.capacity)
    session.feed(ids[:1])
    loaded = time.perf_counter() - started
    session.reset()
    first = _timed(lambda: session.feed(ids[: load.prompt]))
    prompts: list[float] = []
    tokens: list[list[float]] = [[] for _ in load.fills]
    for repeat in range(load.warmup + load.repeats):
        session.reset()
        prompt = _timed(lambda: session.feed(ids[: load.prompt]))
        fed = [_decoded(session, ids, fill, load.generate) for fill in load.fills]
        if repeat >= load.warmup:
            prompts.append(prompt)
            for all_, new in zip(tokens, fed, strict=True):
                all_ += new
    return Round(
        load=loaded,
        first_token=first,
        prompts=tuple(prompts),
        tokens=tuple(map(tuple, tokens)),
        peak_bytes=peak_memory(),
        imported_bytes=imported,
    )


def _decoded(session: Session, ids: npt.NDArray[np.int64], fill: int, count: int) -> list[float]:
    """Seconds of each of ``count`` tokens that are fed one by one where ``fill`` stand already."""
    if session.position > fill:
        session.reset()
    if session.position < fill:
        session.feed(ids[session.position : fill])
    seconds = []
    for token in ids[fill : fill + count]:
        started = time.perf_counter()
        session.feed(token[None])
        seconds.append(time.perf_counter() - started)
    return seconds


def _timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def _inputs(session: EncoderSession, count: int, random: np.random.Generator) -> npt.NDArray[Any]:
    artifact = session.artifact
    shape: Sequence[int] = (count, *(int(size) for size in artifact.whole_input.shape[1:]))
    if artifact.vocab_size is not None:
        return random.integers(0, artifact.vocab_size, shape)
    if artifact.normalization is not None:
        pixels = random.integers(0, 256, shape).astype(np.uint8)
        return normalized(pixels, artifact.normalization.mean, artifact.normalization.std)
    return random.normal(size=shape).astype(np.float32)


def peak_memory() -> int:
    """The most memory that this process has held so far (resident), in bytes; 0 where the system does not tell."""
    most = 0
    if sys.platform == "linux":
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        most = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return most
