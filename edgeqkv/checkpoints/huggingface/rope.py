"""Rotary positions as numbers, by the rules of the library that trained the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from edgeqkv.checkpoints.huggingface.family import Config, Family
from edgeqkv.errors import CheckpointError
from edgeqkv.model.layers import Rope

__all__ = ["positions", "rope"]


def rope(config: Config, family: Family, head_dim: int, layer_type: str | None) -> Rope:
    """The rotation of a model's layers, or of those of one type, where the config tells them apart.

    Raises:
        CheckpointError: its rule is unknown, or lacks a number.
    """
    try:
        frequencies, factor = _frequencies(config, family, head_dim, layer_type)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(
            f"rope_parameters in the config of this {family.title} model are {dict(config.rope_parameters)}, of which "
            f"transformers makes no frequencies: {type(error).__name__}: {error}"
        ) from error
    return Rope(2 * len(frequencies), tuple(frequencies.tolist()), attention_factor=float(factor))


def _frequencies(config: Config, family: Family, head_dim: int, layer_type: str | None) -> tuple[torch.Tensor, float]:
    parameters = _parameters(config, layer_type)
    kind = parameters.get("rope_type", "default")
    if kind == "default":
        part = parameters.get("partial_rotary_factor", 1.0) if "partial_rotary_factor" in family.keys else 1.0
        dims = int(head_dim * part)
        return 1.0 / parameters["rope_theta"] ** (torch.arange(0, dims, 2, dtype=torch.float) / dims), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    nested = {"layer_type": layer_type} if layer_type in config.rope_parameters else {}
    result: tuple[torch.Tensor, float] = ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), **nested)
    return result


def positions(config: Config) -> tuple[int, str]:
    """The longest context of a model, and a note where that is less than its config says.

    Frequencies that change with the length of a text (longrope) would turn the keys that are stored already: beyond
    the length from which on they do, the original itself is no longer the same from one token to the next.
    """
    longest = int(config.max_position_embeddings)
    parameters = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") != "longrope":
        return longest, ""
    short = int(getattr(config, "original_max_position_embeddings", None) or longest)
    if short >= longest:
        return longest, ""
    return short, (
        f"the config allows {longest} positions with other rotary frequencies than up to {short} (longrope); edgeqkv "
        f"exports those up to {short}"
    )


def _parameters(config: Config, layer_type: str | None) -> Mapping[str, Any]:
    all_: Mapping[str, Any] = config.rope_parameters
    nested: Mapping[str, Any] | None = all_.get(layer_type) if layer_type is not None else None
    return all_ if nested is None else nested
