"""What goes into an encoder's graph and what comes out, whatever the target."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from edgeqkv.bundle.manifest import Role, TensorSpec

if TYPE_CHECKING:
    from edgeqkv.model.model import EncoderConfig

__all__ = ["input_spec", "output_spec"]

# By the kind of the input: its name and its role.
_INPUTS: Final[dict[str, tuple[str, Role]]] = {
    "tokens": ("input_ids", "tokens"),
    "features": ("features", "features"),
    "image": ("pixels", "pixels"),
}


def input_spec(config: EncoderConfig, batch: int, ids: str, numbers: str = "fp32") -> TensorSpec:
    """``[batch, …]``: token ids of the type ``ids``, or features or pixels of the type ``numbers``."""
    name, role = _INPUTS[config.input.kind]
    dtype = ids if role == "tokens" else numbers
    return TensorSpec(name=name, dtype=dtype, shape=(batch, *config.input.shape), role=role)


def output_spec(config: EncoderConfig, batch: int, numbers: str = "fp32") -> TensorSpec:
    """``logits [batch, …]`` of the type ``numbers``."""
    return TensorSpec(name="logits", dtype=numbers, shape=(batch, *config.output_shape), role="logits")
