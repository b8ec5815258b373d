"""Perplexity of an artifact and of its original on the same tokens of a text: what quantization costs.

A text is cut into windows as long as the context. The first half of each is fed as a prompt, and every token of the
second half is predicted by decode from all that stands before it in the window: so that prefill, decode and the state
take part in the figure as they do in an app.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from edgeqkv.bundle.manifest import Quality
from edgeqkv.errors import InputError
from edgeqkv.progress import Progress, silent
from edgeqkv.run.session import Session

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["excess", "original_perplexity", "session_perplexity"]

_MOST_WINDOWS = 16  # bounds the time; at a context of 2048 these are 16 000 predicted tokens


def excess(quality: Quality, title: str, most: float) -> str:
    """What to say if the perplexity rose by more than ``most``, a part of the original's; empty if it did not."""
    if quality.degradation is None or quality.degradation <= most:
        return ""
    return (
        f"{title}'s perplexity on {quality.text} is {quality.perplexity:.2f}, the original's {quality.original:.2f}: "
        f"{quality.degradation:.1%} more, where {most:.1%} is allowed. Calibrate (--calibrate TEXT), tune what is "
        f"calibrated (--tune STEPS), keep the head in int8 (--keep-head int8), or use weights int8"
    )


def session_perplexity(
    session: Session, tokens: npt.NDArray[np.int64], on_progress: Progress = silent
) -> tuple[float, int]:
    """Perplexity of a session on ``tokens [n]``, and how many of them were predicted."""
    windows = list(_windows(tokens, session.capacity))

    def logits(index: int, window: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        on_progress("measuring the perplexity", index / len(windows))
        session.reset()
        half = len(window) // 2
        return np.stack([session.feed(window[:half]), *(session.feed([token]) for token in window[half:-1])])

    return _perplexity(windows, logits)


def original_perplexity(model: Model, tokens: npt.NDArray[np.int64], context: int) -> tuple[float, int]:
    """Perplexity of a model on the same tokens as a session of that context, and how many were predicted."""
    from edgeqkv.reference.outputs import sequence_logits

    def logits(_: int, window: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        return sequence_logits(model, window[:-1], rows=range(len(window) // 2 - 1, len(window) - 1))

    return _perplexity(list(_windows(tokens, context)), logits)


def _windows(tokens: npt.NDArray[np.int64], context: int) -> Iterator[npt.NDArray[np.int64]]:
    length = min(context, len(tokens))
    if length < 4:
        raise InputError(f"perplexity needs a text of 4 tokens or more and such a context; there are {length}")
    for start in range(0, min(len(tokens) // length, _MOST_WINDOWS) * length, length):
        yield tokens[start : start + length]


def _perplexity(
    windows: list[npt.NDArray[np.int64]],
    logits_of: Callable[[int, npt.NDArray[np.int64]], npt.NDArray[np.float32]],
) -> tuple[float, int]:
    loss, count = 0.0, 0
    for index, window in enumerate(windows):
        truth = window[len(window) // 2 :]
        logits = logits_of(index, window).astype(np.float64)
        peak = logits.max(1, keepdims=True)
        normalizer = np.log(np.exp(logits - peak).sum(1)) + peak[:, 0]
        loss += float((normalizer - logits[np.arange(len(truth)), truth]).sum())
        count += len(truth)
    return float(np.exp(loss / count)), count
