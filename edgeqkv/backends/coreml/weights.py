"""Weights as constants of the functions of one program, every one of them stored once."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

from edgeqkv.backends.coreml._compat import store_once
from edgeqkv.backends.coreml.mil import Var, mb, types
from edgeqkv.model.layers import Rope
from edgeqkv.model.weights import PalettizedWeight, QuantizedWeight, Weight

__all__ = ["LARGEST_DIMENSION", "WeightPool"]

LARGEST_DIMENSION: Final = 16384
"""The Neural Engine takes no tensor with a larger dimension (public reports; not documented)."""


_LEAST_EXPONENT: Final = -14  # of a normal number of fp16

# A weight, a part of a quantized one, a table in another shape, a rule's numbers, or the size of a bias of zeros.
_Key = Weight | tuple[Weight, str] | tuple[Weight, tuple[int, ...]] | tuple[Rope, str] | int


class WeightPool:
    """Hands out a weight's constant in whatever function is being built.

    The functions of a program cannot share a constant, but constants with the same ``weight_id`` share the
    place in ``weight.bin``, and all of them share one array in memory.
    """

    def __init__(self) -> None:
        self._arrays: dict[_Key, npt.NDArray[Any]] = {}
        self._ids: dict[_Key, str] = {}
        self._parts: dict[Weight, tuple[Weight, ...]] = {}
        self._constants: dict[_Key, Var] = {}

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
        if isinstance(weight, QuantizedWeight):
            return self._restored(weight, rank)
        if isinstance(weight, PalettizedWeight):
            return self._looked_up(weight, rank)
        if weight not in self._arrays:
            self._arrays[weight] = _with_rank(weight.stored(), rank)
            weight.release_pages()
        return self._constant(weight, weight.name)

    def _restored(self, weight: QuantizedWeight, rank: int) -> Var:
        """The codes and scales as constants, and the operation that multiplies them when the model is loaded."""
        if weight not in self._constants:
            codes, scales = (weight, "codes"), (weight, "scales")
            if codes not in self._arrays:
                integers = _with_rank(weight.codes, rank)
                narrow = weight.scheme.bits == 4
                self._arrays[codes] = integers.astype(types.np_int4_dtype) if narrow else integers
                self._arrays[scales] = _with_rank(_divided(weight.scales, weight.units).half(), rank)
                weight.release_pages()
            self._constants[weight] = mb.constexpr_blockwise_shift_scale(
                data=self._constant(codes, f"{weight.name}_codes"),
                scale=self._constant(scales, f"{weight.name}_scales"),
                name=_valid(weight.name),
            )
        return self._constants[weight]

    def arranged(self, table: Weight, shape: tuple[int, ...], *, transposed: bool = False) -> Var:
        """The numbers of a table that is added to others, in another shape; its rows and columns change places first
        if it is to be ``transposed``."""
        key = (table, shape)
        if key not in self._arrays:
            values = table.values().half()
            self._arrays[key] = (values.T if transposed else values).contiguous().numpy().reshape(shape)
        return self._constant(key, table.name)

    def _looked_up(self, weight: PalettizedWeight, rank: int) -> Var:
        """The codes and tables as constants, and the operation that looks them up when the model is loaded."""
        if weight not in self._constants:
            codes, tables = (weight, "codes"), (weight, "tables")
            if codes not in self._arrays:
                self._arrays[codes] = _with_rank(weight.codes, rank).astype(types.np_uint4_dtype)
                # A table for each group of rows, and one for all of every other dimension; of single numbers.
                groups, entries = weight.tables.shape
                shape = (groups, *[1] * (rank - 1), entries, 1)
                units = None if weight.units is None else weight.units[:: weight.palette.rows]
                self._arrays[tables] = _divided(weight.tables, units).half().numpy().reshape(shape)
                weight.release_pages()
            self._constants[weight] = mb.constexpr_lut_to_dense(
                indices=self._constant(codes, f"{weight.name}_codes"),
                lut=self._constant(tables, f"{weight.name}_tables"),
                name=_valid(weight.name),
            )
        return self._constants[weight]

    def factors(self, weight: Weight, shape: tuple[int, ...]) -> list[Var]:
        """What a product with a weight's rows, or what was looked up of them, is to be multiplied by, one after the
        other: of small numbers the constant holds multiples (`half_units`). Of the shape, or none."""
        units = getattr(weight, "units", None)
        if units is None:
            return []
        # No factor is below float16's smallest normal number: a product of two is, at most.
        exponents = units.log2().round()
        halves = (exponents / 2).floor()
        parts = [exponents] if exponents.min() >= _LEAST_EXPONENT else [halves, exponents - halves]
        found = []
        for index, part in enumerate(parts):
            name = f"units_{'x'.join(map(str, shape))}_{index}"
            self._arrays.setdefault((weight, name), part.exp2().half().numpy().reshape(shape))
            found.append(self._constant((weight, name), f"{weight.name}_{name}"))
        return found

    def numbers(self, key: tuple[Rope, str], make: Callable[[], npt.NDArray[np.float32]]) -> Var:
        """Numbers that follow from a model's rules, in fp32, made once."""
        if key not in self._arrays:
            self._arrays[key] = make()
        return self._constant(key, f"{key[1]}_{len(self._constants)}")

    def zeros(self, size: int) -> Var:
        """The bias of a matrix product that has none: ``linear`` would make one of its own at every place."""
        self._arrays.setdefault(size, np.zeros(size, np.float16))
        return self._constant(size, f"zeros_{size}")

    def _constant(self, key: _Key, name: str) -> Var:
        if key not in self._constants:
            constant = mb.const(val=self._arrays[key], name=_valid(name))
            store_once(constant, self._ids.setdefault(key, str(len(self._ids))))
            self._constants[key] = constant
        return self._constants[key]


def _with_rank(tensor: torch.Tensor, rank: int) -> npt.NDArray[Any]:
    array = tensor.contiguous().numpy()
    return array.reshape(array.shape + (1,) * (rank - array.ndim))


def _divided(numbers: torch.Tensor, units: torch.Tensor | None) -> torch.Tensor:
    return numbers if units is None else numbers / units[:, None]


def _valid(name: str) -> str:
    # coremltools makes names valid itself, but only where a function is called "main".
    return re.sub(r"^(?=\d)|\W", "_", name, flags=re.ASCII)
