"""An estimate of what a device's fp16 arithmetic does to a model, made without one.

The evaluator computes every operation of the saved package in fp32 and rounds its result to fp16. Core ML fuses
operations and sums in its own order, so a device's numbers are others; their size, and where the range of fp16
becomes tight, are what this tells.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Final

from edgeqkv.backends.coreml.calls import CAUSAL_MASK
from edgeqkv.backends.coreml.encoder_session import CoreMLEncoderSession
from edgeqkv.backends.coreml.engines import EvaluatorEngine
from edgeqkv.backends.coreml.session import CoreMLSession
from edgeqkv.bundle.manifest import Artifact, EncoderArtifact
from edgeqkv.pipeline.encoder_proof import EncoderProof, compare_outputs
from edgeqkv.pipeline.proof import Proof, Verification, compare

__all__ = ["estimate_encoder_fp16", "estimate_fp16"]

_ENGINE: Final = "evaluator (fp16)"

_NARROWEST: Final = 5  # operations that are named


def estimate_fp16(directory: Path, artifact: Artifact, proof: Proof) -> dict[str, Any]:
    """Feed a proof to the package, rounding after every operation.

    Returns:
        ``max_abs_error`` and ``scale`` of the logits, ``argmax_equal`` of ``steps``, ``overflowed`` (the
        operations whose results left the range of fp16), and ``narrowest``: the operations that came closest to
        it, with their ``headroom``, how many times larger their results could be.
    """
    functions = [graph.name for graph in artifact.graphs]
    engine = EvaluatorEngine(directory / artifact.graphs[0].file, functions, "fp16")
    return _estimate(compare(CoreMLSession(directory, artifact, engine), proof, _ENGINE), engine)


def estimate_encoder_fp16(directory: Path, artifact: EncoderArtifact, proof: EncoderProof) -> dict[str, Any]:
    """As `estimate_fp16`, for an encoder; ``steps`` are its answers."""
    engine = EvaluatorEngine(directory / artifact.file, [artifact.function or "main"], "fp16")
    return _estimate(compare_outputs(CoreMLEncoderSession(directory, artifact, engine), proof, _ENGINE), engine)


def _estimate(result: Verification, engine: EvaluatorEngine) -> dict[str, Any]:
    # The masks are made of a constant, which says nothing about the model.
    computed = {where: peak for where, peak in engine.peaks.items() if not where[1].startswith(CAUSAL_MASK)}
    ranked = sorted(computed.items(), key=lambda item: item[1].headroom)
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


def _place(function: str, operation: str) -> str:
    return f"{function}/{operation}"
