"""An estimate of what a device's fp16 arithmetic does to a model, made without one.

An engine that computes every operation of the saved file in fp32 and rounds its result to fp16 tells how large results
get. A device fuses operations and sums in its own order, so its numbers are others; their size, and where the range of
fp16 becomes tight, are what this tells.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

import numpy as np

from edgeqkv.backends import backend
from edgeqkv.bundle.manifest import Artifact, Ranges
from edgeqkv.errors import UnsupportedError
from edgeqkv.pipeline.proof import SEED, Proof, proof_inputs
from edgeqkv.run.session import EncoderSession, Session, open_artifact

__all__ = ["estimate_ranges", "measure_ranges"]

_NARROWEST: Final = 5  # operations that are named
_DECODED: Final = 2  # single tokens
_FP16_MAX: Final = 65504.0


def estimate_ranges(directory: Path, artifact: Artifact, proof: Proof) -> dict[str, Any]:
    """Feed a proof to an artifact, rounding after every operation.

    Returns:
        ``max_abs_error`` and ``scale`` of the logits, ``argmax_equal`` of ``steps`` (an encoder's are its answers),
        ``overflowed`` (the operations whose results left the range of fp16), and ``narrowest``: the operations that
        came closest to it, with their ``headroom``, how many times larger their results could be.

    Raises:
        UnsupportedError: the target has no engine that looks at ranges.
    """
    target = backend(artifact.target)
    if target.range_engine is None:
        raise UnsupportedError(f"{target.title} has no engine here that tells how large results get")
    session = open_artifact(directory, artifact, target.range_engine)
    result = proof.compare(session, target.range_engine)
    peaks: dict[tuple[str, str], Any] = session.runner.peaks  # type: ignore[attr-defined]  # a range engine has them
    ranked = sorted(peaks.items(), key=lambda item: item[1].headroom)
    return {
        "max_abs_error": result.max_abs_error,
        "scale": result.scale,
        "argmax_equal": result.argmax_equal,
        "steps": result.steps,
        "overflowed": [_place(*where) for where, peak in ranked if peak.overflowed or peak.nonfinite],
        "narrowest": [
            {
                "operation": _place(*where),
                "type": peak.type,
                "largest": peak.largest,
                "headroom": peak.headroom if math.isfinite(peak.headroom) else None,
            }
            for where, peak in ranked[:_NARROWEST]
        ],
    }


def measure_ranges(session: Session | EncoderSession, engine: str) -> Ranges:
    """What a call of each kind says of an artifact's ranges: a chunk of a prompt and some single tokens, or a batch."""
    _call_each_graph(session)
    peaks: dict[tuple[str, str], Any] = session.runner.peaks  # type: ignore[attr-defined]  # a range engine has them
    at, most = max(peaks.items(), key=lambda item: item[1].largest)
    beyond = [
        f"{_place(*where)} reaches {'infinity' if peak.nonfinite else format(peak.largest, '.3g')}"
        + (f", and its {peak.type} must stay below {peak.limit:g}" if peak.limit < _FP16_MAX else "")
        for where, peak in peaks.items()
        if peak.overflowed or peak.nonfinite or peak.headroom < 1
    ]
    return Ranges(
        engine=engine,
        largest=most.largest,
        at=_place(*at),
        share=most.largest / _FP16_MAX,
        overflowed=tuple(beyond[:_NARROWEST]),
    )


def _call_each_graph(session: Session | EncoderSession) -> None:
    artifact = session.artifact
    if isinstance(session, EncoderSession):
        session.run(proof_inputs(artifact)[: artifact.batch])
        return
    tokens = np.random.default_rng(SEED).integers(0, session.vocab_size, (artifact.chunk or 1) + _DECODED)
    chunk, rest = tokens[:-_DECODED], tokens[-_DECODED:][: session.capacity]
    session.reset()
    session.feed(chunk)
    if session.position + len(rest) > session.capacity:
        session.reset()
    for token in rest:
        session.feed(token[None])


def _place(function: str, operation: str) -> str:
    return f"{function}/{operation}"
