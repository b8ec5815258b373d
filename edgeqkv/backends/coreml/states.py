"""How new rows get into a state tensor ``[layers, kv_heads, context, head_dim]``, which holds all layers.

``SliceUpdate`` writes the rows at the position, the natural thing to do on the GPU and the CPU.
``OnehotUpdate`` writes a whole layer of the state, in which every position is either the new row that belongs
there or what it was: the operations have constant indices only, as the Neural Engine wants it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from edgeqkv.backends.coreml.mil import Var, mb

__all__ = ["OnehotUpdate", "Place", "SliceUpdate", "Update"]


@dataclass(frozen=True)
class Place:
    """Where a call's tokens stand.

    Attributes:
        positions: ``[S]`` int32.
        begin: ``[1]`` int32, the first position.
        end: ``[1]`` int32, one past the last.
        window: positions that attention reads: all that the state has, or ``end`` where that is None.
    """

    positions: Var
    begin: Var
    end: Var
    window: int | None


class Update(Protocol):
    """One way to append to a state."""

    def append(self, state: Var, layer: int, rows: Var, place: Place) -> Var:
        """Put ``rows [1, kv_heads, S, head_dim]`` into the layer; what attention reads of it."""


class SliceUpdate:
    """Writes the new rows alone, at an index known at run time."""

    def append(self, state: Var, layer: int, rows: Var, place: Place) -> Var:
        _, heads, _, dim = state.shape
        updated = mb.slice_update(
            x=mb.read_state(input=state),
            update=rows,
            begin=_corner(layer, 0, place.begin, 0),
            end=_corner(layer + 1, heads, place.end, dim),
        )
        written = mb.coreml_update_state(state=state, value=updated)
        end = place.end if place.window is None else place.window
        return mb.slice_by_index(x=written, begin=_corner(layer, 0, 0, 0), end=_corner(layer + 1, heads, end, dim))


class OnehotUpdate:
    """Writes the whole layer, at constant indices."""

    def __init__(self) -> None:
        self._masks: tuple[Var, Var | None] | None = None

    def append(self, state: Var, layer: int, rows: Var, place: Place) -> Var:
        _, heads, context, dim = state.shape
        content = mb.read_state(input=state)
        begin, end = _corner(layer, 0, 0, 0), _corner(layer + 1, heads, context, dim)
        before = mb.slice_by_index(x=content, begin=begin, end=end)
        is_new, onehot = self._placement(place, context)
        spread = rows if onehot is None else mb.matmul(x=onehot, y=rows)
        after = mb.select(cond=is_new, a=spread, b=before)
        mb.coreml_update_state(state=state, value=mb.slice_update(x=content, update=after, begin=begin, end=end))
        return after

    def _placement(self, place: Place, context: int) -> tuple[Var, Var | None]:
        """Which positions are new ``[1, 1, context, 1]``, and which row is whose ``[1, 1, context, S]``.

        One row needs no placing, it is broadcast. The product with a one-hot matrix is exact in any precision.
        """
        if self._masks is None:
            columns = np.arange(context, dtype=np.int32).reshape(1, 1, context, 1)
            matches = mb.equal(x=columns, y=mb.reshape(x=place.positions, shape=[1, 1, 1, -1]))
            if place.positions.shape[0] == 1:
                self._masks = matches, None
            else:
                onehot = mb.cast(x=matches, dtype="fp16")
                occupied = mb.reduce_max(x=onehot, axes=[3], keep_dims=True)
                self._masks = mb.cast(x=occupied, dtype="bool"), onehot
        return self._masks


def _corner(*indices: int | Var) -> Any:
    """A corner of a slice: a constant if all indices are numbers, else computed."""
    if all(isinstance(index, int) for index in indices):
        return np.array(indices, np.int32)
    vectors = [np.array([index], np.int32) if isinstance(index, int) else index for index in indices]
    return mb.concat(values=vectors, axis=0)
