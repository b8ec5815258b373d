"""MIL's operations that move values without computing with them (opsets iOS15 to iOS18), on torch tensors.

Positions out of range are errors here, never clamped: a device may clamp them, read nothing in
particular or fault, so a program that produces one is wrong whatever the device does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from edgeqkv.mil.errors import InputError, PackageError, UnsupportedOperation
from edgeqkv.mil.table import OpTable, axes_of, integer, integers, wide

__all__ = ["MOVES", "assign_slice"]

MOVES = OpTable()

_SCATTER_MODES = {"mul": "prod", "div": "prod", "max": "amax", "min": "amin"}
_TO_THE_END = 2**31 - 1


@MOVES.op
def identity(x: Tensor) -> Tensor:
    return x


@MOVES.op
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    return torch.where(cond, a, b)


@MOVES.op
def shape(x: Tensor) -> Tensor:
    return torch.tensor(x.shape, dtype=torch.int32)


@MOVES.op
def reshape(x: Tensor, shape: Tensor) -> Tensor:
    """A 0 takes the size of ``x`` at the same distance from the last dimension (iOS17), else 1."""
    sizes = integers(shape)
    for back in range(1, len(sizes) + 1):
        if sizes[-back] == 0:
            sizes[-back] = x.shape[-back] if back <= x.dim() else 1
    return x.reshape(sizes)


@MOVES.op
def transpose(x: Tensor, perm: Tensor) -> Tensor:
    return x.permute(integers(perm))


@MOVES.op
def expand_dims(x: Tensor, axes: Tensor) -> Tensor:
    for axis in sorted(axes_of(axes, x.dim() + axes.numel())):
        x = x.unsqueeze(axis)
    return x


@MOVES.op
def squeeze(x: Tensor, axes: Tensor | None = None) -> Tensor:
    """Dimensions that are not 1 stay, as in torch."""
    return x.squeeze(axes_of(axes, x.dim()))


@MOVES.op
def reverse(x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.flip(axes_of(axes, x.dim()))


@MOVES.op
def concat(values: Sequence[Tensor], axis: Tensor, interleave: Tensor | bool = False) -> Tensor:
    """Scalars become the elements of a vector; interleaved, the inputs take turns along the axis."""
    parts = [value.reshape(1) if value.dim() == 0 else value for value in values]
    dim = integer(axis) % parts[0].dim()
    if interleave:
        return torch.stack(parts, dim + 1).flatten(dim, dim + 1)
    return torch.cat(parts, dim)


@MOVES.op
def stack(values: Sequence[Tensor], axis: Tensor) -> Tensor:
    return torch.stack(list(values), integer(axis))


@MOVES.op
def split(
    x: Tensor, axis: Tensor, num_splits: Tensor | None = None, split_sizes: Tensor | None = None
) -> tuple[Tensor, ...]:
    dim = integer(axis)
    if split_sizes is not None:
        return torch.split(x, integers(split_sizes), dim)
    if num_splits is None:
        raise PackageError("it has neither num_splits nor split_sizes")
    return torch.split(x, x.shape[dim] // integer(num_splits), dim)


@MOVES.op
def tile(x: Tensor, reps: Tensor) -> Tensor:
    return x.repeat(integers(reps))


@MOVES.op
def pad(x: Tensor, pad: Tensor, mode: str = "constant", constant_val: Tensor | float = 0.0) -> Tensor:
    """``pad``: (before, after) of the last dimensions, in their order."""
    amounts = [(0, 0)] * (x.dim() - pad.numel() // 2) + list(zip(*[iter(integers(pad))] * 2, strict=True))
    if mode == "constant":
        backwards = [amount for pair in reversed(amounts) for amount in pair]
        return F.pad(x, backwards, value=constant_val.item() if isinstance(constant_val, Tensor) else 0.0)
    if mode not in ("reflect", "replicate"):
        raise UnsupportedOperation(f"the mode {mode!r} is unknown")
    for dim, pair in enumerate(amounts):
        positions = np.arange(x.shape[dim])
        padded = np.pad(positions, pair, mode="reflect" if mode == "reflect" else "edge")
        x = x.index_select(dim, torch.from_numpy(padded))
    return x


@MOVES.op
def fill(shape: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(integers(shape)).clone()


@MOVES.op
def fill_like(ref_tensor: Tensor, value: Tensor | float = 0.0) -> Tensor:
    return torch.as_tensor(value).expand(ref_tensor.shape).clone()


@MOVES.op
def range_1d(end: Tensor, start: Tensor, step: Tensor) -> Tensor:
    first, last, stride = (wide(each).item() for each in (start, end, step))
    return torch.arange(first, last, stride, dtype=wide(start).dtype)


@MOVES.op
def band_part(x: Tensor, lower: Tensor | int = -1, upper: Tensor | int = -1) -> Tensor:
    """Zeros outside the band; a negative bound keeps everything on its side."""
    rows, columns = (torch.arange(size) for size in x.shape[-2:])
    below = rows[:, None] - columns
    inside = torch.ones(x.shape[-2:], dtype=torch.bool)
    if integer(lower) >= 0:
        inside &= below <= integer(lower)
    if integer(upper) >= 0:
        inside &= -below <= integer(upper)
    return x.masked_fill(~inside, 0)


@MOVES.op
def one_hot(
    indices: Tensor,
    one_hot_vector_size: Tensor,
    axis: Tensor | int = -1,
    on_value: Tensor | int = 1,
    off_value: Tensor | int = 0,
) -> Tensor:
    """An index outside the vector leaves it off throughout."""
    dim = integer(axis) % (indices.dim() + 1)
    along = [1] * (indices.dim() + 1)
    along[dim] = -1
    hot = indices.unsqueeze(dim) == torch.arange(integer(one_hot_vector_size)).reshape(along)
    return torch.where(hot, torch.as_tensor(on_value), torch.as_tensor(off_value))


@MOVES.op
def gather(
    x: Tensor,
    indices: Tensor,
    axis: Tensor | int = 0,
    batch_dims: Tensor | int = 0,
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Slices of ``x`` along the axis; the first ``batch_dims`` dimensions are shared with the indices."""
    dim, shared = integer(axis) % x.dim(), integer(batch_dims)
    places = _places(indices, x.shape[dim], bool(validate_indices))
    result_shape = x.shape[:dim] + indices.shape[shared:] + x.shape[dim + 1 :]
    if not shared:
        return x.index_select(dim, places.reshape(-1)).reshape(result_shape)
    batches = zip(x.flatten(0, shared - 1), places.flatten(0, shared - 1), strict=True)
    picked = [each.index_select(dim - shared, place.reshape(-1)) for each, place in batches]
    return torch.stack(picked).reshape(result_shape)


