"""One trained tensor of a model, and the precision in which an export stores it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

import torch

from edgeqkv.errors import UnsupportedError
from edgeqkv.model import storage
from edgeqkv.model.dtypes import Dtype
from edgeqkv.model.schemes import Palette, Scheme

__all__ = ["PRECISIONS", "PalettizedWeight", "QuantizedWeight", "Weight", "half_units", "some_rows", "table_units"]

_VALUES_AT_ONCE: Final = 1 << 22

_HALF_NORMAL: Final = 2.0**-14
"""Float16's smallest number with all its digits. Chips may take smaller ones for zero."""

_HALF_LOSS: Final = 0.01
"""What a matrix may lose to float16, as a part of it: less than 8 bits take."""

PRECISIONS: Final = (Dtype.FP32, Dtype.FP16)
"""In which a weight that is not quantized is stored."""


def some_rows(rows: int, columns: int) -> Iterator[slice]:
    """All rows of a matrix, some at a time: bounds the memory of what is worked out on the way, a few bytes a value."""
    step = max(1, _VALUES_AT_ONCE // columns)
    return (slice(start, start + step) for start in range(0, rows, step))


@dataclass(frozen=True, eq=False)
class Weight:
    """A trained tensor, usually a view into a memory-mapped checkpoint.

    Identity is meaning: the same `Weight` in two places is one tensor, stored once in every artifact (a tied
    embedding and head). Hence no equality by value.

    Attributes:
        name: its name in the checkpoint (a part of a fused tensor carries its rows: ``c_attn.weight[0:64]``).
        tensor: the values as the checkpoint holds them, in any floating-point type.
        precision: how an artifact stores it, a key of `PRECISIONS`.
    """

    name: str
    tensor: torch.Tensor
    precision: str = "fp32"

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def stored_bytes(self) -> int:
        """Bytes it takes in an artifact."""
        return self.tensor.numel() * Dtype(self.precision).bytes

    def with_precision(self, precision: str) -> Weight:
        """The same values, to be stored in this precision.

        Raises:
            UnsupportedError: one of them is beyond its range, or the matrix is so small that it has too few digits.
        """
        limit = torch.finfo(Dtype(precision).torch).max
        if limit < torch.finfo(self.tensor.dtype).max:
            low, high = self.tensor.aminmax()
            self.release_pages()
            peak = max(-float(low), float(high))
            if peak > limit:
                raise UnsupportedError(
                    f"'{self.name}' reaches {peak:.3g}, beyond {precision}'s largest number {limit:.5g}; "
                    f"use weights fp32"
                )
            lost = self._lost_to(precision) if peak < 16 * _HALF_NORMAL else 0.0
            if lost > _HALF_LOSS:
                raise UnsupportedError(
                    f"'{self.name}' reaches no more than {peak:.3g}, of which {precision} loses {lost:.0%}; "
                    f"use weights fp32, or int8 or int4, which keep matrices of any size"
                )
        return replace(self, precision=precision)

    def _lost_to(self, precision: str) -> float:
        """What rounding a matrix takes of it, as a part of its norm; of vectors, which are added to others, nothing."""
        if self.tensor.dim() < 2:
            return 0.0
        exact = self.tensor.double()
        lost = exact - self.tensor.to(Dtype(precision).torch)
        return float(lost.norm() / exact.norm().clamp_min(torch.finfo(torch.float64).tiny))

    def stored(self) -> torch.Tensor:
        """The values as an artifact stores them, row by row; a view of the checkpoint where it has them so."""
        return self.tensor.to(Dtype(self.precision).torch).contiguous()

    def values(self) -> torch.Tensor:
        """What the artifact's stored values mean, in float32: the truth that a backend is compared with."""
        return self.stored().float()

    def rows(self, start: int, stop: int) -> Weight:
        """The rows ``start:stop``, as a weight of their own; this one if that is all of them."""
        if (start, stop) == (0, self.tensor.shape[0]):
            return self
        return replace(self, name=f"{self.name}[{start}:{stop}]", tensor=self.tensor[start:stop])

    def reshaped(self, *shape: int) -> Weight:
        """The same numbers in another shape; what it shares memory with stays the same."""
        return replace(self, tensor=self.tensor.view(shape))

    def release_pages(self) -> None:
        """Give back the memory of the pages of ``tensor`` that a mapped file holds too.

        Without this an export would hold the model twice: as read and as verified.
        """
        storage.give_back(self.tensor)


def half_units(largest: torch.Tensor, needed: torch.Tensor) -> torch.Tensor | None:
    """By what to divide rows before they are stored in float16, so that it holds them with all their digits.

    Args:
        largest: each row's largest magnitude, ``[rows]``.
        needed: which rows have numbers that float16 would hold with fewer.

    Returns:
        Powers of two ``[rows]``, 1 for a row that needs none, from 2^-28 on, which is two numbers of float16
        multiplied. Where a row was divided its largest is about 1/8: products with it stay as small as ordinary ones.
        None if no row is to be divided.
    """
    exponents = torch.where(needed & (largest > 0), torch.frexp(largest).exponent + 2, 0).clamp(-28, 0)
    return torch.ldexp(torch.ones_like(largest), exponents) if exponents.any() else None


def table_units(tables: torch.Tensor) -> torch.Tensor | None:
    """`half_units` of tables ``[groups, entries]``: they need them where few of their entries would be normal."""
    largest = tables.abs().amax(-1)
    return half_units(largest, largest < 128 * _HALF_NORMAL)


@dataclass(frozen=True, eq=False)
class QuantizedWeight(Weight):
    """A matrix ``[rows, columns]`` as integers and scales; ``tensor`` still holds what it was made from.

    Attributes:
        codes: int8 ``[rows, columns]``, within the scheme's range whatever its bits.
        scales: float32 ``[rows, columns / block]``, of so few digits that every code times its scale is exact in
            float16, but for its range (`units`), so that all formats restore the same numbers. Where the scheme has
            multiples: whole multiples of ``row_scales``.
        scheme: how it was quantized. Its block divides the columns.
        row_scales: float32 ``[rows]``, where the scheme has multiples.
    """

    codes: torch.Tensor = field(kw_only=True)
    scales: torch.Tensor = field(kw_only=True)
    scheme: Scheme = field(kw_only=True)
    row_scales: torch.Tensor | None = field(kw_only=True, default=None)

    @property
    def stored_bytes(self) -> int:
        if self.row_scales is None:
            return self.codes.numel() * self.scheme.bits // 8 + self.scales.nbytes
        return self.codes.numel() * self.scheme.bits // 8 + self.scales.numel() + self.row_scales.nbytes

    def stored(self) -> torch.Tensor:
        """The integers; a backend stores the scales beside them."""
        return self.codes

    @property
    def block_peaks(self) -> torch.Tensor:
        """The largest magnitude that each block restores, of the scales' shape."""
        low, high = self.codes.view(*self.scales.shape, self.scheme.block).aminmax(dim=-1)
        return torch.maximum(-low.float(), high.float()) * self.scales

    @property
    def units(self) -> torch.Tensor | None:
        """`half_units` of its scales."""
        peaks = self.block_peaks
        least = self.scales.masked_fill(peaks == 0, torch.inf).amin(1)
        return half_units(peaks.amax(1), least < _HALF_NORMAL)

    def values(self) -> torch.Tensor:
        rows, columns = self.codes.shape
        blocks = self.codes.view(rows, -1, self.scheme.block)
        values = torch.empty(blocks.shape)
        # The codes of a whole table in float32 would take as much again as its values.
        for some in some_rows(rows, columns):
            torch.mul(blocks[some], self.scales[some, :, None], out=values[some])
        return values.view(rows, columns)

    def rows(self, start: int, stop: int) -> QuantizedWeight:
        if (start, stop) == (0, self.shape[0]):
            return self
        return replace(
            self,
            name=f"{self.name}[{start}:{stop}]",
            tensor=self.tensor[start:stop],
            codes=self.codes[start:stop],
            scales=self.scales[start:stop],
            row_scales=None if self.row_scales is None else self.row_scales[start:stop],
        )


@dataclass(frozen=True, eq=False)
class PalettizedWeight(Weight):
    """A matrix ``[rows, columns]`` as places in tables; ``tensor`` still holds what it was made from.

    Attributes:
        codes: uint8 ``[rows, columns]``, below the palette's number of entries.
        tables: float32 ``[rows / palette.rows, entries]``, ascending, each number one that float16 holds exactly, but
            for its range (`units`).
        palette: how it was quantized. Its rows divide the matrix's.
    """

    codes: torch.Tensor = field(kw_only=True)
    tables: torch.Tensor = field(kw_only=True)
    palette: Palette = field(kw_only=True)

    @property
    def stored_bytes(self) -> int:
        return self.codes.numel() * self.palette.bits // 8 + self.tables.numel() * 2

    @property
    def units(self) -> torch.Tensor | None:
        """`half_units` of its tables, a number for every row."""
        units = table_units(self.tables)
        return None if units is None else units.repeat_interleave(self.palette.rows)

    def stored(self) -> torch.Tensor:
        """The codes; a backend stores the tables beside them."""
        return self.codes

    def values(self) -> torch.Tensor:
        codes = self.codes.view(len(self.tables), -1).long()
        return self.tables.gather(1, codes).view(self.codes.shape)

    def rows(self, start: int, stop: int) -> PalettizedWeight:
        if (start, stop) == (0, self.shape[0]):
            return self
        each = self.palette.rows
        assert start % each == stop % each == 0, "a table serves whole groups of rows"
        return replace(
            self,
            name=f"{self.name}[{start}:{stop}]",
            tensor=self.tensor[start:stop],
            codes=self.codes[start:stop],
            tables=self.tables[start // each : stop // each],
        )
