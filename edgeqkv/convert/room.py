"""Where a conversion's large tensors lie: in memory, and in a temporary file what that has no room for."""

from __future__ import annotations

import math
import mmap
import os
import tempfile
import weakref

import torch

from edgeqkv.errors import InputError
from edgeqkv.model import storage
from edgeqkv.units import amount

__all__ = ["Room"]

Tensor = torch.Tensor


class Room:
    """Room for tensors.

    What the limit has no room for is mapped from a file without a name in the folder for temporary files (``TMPDIR``),
    and goes with the process. Whoever is done with a tensor for a while gives its memory back with
    `edgeqkv.model.storage.give_back`; of one in the file, the system then keeps as much as it has room for.

    Args:
        limit: bytes of memory that the tensors may take together; None: however many.
    """

    def __init__(self, limit: int | None = None) -> None:
        self._left = limit

    def zeros(self, *shape: int) -> Tensor:
        """A float32 tensor.

        Raises:
            InputError: the disk has no room for it either.
        """
        count = math.prod(shape) * torch.float32.itemsize
        if self._left is not None and count > self._left:
            return _mapped(count).view(shape)
        made = torch.zeros(shape)
        if self._left is not None:
            self._left -= count
            weakref.finalize(made.untyped_storage(), self._freed, count).atexit = False
        return made

    def kept(self, tensor: Tensor) -> Tensor:
        """A float32 tensor's numbers; they take up room as long as they are used."""
        if self._left is None:
            return tensor
        place = self.zeros(*tensor.shape)
        place.copy_(tensor)
        storage.give_back(place)
        return place

    def _freed(self, count: int) -> None:
        assert self._left is not None
        self._left += count


def _mapped(count: int) -> Tensor:
    try:
        with tempfile.TemporaryFile() as file:
            if hasattr(os, "posix_fallocate"):  # else a full disk would show when the memory is written to, as a crash
                os.posix_fallocate(file.fileno(), 0, count)
            else:
                file.truncate(count)
            memory = mmap.mmap(file.fileno(), count)
    except OSError as error:
        raise InputError(
            f"conversion needs {amount(count)} in {tempfile.gettempdir()} for what --memory has no room for: "
            f"{error.strerror or error}. Name another folder (TMPDIR), or give it more memory"
        ) from error
    tensor = torch.frombuffer(memory, dtype=torch.float32)
    storage.register_mapped(tensor)
    return tensor