@MOVES.op
def gather_along_axis(
    x: Tensor, indices: Tensor, axis: Tensor | int = 0, validate_indices: Tensor | bool = False
) -> Tensor:
    dim = integer(axis) % x.dim()
    return x.gather(dim, _places(indices, x.shape[dim], bool(validate_indices)))


@MOVES.op
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    """Whole slices along the axis are updated; the last one wins where indices repeat in mode "update"."""
    dim = integer(axis) % data.dim()
    along = [1] * data.dim()
    along[dim] = -1
    spread = indices.reshape(along).expand(updates.shape)
    return scatter_along_axis(data, spread, updates, dim, mode, validate_indices)


@MOVES.op
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: Tensor | int = 0,
    mode: str = "add",
    validate_indices: Tensor | bool = False,
) -> Tensor:
    dim = integer(axis) % data.dim()
    places = _places(indices, data.shape[dim], bool(validate_indices))
    target, values = wide(data), wide(updates)
    if mode == "update":
        return target.scatter(dim, places, values)
    if mode in ("add", "sub"):
        return target.scatter_add(dim, places, values if mode == "add" else -values)
    if mode not in _SCATTER_MODES or (mode == "div" and not values.is_floating_point()):
        raise UnsupportedOperation(f"the mode {mode!r} for {values.dtype}")
    return target.scatter_reduce(dim, places, values.reciprocal() if mode == "div" else values, _SCATTER_MODES[mode])


