"""What goes into an encoder's export and what comes out, whatever the target."""

from __future__ import annotations

from edgeqkv.bundle.manifest import TensorSpec
from edgeqkv.model.model import EncoderConfig

__all__ = ["input_spec", "output_spec"]

_NAMES = {"tokens": "input_ids", "features": "features", "image": "pixels"}


def input_spec(config: EncoderConfig, batch: int, ids: str, numbers: str = "fp32") -> TensorSpec:
    """``[batch, …]``: token ids of the type ``ids``, or features or pixels of the type ``numbers``."""
    kind = config.input.kind
    dtype = ids if kind == "tokens" else numbers
    return TensorSpec(name=_NAMES[kind], dtype=dtype, shape=(batch, *config.input.shape))


def output_spec(config: EncoderConfig, batch: int, numbers: str = "fp32") -> TensorSpec:
    """``logits [batch, …]`` of the type ``numbers``."""
    return TensorSpec(name="logits", dtype=numbers, shape=(batch, *config.output_shape))
