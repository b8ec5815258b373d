"""What a checkpoint is, in facts: for people (`edgeqkv inspect`) and for scripts (``--json``)."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from edgeqkv.backends import TARGETS, backend
from edgeqkv.backends.target import forms_of
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.state import kept_by_layers
from edgeqkv.pipeline.spec import kind_of

if TYPE_CHECKING:
    from edgeqkv.model.model import Model

__all__ = ["describe"]

_STATES = ("fp32", "fp16")
_WEIGHTS = {"decoder": ("fp32", "fp16"), "encoder": ("fp32", "fp16", "int8")}


def describe(model: Model) -> dict[str, Any]:
    """Everything that the checkpoint tells, as JSON values; sizes are in bytes. An encoder has no ``state``."""
    kind = kind_of(model)
    causal = kind == "decoder"
    exports = {}
    for target in map(backend, TARGETS):
        exports[target.name] = {
            "forms": list(forms_of(target, causal=causal)),
            "weights": list(target.schemes),
            **({"states": list(target.states)} if causal else {}),
        }
    return {
        "file": str(model.source.path),
        "format": model.source.format,
        "class": model.source.model_class,
        "variant": model.described,
        "parameters": model.parameters,
        "config": dataclasses.asdict(model.config),
        **({"state": _state(model)} if causal else {}),
        "weight_bytes": {name: model.parameters * Dtype(name).bytes for name in _WEIGHTS[kind]},
        "exports": exports,
        "training": model.source.training,
        "notes": list(model.notes),
    }


def _state(model: Model) -> dict[str, Any]:
    positions = model.config.positions
    attentions = [block.attention for block in model.network.blocks]
    keeping = sum(attention.source is None for attention in attentions)
    tensors = sum(len(attention.roles) for attention in attentions)
    stored = sum(len(attention.roles) * attention.heads.kv * attention.heads.dim for attention in attentions)
    unshared = sum(attention.unshared for attention in attentions)
    return {
        "layers_with_state": keeping,
        "tensors_per_layer": tensors // keeping if tensors % keeping == 0 else tensors / keeping,
        "bytes_per_token": {name: model.state_bytes(1, Dtype(name).bytes) for name in _STATES},
        "bytes_at_full_context": {name: model.state_bytes(positions, Dtype(name).bytes) for name in _STATES},
        "reduction_against_qkv": 1 - stored / unshared,
        "layers": list(kept_by_layers(model.network.blocks)),
    }
