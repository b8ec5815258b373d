"""Palettes: the values of some rows gathered around a few numbers, by k-means.

Lloyd, *Least squares quantization in PCM* (1957/1982), in one dimension, where the nearest entry is found by the
middles between neighbours. The tables are then no grid but lie where the values are.
"""

from __future__ import annotations

from typing import Final

import torch

from edgeqkv.errors import UnsupportedError
from edgeqkv.model.schemes import Palette
from edgeqkv.model.weights import PalettizedWeight, Weight, table_units

__all__ = ["as_stored", "k_means", "palettized", "places", "to_nearest_entry"]

_ROUNDS: Final = 20  # after which a table of 16 moves no more than float16 can tell, on trained weights

_VALUES_AT_ONCE: Final = 1 << 20  # bounds the memory of sorting, 20 bytes a value


def to_nearest_entry(weight: Weight, palette: Palette) -> PalettizedWeight:
    """Palettize a matrix ``[rows, columns]``; the palette's rows must divide the matrix's."""
    values = weight.tensor.float().contiguous()
    tables = k_means(values, palette)
    return palettized(weight, places(values, tables), tables, palette)


def k_means(values: torch.Tensor, palette: Palette, importance: torch.Tensor | None = None) -> torch.Tensor:
    """Tables ``[groups, entries]`` of the values ``[rows, columns]`` of each group, as they are stored.

    They start at evenly spaced quantiles. An entry that no value is near stays where it is.

    Args:
        values: the matrix.
        palette: how many rows share a table, of how many entries.
        importance: what an error in each column costs, ``[columns]``; None: all the same.
    """
    flat = values.reshape(values.shape[0] // palette.rows, -1)
    counts = (torch.ones(values.shape[1]) if importance is None else importance).repeat(palette.rows)
    return torch.cat([_k_means(part, counts, palette.entries) for part in torch.split(flat, _groups_at_once(flat))])


def _k_means(flat: torch.Tensor, counts: torch.Tensor, entries: int) -> torch.Tensor:
    ordered, order = flat.sort(-1)
    quantiles = (torch.arange(entries) + 0.5) / entries * flat.shape[1]
    tables = ordered[:, quantiles.long()]
    # Each entry becomes the mean of a run of the ordered values: differences of their running sums.
    counted = counts.double()[order]
    sums, parts = (
        torch.cat([torch.zeros(len(flat), 1, dtype=torch.float64), each.cumsum(-1)], dim=1)
        for each in (counted * ordered, counted)
    )
    for _ in range(_ROUNDS):
        ends = torch.searchsorted(ordered, _middles(tables), right=True)
        stops = torch.cat([ends, torch.full_like(ends[:, :1], flat.shape[1])], dim=1)
        starts = torch.cat([torch.zeros_like(ends[:, :1]), ends], dim=1)
        some = stops > starts
        of_runs, in_all = (each.gather(1, stops) - each.gather(1, starts) for each in (parts, sums))
        tables = torch.where(some, (in_all / of_runs.where(some, torch.ones(()).double())).float(), tables)
    return as_stored(tables)


def as_stored(tables: torch.Tensor) -> torch.Tensor:
    """Tables ``[groups, entries]`` rounded to float16's digits, of numbers however small."""
    units = table_units(tables)
    return tables.half().float() if units is None else (tables / units[:, None]).half().float() * units[:, None]


def places(values: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Where in its group's table the entry nearest to each value stands, uint8 of the values' shape."""
    flat = values.reshape(len(tables), -1)
    groups = _groups_at_once(flat)
    found = [
        torch.searchsorted(_middles(table), part.contiguous()).to(torch.uint8)
        for part, table in zip(torch.split(flat, groups), torch.split(tables, groups), strict=True)
    ]
    return torch.cat(found).view(values.shape)


def _groups_at_once(flat: torch.Tensor) -> int:
    return max(1, _VALUES_AT_ONCE // flat.shape[1])


def palettized(weight: Weight, codes: torch.Tensor, tables: torch.Tensor, palette: Palette) -> PalettizedWeight:
    """The weight with these codes and tables.

    Raises:
        UnsupportedError: an entry is beyond float16.
    """
    if not tables.isfinite().all():
        largest = float(weight.tensor.abs().max())
        raise UnsupportedError(
            f"'{weight.name}' reaches {largest:.3g}, beyond float16's largest number, in which tables are stored; "
            f"no format that takes {palette.name} can hold it"
        )
    return PalettizedWeight(weight.name, weight.tensor, palette.name, codes=codes, tables=tables, palette=palette)


def _middles(tables: torch.Tensor) -> torch.Tensor:
    return ((tables[:, 1:] + tables[:, :-1]) / 2).contiguous()
