"""How new rows get into a state tensor ``[layers, kv_heads, length, head_dim]``, which holds all layers that are alike.

``SliceUpdate`` writes the rows at the position, the natural thing to do on the GPU and the CPU.
``OnehotUpdate`` writes a whole layer of the state, in which every position is either the new row that belongs
there or what it was: the operations have constant indices only, as the Neural Engine wants it. It is also how several
rows get into a ring, whose end they may pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeqkv.backends.coreml.mil import Var, mb

__all__ = ["OnehotUpdate", "Place", "SliceUpdate", "Slot", "Update"]


@dataclass(frozen=True)
class Place:
    """Where a call's tokens stand.

    Attributes:
        positions: ``[S]`` int32.
        begin: ``[1]`` int32, the first position.
        end: ``[1]`` int32, one past the last.
        fixed: whether attention reads all positions that a state has, rather than those up to ``end``.
    """

    positions: Var
    begin: Var
    end: Var
    fixed: bool


@dataclass(frozen=True)
class Slot:
    """Where a layer's rows are: in a state variable, at an index. ``ring``: row p is at p modulo its length."""

    state: Var
    index: int
    ring: bool

    @property
    def length(self) -> int:
        return int(self.state.shape[2])


class Update(Protocol):
    """One way to append to a state."""

    def append(self, slot: Slot, rows: Var, place: Place) -> Var:
        """Put ``rows [1, kv_heads, S, head_dim]`` into the slot; what attention reads of it."""


class SliceUpdate:
    """Writes the new rows alone, at an index known at run time."""

    def __init__(self) -> None:
        self._around = OnehotUpdate()

    def append(self, slot: Slot, rows: Var, place: Place) -> Var:
        if slot.ring and rows.shape[2] != 1:
            return self._around.append(slot, rows, place)
        _, heads, length, dim = slot.state.shape
        first, last = place.begin, place.end
        if slot.ring:
            first = mb.mod(x=first, y=np.int32(length))
            last = mb.add(x=first, y=np.int32(1))
        updated = mb.slice_update(
            x=mb.read_state(input=slot.state),
            update=rows,
            begin=_corner(slot.index, 0, first, 0),
            end=_corner(slot.index + 1, heads, last, dim),
        )
        written = mb.coreml_update_state(state=slot.state, value=updated)
        end = length if place.fixed else place.end
        begin = _corner(slot.index, 0, 0, 0)
        return mb.slice_by_index(x=written, begin=begin, end=_corner(slot.index + 1, heads, end, dim))


class OnehotUpdate:
    """Writes the whole layer, at constant indices."""

    def __init__(self) -> None:
        self._masks: dict[int, tuple[Var, Var | None]] = {}

    def append(self, slot: Slot, rows: Var, place: Place) -> Var:
        _, heads, length, dim = slot.state.shape
        content = mb.read_state(input=slot.state)
        begin, end = _corner(slot.index, 0, 0, 0), _corner(slot.index + 1, heads, length, dim)
        before = mb.slice_by_index(x=content, begin=begin, end=end)
        is_new, onehot = self._placement(place, slot)
        spread = rows if onehot is None else mb.matmul(x=onehot, y=rows)
        after = mb.select(cond=is_new, a=spread, b=before)
        mb.coreml_update_state(state=slot.state, value=mb.slice_update(x=content, update=after, begin=begin, end=end))
        return after

    def _placement(self, place: Place, slot: Slot) -> tuple[Var, Var | None]:
        """Which rows are new ``[1, 1, length, 1]``, and which row is whose ``[1, 1, length, S]``.

        One row needs no placing, it is broadcast. The product with a one-hot matrix is exact in any precision.
        """
        length = slot.length
        if length not in self._masks:
            columns = np.arange(length, dtype=np.int32).reshape(1, 1, length, 1)
            places = mb.mod(x=place.positions, y=np.int32(length)) if slot.ring else place.positions
            matches = mb.equal(x=columns, y=mb.reshape(x=places, shape=[1, 1, 1, -1]))
            if place.positions.shape[0] == 1:
                self._masks[length] = matches, None
            else:
                onehot = mb.cast(x=matches, dtype="fp16")
                occupied = mb.reduce_max(x=onehot, axes=[3], keep_dims=True)
                self._masks[length] = mb.cast(x=occupied, dtype="bool"), onehot
        return self._masks[length]


def _corner(*indices: int | Var) -> Any:
    """A corner of a slice: a constant if all indices are numbers, else computed."""
    if all(isinstance(index, int) for index in indices):
        return np.array(indices, np.int32)
    vectors = [np.array([index], np.int32) if isinstance(index, int) else index for index in indices]
    return mb.concat(values=vectors, axis=0)
