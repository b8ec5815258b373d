"""Weights as constants of the functions of one program, every one of them stored once."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
import numpy.typing as npt

from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.weights import Weight

__all__ = ["LARGEST_DIMENSION", "WeightPool"]

LARGEST_DIMENSION: Final = 16384
"""The Neural Engine takes no tensor with a larger dimension (public reports; not documented)."""


class WeightPool:
    """Hands out a weight's constant in whatever function is being built.

    The functions of a program cannot share a constant, but constants with the same ``weight_id`` share the
    place in ``weight.bin``, and all of them share one array in memory.
    """

    def __init__(self) -> None:
        self._arrays: dict[Weight | int, npt.NDArray[np.float16]] = {}
        self._ids: dict[Weight | int, str] = {}
        self._parts: dict[Weight, tuple[Weight, ...]] = {}
        self._constants: dict[Weight | int, Var] = {}

    def begin_function(self) -> None:
        """From here on, constants are made in another function."""
        self._constants = {}

    def parts(self, table: Weight) -> tuple[Weight, ...]:
        """The rows of a table as weights of at most `LARGEST_DIMENSION` rows; the same ones at every call."""
        if table not in self._parts:
            rows = table.shape[0]
            starts = range(0, rows, LARGEST_DIMENSION)
            self._parts[table] = tuple(table.rows(n, min(n + LARGEST_DIMENSION, rows)) for n in starts)
        return self._parts[table]

    def constant(self, weight: Weight, rank: int) -> Var:
        """The weight as a constant of ``rank`` dimensions, those that it lacks being 1 at the end."""
        if weight not in self._arrays:
            array = weight.stored().contiguous().numpy()
            self._arrays[weight] = array.reshape(array.shape + (1,) * (rank - array.ndim))
            weight.release_pages()
        return self._constant(weight, weight.name)

    def zeros(self, size: int) -> Var:
        """The bias of a matrix product that has none: ``linear`` would make one of its own at every place."""
        self._arrays.setdefault(size, np.zeros(size, np.float16))
        return self._constant(size, f"zeros_{size}")

    def _constant(self, key: Weight | int, name: str) -> Var:
        if key not in self._constants:
            # coremltools makes names valid itself, but only where a function is called "main".
            constant = mb.const(val=self._arrays[key], name=re.sub(r"\W", "_", name, flags=re.ASCII))
            constant.op.weight_id = self._ids.setdefault(key, str(len(self._ids)))
            self._constants[key] = constant
        return self._constants[key]
