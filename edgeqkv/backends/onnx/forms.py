"""What a form makes of attention, as far as it decides what the state holds."""

from __future__ import annotations

from edgeqkv.backends.target import TargetSpec

__all__ = ["is_fused", "most_tokens"]


def is_fused(spec: TargetSpec) -> bool:
    """Whether attention is ONNX Runtime's own operator, which makes no float copy of an int8 state."""
    return spec.form == "ort" or (spec.form == "genai" and spec.state == "int8")


def most_tokens(spec: TargetSpec) -> int:
    """The most tokens that a call may take, on which the length of a window's ring depends (`Network.state`).

    The context, where there are no rings: the fused operator knows none, and onnxruntime-genai feeds a prompt at once.
    """
    if is_fused(spec) or spec.form == "genai":
        return int(spec.context or 1)
    return spec.chunk or 1
