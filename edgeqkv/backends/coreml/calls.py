"""What a function is told when it is called: how many tokens, where they stand, and what they may look at.

``PositionCall`` takes a fixed number of tokens and the position of the first. The others are what
swift-transformers' runner passes: any number of tokens, and a mask. Its pull request 331 makes a real one
(``MaskCall``); its releases up to 1.3.3 pass zeros, of which only the number means something (``CountCall``).
"""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from edgeqkv.backends.coreml.mil import Var, mb
from edgeqkv.backends.coreml.names import CAUSAL_MASK
from edgeqkv.backends.coreml.states import Place

__all__ = ["HIGHEST_SCORE", "Call", "CountCall", "MaskCall", "PositionCall"]

HIGHEST_SCORE: Final = 21800.0
"""The magnitude up to which scores can be masked in fp16."""

_HIDDEN: Final = np.float16(-43680)
"""Added to the score of a position that is not visible.

Two thirds of fp16's range: up to `HIGHEST_SCORE`, the highest score with this added is still too far below the lowest
one to count (by 80; the exponential of -18 is 0 in fp16), and the lowest with this added is a number of fp16.
Minus infinity would hide any score, but what the Neural Engine makes of it is not known (coremltools itself takes
-3e4), and fp16's lowest number becomes that when a score below -16 is added. An export whose scores are higher is
refused (`edgeqkv.pipeline.ranges`)."""


class Call(Protocol):
    """What the operations have to know of a call.

    ``last_only`` says that the logits of the last token are wanted, and not those of all.
    """

    place: Place
    last_only: bool

    def mask(self, group: int) -> Var:
        """What to add to the scores ``[1, 1, group · S, window]``, for ``group`` query heads a KV head."""


class PositionCall:
    """A fixed number of tokens and ``position [1]``."""

    last_only = True

    def __init__(self, position: Var, tokens: int, context: int) -> None:
        offsets = np.arange(tokens, dtype=np.int32)
        positions = position if tokens == 1 else mb.add(x=position, y=offsets)
        end = mb.add(x=position, y=np.array([tokens], np.int32))
        self.place = Place(positions=positions, begin=position, end=end, window=context)
        self._causal = _CausalMask(positions, np.arange(context, dtype=np.int32))

    def mask(self, group: int) -> Var:
        return self._causal.for_group(group)


class MaskCall:
    """``mask [1, 1, S, end]``, additive and causal, whose size says where the tokens stand."""

    last_only = False

    def __init__(self, mask: Var) -> None:
        sizes = mb.shape(x=mask)
        self.place = _ranged_place(_element(sizes, 2), _element(sizes, 3))
        self._masks = {1: mask}

    def mask(self, group: int) -> Var:
        if group not in self._masks:
            self._masks[group] = mb.tile(x=self._masks[1], reps=[1, 1, group, 1])
        return self._masks[group]


class CountCall:
    """``tokens [1, S]``, and ``zeros [1, 1, 1, end + 1]``, which say where they stand and nothing else."""

    last_only = False

    def __init__(self, tokens: Var, zeros: Var) -> None:
        end = mb.sub(x=_element(mb.shape(x=zeros), 3), y=np.array([1], np.int32))
        self.place = _ranged_place(_element(mb.shape(x=tokens), 1), end)
        columns = mb.range_1d(start=np.int32(0), end=_scalar(end), step=np.int32(1))
        self._causal = _CausalMask(self.place.positions, columns)

    def mask(self, group: int) -> Var:
        return self._causal.for_group(group)


class _CausalMask:
    """Hides the ``columns`` that come after a row's position; one mask for all layers with equal groups."""

    def __init__(self, positions: Var, columns: Var) -> None:
        self._positions = positions
        self._columns = mb.reshape(x=columns, shape=[1, 1, 1, -1])
        self._masks: dict[int, Var] = {}

    def for_group(self, group: int) -> Var:
        if group not in self._masks:
            rows = self._positions if group == 1 else mb.tile(x=self._positions, reps=[group])
            later = mb.greater(x=self._columns, y=mb.reshape(x=rows, shape=[1, 1, -1, 1]))
            name = CAUSAL_MASK if group == 1 else f"{CAUSAL_MASK}_{group}"
            self._masks[group] = mb.mul(x=mb.cast(x=later, dtype="fp16"), y=_HIDDEN, name=name)
        return self._masks[group]


def _ranged_place(count: Var, end: Var) -> Place:
    """The last ``count`` of the ``end`` positions that there are; attention reads no more of the state."""
    begin = mb.sub(x=end, y=count)
    positions = mb.range_1d(start=_scalar(begin), end=_scalar(end), step=np.int32(1))
    return Place(positions=positions, begin=begin, end=end, window=None)


def _element(vector: Var, index: int) -> Var:
    return mb.slice_by_index(x=vector, begin=[index], end=[index + 1])


def _scalar(vector: Var) -> Var:
    return mb.squeeze(x=vector, axes=[0])
