"""A checkpoint's tensors, taken one by one by name and expected shape, so that whatever does not fit is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from edgeqkv.errors import CheckpointError
from edgeqkv.model import storage
from edgeqkv.model.weights import Weight

__all__ = ["Tensors"]


class Tensors:
    """The tensors of one file. Every one is to be taken once; what is left over at the end is an error."""

    def __init__(self, path: Path, state: Mapping[str, torch.Tensor]) -> None:
        self._path = path
        self._state = dict(state)
        self._taken: set[str] = set()

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

        Raises:
            CheckpointError: it is missing, of another shape, not made of floating-point numbers, reaches beyond its
                storage or overlaps itself.
        """
        tensor = self._state.get(name)
        if not isinstance(tensor, torch.Tensor):
            known = ", ".join(sorted(self._state)[:6])
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
        self._taken.add(name)
        return Weight(name, tensor.detach())

    def check_all_taken(self, hint: str) -> None:
        """Raise `CheckpointError` if tensors are left that nothing asked for."""
        left = sorted(set(self._state) - self._taken)
        if left:
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            raise CheckpointError(
                f"{self._path} holds tensors that this architecture does not have: {', '.join(left[:4])}{more} ({hint})"
            )
