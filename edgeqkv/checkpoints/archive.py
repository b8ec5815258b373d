"""What a checkpoint file holds, whatever its container."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Final

import torch

from edgeqkv.errors import CheckpointError, InputError
from edgeqkv.model import storage
from edgeqkv.reading import shown

__all__ = ["Archive", "numbers_of"]

_WEIGHTS: Final = "model_state_dict"

# Where training scripts keep weights that were averaged over the steps, beside those of the last step.
_AVERAGES: Final = (
    "ema_state_dict",
    "ema_model_state_dict",
    "model_ema_state_dict",
    "state_dict_ema",
    "model_ema",
    "ema_model",
    "ema",
)
_HOLDERS: Final = ("shadow", "shadow_params", "module", "state_dict", "model")  # in which averagers keep their tensors

# Modules around a module, which put their names into its tensors' names, at any depth: of torch.compile, of
# activation checkpointing and of both generations of FullyShardedDataParallel.
_WRAPPERS: Final = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_fpw_module"})
# Around a whole model: of DataParallel, DistributedDataParallel and AveragedModel; of a class that calls it its model,
# as Lightning's do; of Lightning Fabric.
_OUTERMOST: Final = frozenset({"module", "model", "_forward_module"})
_COUNTER: Final = "n_averaged"  # of AveragedModel, beside the module


@dataclass(frozen=True)
class Archive:
    """A checkpoint's top-level dict. Its tensors are views into the mapped file.

    Attributes:
        path: the file.
        contents: the dict; its keys are strings.
        notes: what a reader should know of how it was read.
    """

    path: Path
    contents: Mapping[str, Any]
    notes: tuple[str, ...] = ()

    def entry(self, key: str) -> Mapping[Any, Any]:
        """The dict under ``key``.

        Raises:
            CheckpointError: what is there is something else.
        """
        value = self.contents[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"'{key}' in {self.path} is {shown(value)}, not a dict")
        return value

    def state_dict(self) -> dict[str, Any]:
        """The model's tensors, by the names that its class gives them, whatever it was wrapped in when it was saved.

        Raises:
            CheckpointError: there is no dict of them, or two have the same name.
        """
        names: dict[str, str] = {}
        state = {}
        for key, tensor in self.entry(_WEIGHTS).items():
            told = key if isinstance(key, str) else shown(key)
            name = _unwrapped(told)
            if name == _COUNTER:
                continue
            if name in names:
                raise CheckpointError(
                    f"'{names[name]}' and '{told}' in {self.path} are both '{name}', apart from the names of wrappers "
                    f"around the model; save it with one of them"
                )
            names[name], state[name] = told, tensor
        return state

    def with_weights(self, *, averaged: bool) -> Archive:
        """The archive whose model is made of the averaged weights, or of those of the last step; it notes the choice.

        Raises:
            InputError: averaged ones were asked for, and there are none.
        """
        found = next((key for key in _AVERAGES if isinstance(self.contents.get(key), Mapping)), None)
        if found is None:
            if averaged:
                raise InputError(
                    f"{self.path} holds no averaged weights ({', '.join(_AVERAGES[:3])}, …): leave out --ema"
                )
            return self
        weights = self.contents[found]
        holder = next((key for key in _HOLDERS if isinstance(weights.get(key), Mapping)), None)
        average = replace(
            self,
            contents={**self.contents, _WEIGHTS: weights if holder is None else weights[holder]},
            notes=(*self.notes, f"the averaged weights ({found}) were taken"),
        )
        if averaged:
            return average
        if _WEIGHTS not in self.contents:
            return replace(average, notes=(*self.notes, f"only averaged weights ({found}) are in the file"))
        note = (
            f"the weights of the last step ({_WEIGHTS}) were taken, not the averaged ones ({found}): --ema takes those"
        )
        return replace(self, notes=(*self.notes, note))

    def numbers(self, *keys: str) -> dict[str, int | float]:
        """What is under these keys, where it is a number."""
        return numbers_of({key: self.contents[key] for key in keys if key in self.contents})


def numbers_of(values: Mapping[Any, Any]) -> dict[str, int | float]:
    """The entries that are finite numbers of at most 64 bits, or tensors of one such; others are left out."""
    found = {key if isinstance(key, str) else shown(key): _number(value) for key, value in values.items()}
    return {key: value for key, value in found.items() if value is not None}


def _number(value: object) -> int | float | None:
    if isinstance(value, torch.Tensor):
        if storage.fault(value) or value.numel() != 1 or value.is_complex():
            return None
        value = value.item()
    if isinstance(value, int):
        return value if value.bit_length() <= 64 else None
    return float(value) if isinstance(value, Real) and math.isfinite(value) else None


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] in _OUTERMOST:
        del parts[0]
    return ".".join(parts)
