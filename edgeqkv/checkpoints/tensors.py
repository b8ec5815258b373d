"""A checkpoint's tensors, taken one by one by name and expected shape, so that whatever does not fit is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch

from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage
from edgeqkv.model.weights import Weight
from edgeqkv.reading import shortened

__all__ = ["Tensors"]

_TYPES: Final = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})


class Tensors:
    """The tensors of one file. Every one is to be taken once; what is left over at the end is an error."""

    def __init__(self, path: Path, state: Mapping[str, torch.Tensor]) -> None:
        self._path = path
        self._state = dict(state)
        self._taken: set[str] = set()
        self._weights: dict[tuple[object, ...], Weight] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def rows(self, name: str) -> int:
        """The first dimension of a tensor; 0 if it has none."""
        return next(iter(self._shape(name)), 0)

    def columns(self, name: str) -> int:
        """The second dimension of a tensor; 0 if it has none."""
        return next(iter(self._shape(name)[1:]), 0)

    def _shape(self, name: str) -> tuple[int, ...]:
        """Of what is no tensor, or a nested one, which has none, nothing: `take` says what is wrong with it."""
        tensor = self._state.get(name)
        return tuple(tensor.shape) if isinstance(tensor, torch.Tensor) and not tensor.is_nested else ()

    def take(self, name: str, shape: tuple[int, ...]) -> Weight:
        """The tensor ``name``, which must have this shape and a floating-point type.

        Two names of the same numbers in memory are one weight.

        Raises:
            CheckpointError: it is missing, of another shape, empty, not made of floating-point numbers of a usual type,
                reaches beyond its storage or overlaps itself.
        """
        tensor = self._state.get(name)
        if not isinstance(tensor, torch.Tensor):
            known = ", ".join(map(shortened, sorted(self._state)[:6]))
            raise CheckpointError(
                f"'{name}' is missing from {self._path}; it has {len(self._state)} tensors: {known}, …"
            )
        if fault := storage.fault(tensor):
            raise CheckpointError(f"'{name}' in {self._path} {fault}")
        if tuple(tensor.shape) != shape:
            raise CheckpointError(
                f"'{name}' in {self._path} has shape {list(tensor.shape)}; its config and the other tensors ask for "
                f"{list(shape)}"
            )
        if not tensor.dtype.is_floating_point:
            raise CheckpointError(f"'{name}' in {self._path} is of type {tensor.dtype}, not floating point")
        if tensor.dtype not in _TYPES:
            raise CheckpointError(
                f"'{name}' in {self._path} is of type {tensor.dtype}, which edgeqkv does not read; save the checkpoint "
                f"in bfloat16 or float32, with the scales of its tensors, if it has any, multiplied in"
            )
        if not tensor.numel():
            raise CheckpointError(f"'{name}' in {self._path} is empty: its shape is {list(shape)}")
        self._taken.add(name)
        plain = tensor.detach().resolve_neg()
        same = (plain.data_ptr(), plain.dtype, plain.shape, plain.stride())
        return self._weights.setdefault(same, Weight(name, plain))

    def check_intact(self) -> None:
        """Read what was taken, and raise `CheckpointError` if its bytes are not those that were saved.

        For a reader that computes with the numbers; whoever only passes them on leaves it to `Model.check_finite`.
        """
        for name in sorted(self._taken):
            if not storage.is_intact(self._state[name]):
                raise CheckpointError(
                    f"'{name}' in {self._path} is damaged: its checksum is not the one that the file states. Copy or "
                    f"download it again"
                )

    def check_all_taken(self, hint: str) -> None:
        """Raise `CheckpointError` if tensors are left that nothing asked for."""
        left = sorted(set(self._state) - self._taken)
        if left:
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            raise CheckpointError(
                f"{self._path} holds tensors that this architecture does not have: "
                f"{', '.join(map(shortened, left[:4]))}{more} ({hint})"
            )
