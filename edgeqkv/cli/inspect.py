"""What a checkpoint is, in facts: for people (`edgeqkv inspect`) and for scripts (``--json``)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from edgeqkv.backends import TARGETS, backend
from edgeqkv.bundle.manifest import ELEMENT_BYTES

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["describe"]

_STATES = ("fp32", "fp16")


def describe(model: Model) -> dict[str, Any]:
    """Everything that the checkpoint tells, as JSON values; sizes are in bytes."""
    config = model.config
    reduction = model.variant.reduction(config.heads)
    return {
        "file": str(model.source.path),
        "format": model.source.format,
        "class": model.source.model_class,
        "variant": str(model.variant),
        "parameters": model.parameters,
        "config": dataclasses.asdict(config),
        "state": {
            "tensors_per_layer": model.variant.sharing.tensors,
            "bytes_per_token": {name: model.state_bytes(1, ELEMENT_BYTES[name]) for name in _STATES},
            "bytes_at_full_context": {
                name: model.state_bytes(config.positions, ELEMENT_BYTES[name]) for name in _STATES
            },
            "reduction_against_qkv": float(reduction),
        },
        "weight_bytes": {name: model.parameters * ELEMENT_BYTES[name] for name in _STATES},
        "exports": {
            name: {
                "forms": list(backend(name).forms),
                "weights": list(backend(name).weights),
                "states": list(backend(name).states),
            }
            for name in TARGETS
        },
        "training": model.source.training,
        "notes": list(model.notes),
    }
