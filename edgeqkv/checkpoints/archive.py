"""What a checkpoint file holds, whatever its container."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edgeqkv.errors import CheckpointError

__all__ = ["Archive"]

# Modules around a module, which put their names into its tensors' names, at any depth: of torch.compile, of
# activation checkpointing and of FullyShardedDataParallel.
_WRAPPERS: Final = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module"})
_OUTERMOST: Final = "module"  # of DataParallel and DistributedDataParallel, which go around a whole model


@dataclass(frozen=True)
class Archive:
    """A checkpoint's top-level dict. Its tensors are views into the mapped file."""

    path: Path
    contents: Mapping[str, Any]

    def entry(self, key: str) -> Mapping[str, Any]:
        """The dict under ``key``.

        Raises:
            CheckpointError: what is there is something else.
        """
        value = self.contents[key]
        if not isinstance(value, Mapping):
            raise CheckpointError(f"'{key}' in {self.path} is a {type(value).__name__}, not a dict")
        return value

    def state_dict(self) -> dict[str, Any]:
        """The model's tensors, by the names that its class gives them, whatever it was wrapped in when it was saved.

        Raises:
            CheckpointError: there is no dict of them, or two have the same name.
        """
        names: dict[str, str] = {}
        state = {}
        for key, tensor in self.entry("model_state_dict").items():
            name = _unwrapped(str(key))
            if name in names:
                raise CheckpointError(
                    f"'{names[name]}' and '{key}' in {self.path} are both '{name}', apart from the names of wrappers "
                    f"around the model; save it with one of them"
                )
            names[name], state[name] = str(key), tensor
        return state


def _unwrapped(name: str) -> str:
    parts = [part for part in name.split(".") if part not in _WRAPPERS]
    while len(parts) > 1 and parts[0] == _OUTERMOST:
        del parts[0]
    return ".".join(parts)
