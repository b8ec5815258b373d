"""Comparing edgeqkv's reading of a model with the implementation that it was made with.

Targets are proven against edgeqkv's reference, which shares the reading of the checkpoint with the export. So where the
original class can be run, its logits are the first proof: of everything at once, and token by token from its own cache.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.bundle.manifest import Verification
from edgeqkv.checkpoints import huggingface
from edgeqkv.errors import VerificationFailed
from edgeqkv.extras import installed_version
from edgeqkv.memory import give_back
from edgeqkv.model.model import Model
from edgeqkv.pipeline.proof import allowed_difference, proof_tokens
from edgeqkv.progress import Progress
from edgeqkv.reference.outputs import sequence_logits

__all__ = ["compare_with_original"]

_TOKENS: Final = 64
_DECODED: Final = 16
_LONGEST_WINDOW: Final = 512  # a longer one is no slip of a position's that a short text could show


def compare_with_original(model: Model, on_progress: Progress) -> Verification | None:
    """Compare the logits of the reference with the original class's at every position; None if it has none.

    The original is read in float32, which takes 4 bytes a parameter while it runs.

    Raises:
        VerificationFailed: they differ.
    """
    if model.source.format != huggingface.FORMAT:
        return None
    on_progress(f"comparing with {model.source.model_class}", None)
    windows = [block.attention.window or 0 for block in model.network.blocks]
    longest = max((window for window in windows if window <= _LONGEST_WINDOW), default=0)
    tokens = proof_tokens(model.config.vocab_size, min(model.config.positions, max(_TOKENS, longest + _DECODED)))
    with huggingface.quiet("running the original implementation"):
        prefill, decoded = _original_logits(huggingface.original(model.source), tokens)
    give_back()
    result = _compared(sequence_logits(model, tokens), prefill, decoded, _engine(model))
    if not result.passed:
        raise VerificationFailed(
            f"edgeqkv does not compute what {result.engine} makes of {model.source.path.name}: {result.failure}. No "
            f"bundle was written"
        )
    return result


@torch.inference_mode()
def _original_logits(
    original: Any, tokens: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """All logits at once ``[T, vocab]``, and those of the last tokens one by one ``[n, vocab]``."""
    ids = torch.from_numpy(tokens)[None]
    prefill: npt.NDArray[np.float32] = original(ids).logits[0].numpy()
    decoded = max(1, min(_DECODED, len(tokens) - 1))
    cache = original(ids[:, :-decoded], use_cache=True).cache if decoded < len(tokens) else None
    rows = []
    for place in range(len(tokens) - decoded, len(tokens)):
        step = original(ids[:, place : place + 1], cache=cache, use_cache=True)
        cache = step.cache
        rows.append(step.logits[0, -1].numpy())
    return prefill, np.stack(rows)


def _compared(
    own: npt.NDArray[np.float32], prefill: npt.NDArray[np.float32], decoded: npt.NDArray[np.float32], engine: str
) -> Verification:
    wanted = np.concatenate((prefill, decoded))
    got = np.concatenate((own, own[-len(decoded) :]))
    scale = float(np.abs(wanted).max())
    tolerance = allowed_difference("fp32", wanted)
    errors = np.nan_to_num(np.abs(got - wanted), nan=np.inf).max(1)
    worst, step = float(errors.max()), int(errors.argmax())
    position, kind = (step, "prefill") if step < len(own) else (step - len(decoded), "decode")
    failure = f"logits differ by {worst:.3g} at position {position} ({kind}); {tolerance:.3g} is allowed"
    return Verification(
        passed=worst <= tolerance,
        max_abs_error=worst,
        tolerance=tolerance,
        scale=scale,
        steps=len(wanted),
        positions=len(own),
        argmax_equal=int((got.argmax(1) == wanted.argmax(1)).sum()),
        compared=wanted.shape[1],
        engine=engine,
        failure="" if worst <= tolerance else failure,
    )


def _engine(model: Model) -> str:
    return f"transformers {installed_version('transformers')} ({model.source.model_class})"
