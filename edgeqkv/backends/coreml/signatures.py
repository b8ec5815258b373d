"""What a function is told when it is called: how many tokens, where they stand, and what they may look at.

``PositionSignature`` takes a fixed number of tokens and the position of the first. The others are what
swift-transformers' runner passes: any number of tokens, and a mask. Its pull request 331 makes a real one
(``MaskSignature``); its releases up to 1.3.3 pass zeros, of which only the number means something (``CountSignature``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np

from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.names import CAUSAL_MASK
from edgeqkv.backends.coreml.states import Place

__all__ = ["CountSignature", "GraphSignature", "MaskSignature", "PositionSignature"]

_HIDDEN: Final = np.float16(-43680)
"""Added to the score of a position that is not visible.

Two thirds of fp16's range: up to `edgeqkv.backends.coreml.names.HIGHEST_SCORE`, the highest score with this added is
still too far below the lowest one to count (by 80; the exponential of -18 is 0 in fp16), and the lowest with this added
is a number of fp16. Minus infinity would hide any score, but what the Neural Engine makes of it is not known
(coremltools itself takes -3e4), and fp16's lowest number becomes that when a score below -16 is added. An export whose
scores are higher is refused (`edgeqkv.pipeline.ranges`)."""


class GraphSignature(Protocol):
    """What the operations have to know of a call.

    ``last_only`` says that the logits of the last token are wanted, and not those of all.
    """

    place: Place
    last_only: bool

    def stands(self, length: int) -> Var:
        """Where the rows stand that are read of a state of this length ``[n]`` int32, computed from what is given;
        0 for those that were not written yet."""

    def mask(self, group: int, length: int, window: int | None) -> Var:
        """What to add to the scores ``[1, 1, group · S, n]``, for ``group`` query heads a KV head.

        ``window`` is how many positions a token sees; None: all.
        """


class PositionSignature:
    """A fixed number of tokens and ``position [1]``. A state shorter than the context is a ring."""

    last_only = True

    def __init__(self, position: Var, tokens: int, context: int) -> None:
        offsets = np.arange(tokens, dtype=np.int32)
        positions = position if tokens == 1 else mb.add(x=position, y=offsets)
        end = mb.add(x=position, y=np.array([tokens], np.int32))
        self.place = Place(positions=positions, begin=position, end=end, fixed=True)
        self._context = context
        self._held: dict[int, Var] = {}
        self._masks = _CausalMasks(positions, self._columns)

    def stands(self, length: int) -> Var:
        return mb.maximum(x=self._in_ring(length), y=np.int32(0))

    def mask(self, group: int, length: int, window: int | None) -> Var:
        return self._masks.of(group, length, window)

    def _columns(self, length: int) -> Var:
        if length == self._context:
            return np.arange(length, dtype=np.int32)
        held = self._in_ring(length)
        written = mb.greater_equal(x=held, y=np.int32(0))
        return mb.select(cond=written, a=held, b=np.int32(self._context))

    def _in_ring(self, length: int) -> Var:
        """Where the row in each place of a ring stands: the last position that belongs there; negative before it."""
        if length not in self._held:
            last = mb.sub(x=self.place.end, y=np.array([1], np.int32))
            since = mb.sub(x=last, y=np.arange(-length, 0, dtype=np.int32))  # a turn is added: never negative
            self._held[length] = mb.sub(x=last, y=mb.mod(x=since, y=np.int32(length)))
        return self._held[length]


class MaskSignature:
    """``mask [1, 1, S, end]``, additive and causal, whose size says where the tokens stand."""

    last_only = False

    def __init__(self, mask: Var) -> None:
        sizes = mb.shape(x=mask)
        self.place = _ranged_place(_element(sizes, 2), _element(sizes, 3))
        self._given = mask
        self._masks: dict[tuple[int, int | None], Var] = {}

    def stands(self, length: int) -> Var:
        return mb.range_1d(start=np.int32(0), end=_scalar(self.place.end), step=np.int32(1))

    def mask(self, group: int, length: int, window: int | None) -> Var:
        if (group, window) not in self._masks:
            mask = self._given if group == 1 else mb.tile(x=self._given, reps=[1, 1, group, 1])
            if window is not None:
                own = _CausalMasks(self.place.positions, self.stands).of(group, length, window)
                mask = mb.minimum(x=mask, y=own)  # a sum might be beyond fp16's range
            self._masks[group, window] = mask
        return self._masks[group, window]


class CountSignature:
    """``tokens [1, S]``, and ``zeros [1, 1, 1, end + 1]``, which say where they stand and nothing else."""

    last_only = False

    def __init__(self, tokens: Var, zeros: Var) -> None:
        end = mb.sub(x=_element(mb.shape(x=zeros), 3), y=np.array([1], np.int32))
        self.place = _ranged_place(_element(mb.shape(x=tokens), 1), end)
        self._stands = mb.range_1d(start=np.int32(0), end=_scalar(end), step=np.int32(1))
        self._masks = _CausalMasks(self.place.positions, self.stands)

    def stands(self, length: int) -> Var:
        return self._stands

    def mask(self, group: int, length: int, window: int | None) -> Var:
        return self._masks.of(group, length, window)


class _CausalMasks:
    """Hides the ``columns`` of a state of some length that come after a row's position, or a window or more before it;
    one mask for all layers that are alike."""

    def __init__(self, positions: Var, columns: Callable[[int], Var]) -> None:
        self._positions = positions
        self._columns = columns
        self._masks: dict[tuple[int, int, int | None], Var] = {}

    def of(self, group: int, length: int, window: int | None) -> Var:
        key = (group, length, window)
        if key not in self._masks:
            positions = self._positions if group == 1 else mb.tile(x=self._positions, reps=[group])
            rows = mb.reshape(x=positions, shape=[1, 1, -1, 1])
            columns = mb.reshape(x=self._columns(length), shape=[1, 1, 1, -1])
            hidden = mb.greater(x=columns, y=rows)
            if window is not None:
                seen_no_more = mb.less_equal(x=columns, y=mb.sub(x=rows, y=np.int32(window)))
                hidden = mb.logical_or(x=hidden, y=seen_no_more)
            name = CAUSAL_MASK + (f"_{group}" if group > 1 else "") + (f"_window_{window}" if window else "")
            self._masks[key] = mb.mul(x=mb.cast(x=hidden, dtype="fp16"), y=_HIDDEN, name=name)
        return self._masks[key]


def _ranged_place(count: Var, end: Var) -> Place:
    """The last ``count`` of the ``end`` positions that there are; attention reads no more of the state."""
    begin = mb.sub(x=end, y=count)
    positions = mb.range_1d(start=_scalar(begin), end=_scalar(end), step=np.int32(1))
    return Place(positions=positions, begin=begin, end=end, fixed=False)


def _element(vector: Var, index: int) -> Var:
    return mb.slice_by_index(x=vector, begin=[index], end=[index + 1])


def _scalar(vector: Var) -> Var:
    return mb.squeeze(x=vector, axes=[0])