def _places(indices: Tensor, size: int, validate: bool) -> Tensor:
    """Indices counted from the front. A negative one counts from the end unless the program forbids it."""
    places = indices.long()
    lowest = 0 if validate else -size
    if places.numel() and not lowest <= int(places.min()) <= int(places.max()) < size:
        wrong = places[(places < lowest) | (places >= size)][0]
        raise InputError(f"index {int(wrong)} is out of range: the dimension holds {size}")
    return torch.where(places < 0, places + size, places)


@MOVES.op
def slice_by_size(x: Tensor, begin: Tensor, size: Tensor) -> Tensor:
    """A size of -1 reaches to the end."""
    for dim, (first, length) in enumerate(zip(integers(begin), integers(size), strict=True)):
        capacity = x.shape[dim]
        start = first + capacity if first < 0 else first
        stop = capacity if length == -1 else start + length
        _check_range(start, stop, capacity, dim)
        x = x.narrow(dim, start, stop - start)
    return x


@MOVES.op
def slice_by_index(
    x: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """``x[begin:end:stride]`` in each dimension.

    A mask stands for "from the first" or "to the last" element, ``squeeze_mask`` for the one at ``begin``.
    """
    slices, flipped, squeezed = _slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    part = x[slices]
    if flipped:
        part = part.flip(flipped)
    return part.squeeze(squeezed) if squeezed else part


@MOVES.op
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """``x`` with ``update`` in the place of the slice, which is given as in ``slice_by_index``."""
    return assign_slice(x.clone(), update, begin, end, stride, begin_mask, end_mask, squeeze_mask)


def assign_slice(
    x: Tensor,
    update: Tensor,
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None = None,
    begin_mask: Tensor | None = None,
    end_mask: Tensor | None = None,
    squeeze_mask: Tensor | None = None,
) -> Tensor:
    """``slice_update`` in place, for an ``x`` that nothing else refers to."""
    slices, flipped, squeezed = _slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    target = x[slices]
    expected = [size for dim, size in enumerate(target.shape) if dim not in squeezed]
    if list(update.shape) != expected:
        raise InputError(f"the slice to update is {expected}, the update is {list(update.shape)}")
    values = update.reshape(target.shape)
    target.copy_(values.flip(flipped) if flipped else values)
    return x


def _slices(
    sizes: Sequence[int],
    begin: Tensor,
    end: Tensor,
    stride: Tensor | None,
    begin_mask: Tensor | None,
    end_mask: Tensor | None,
    squeeze_mask: Tensor | None,
) -> tuple[tuple[slice, ...], list[int], list[int]]:
    """The slice of each dimension, and which of them are then flipped (negative strides) and squeezed."""
    rank = len(sizes)
    off = torch.zeros(rank, dtype=torch.bool)
    steps = [1] * rank if stride is None else integers(stride)
    from_first, to_last, single = (
        (off if mask is None else mask).tolist() for mask in (begin_mask, end_mask, squeeze_mask)
    )
    slices = []
    for dim, (size, first, last, step) in enumerate(zip(sizes, integers(begin), integers(end), steps, strict=True)):
        if single[dim]:
            start = first + size if first < 0 else first
            _check_range(start, start + 1, size, dim)
            slices.append(slice(start, start + 1))
        elif step > 0:
            start = 0 if from_first[dim] else first + size if first < 0 else first
            stop = size if to_last[dim] or last == _TO_THE_END else last + size if last < 0 else last
            _check_range(start, stop, size, dim)
            slices.append(slice(start, stop, step))
        else:
            start = size - 1 if from_first[dim] else first + size if first < 0 else first
            stop = -1 if to_last[dim] or last == -_TO_THE_END - 1 else last + size if last < 0 else last
            _check_range(stop + 1, start + 1, size, dim)
            slices.append(slice(start - (math.ceil((start - stop) / -step) - 1) * -step, start + 1, -step))
    flipped = [dim for dim in range(rank) if steps[dim] < 0 and not single[dim]]
    return tuple(slices), flipped, [dim for dim in range(rank) if single[dim]]


def _check_range(start: int, stop: int, size: int, dim: int) -> None:
    if not 0 <= start <= stop <= size:
        raise InputError(f"positions {start} to {stop} of dimension {dim} are out of range: its capacity is {size}")
