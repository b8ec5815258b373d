"""What the NPU has no instruction for, of instructions that it has: softmax and layer normalization in whole numbers.

Both divide by a number of which nothing is known but that it is positive. It is brought to a fixed size by shifting it
as far as its leading zeros allow, so that a table of 513 entries gives its reciprocal, or that of its root, to 15 bits
whatever it was; the result is shifted back.
"""

from __future__ import annotations

from dataclasses import replace
from math import ceil, log2, sqrt
from typing import Final

import numpy as np
import numpy.typing as npt
import tosa_serializer as tosa

from edgeqkv.backends.ethos.graph import Encoding, TosaGraph, Value, symmetric

__all__ = ["HIDDEN", "NAN", "added", "normalized", "score_scale", "softmax"]

NAN: Final = tosa.NanPropagationMode.PROPAGATE  # TOSA asks for it of integers too
HIDDEN: Final = -(2**28)
"""The code that is added to a score that is not to be seen."""

_REACH: Final = 12.0
"""What lies so far below the largest score counts nothing: e⁻¹² is less than half a step of 16 bits up to 1."""

_FULL: Final = symmetric(-32767.0, 32767.0)  # codes that stand for themselves
_EXP_BITS: Final = 22  # of what the table of powers gives, up to 1


def score_scale(low: float, high: float) -> float:
    """The scale in which scores are summed up in 32 bits: beside any of them, `HIDDEN` takes 16 times as much."""
    return max(-low, high, _REACH) / 2**24


def added(graph: TosaGraph, x: Value, y: Value, encoding: Encoding) -> Value:
    """The sum of two values, rounded once."""
    scale = max(x.scale, y.scale) * 2.0**-12
    return graph.rescaled(graph.whole_op("ADD", graph.wide(x, scale), graph.wide(y, scale)), encoding)


def softmax(graph: TosaGraph, scores: Value) -> Value:
    """Of the last dimension, of scores in 32 bits (`score_scale`); in 16 bits."""
    rank, width = len(scores.shape), scores.shape[-1]
    half = graph.number(round(_REACH / 2 / scores.scale), rank)
    top = graph.whole_op("SUB", graph.reduced("REDUCE_MAX", scores, NAN), half)
    # From -_REACH to 0, as the codes from the least to the largest; what is below is cut off.
    inside = graph.rescaled(graph.whole_op("SUB", scores, top), symmetric(-_REACH / 2, _REACH / 2))
    powers = graph.table(inside, lambda codes: _powers(codes * inside.scale - _REACH / 2))
    # In 32 bits as many of them as there are can be added.
    room = 30 - ceil(log2(width))
    counted = powers if room >= _EXP_BITS else graph.wide(powers, powers.scale * 2.0 ** (_EXP_BITS - room))
    total = graph.reduced("REDUCE_SUM", counted)
    zeros = graph.leading_zeros(total)
    shifted = graph.whole_op("LOGICAL_LEFT_SHIFT", total, graph.whole_op("SUB", zeros, graph.number(1, rank)))
    # From 2³⁰ to 2³¹ now, of which the table has the reciprocals, 2¹⁵ to 2¹⁴.
    middle = 3 << 29
    place = replace(graph.whole_op("SUB", shifted, graph.number(middle, rank)), scale=2.0**-14)
    found = graph.table(graph.rescaled(place, _FULL), lambda codes: 2.0**45 / (codes * 2**14 + middle))
    share = graph.whole_op("MUL", graph.rescaled(powers, _FULL), graph.rescaled(found, _FULL))
    # The largest power alone is 2²² (its table's 32767 are a little less), and has the most leading zeros.
    most = 32 - min(room, _EXP_BITS)
    back = graph.whole_op("SUB", graph.number(most, rank), zeros)
    parts = graph.whole_op("ARITHMETIC_RIGHT_SHIFT", share, back, None, True)
    # share = power/total · 2^(45 + log2(total's scale) + 1 - zeros), and `most` of it instead of `zeros` are left.
    scale = 2.0 ** (most - 46) / counted.scale
    return graph.rescaled(replace(parts, scale=scale), symmetric(0.0, 1.0))


def _powers(x: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    found: npt.NDArray[np.float64] = np.where(x <= -_REACH, 0.0, np.exp(x) * 32767)
    return found


def normalized(graph: TosaGraph, x: Value, reach: float, eps: float, encoding: Encoding) -> Value:
    """``(x - mean) / √(variance + eps)`` of every row of ``[n, channels]``.

    ``reach`` is how far numbers are from their mean.
    """
    rows, channels = x.shape
    bits = ceil(log2(channels))
    fine = graph.wide(x, x.scale * 2.0 ** (bits - 15))
    total = graph.reduced("REDUCE_SUM", fine)
    mean = replace(graph.wide(replace(total, scale=total.scale / channels), total.scale), scale=total.scale)
    # No finer than that eps, in the codes of squares, has 30 bits.
    reach = max(reach, sqrt(eps))
    centred = graph.rescaled(graph.whole_op("SUB", fine, mean), symmetric(-reach, reach))
    # As a product of each row with itself, which is summed up in 48 bits: squares of small numbers count too.
    exact = graph.matmul(graph.reshape(centred, rows, 1, channels), graph.reshape(centred, rows, channels, 1))
    summed = graph.reshape(graph.wide(exact, exact.scale * 2**bits), rows, 1)
    least = max(1, round(eps * channels / summed.scale))
    variance = graph.whole_op("ADD", summed, graph.number(least, 2))
    one = graph.number(1, 2)
    zeros = graph.whole_op("SUB", graph.leading_zeros(variance), one)
    even = graph.whole_op("BITWISE_AND", zeros, graph.number(-2, 2))
    shifted = graph.whole_op("LOGICAL_LEFT_SHIFT", variance, even)
    # From 2²⁹ to 2³¹ now, of which the table has the reciprocals of the roots, 2¹⁵ to 2¹⁴.
    middle, step = 5 << 28, 1.5 * 2**14
    place = replace(graph.whole_op("SUB", shifted, graph.number(middle, 2)), scale=1 / step)
    found = graph.table(graph.rescaled(place, _FULL), lambda codes: 2**29.5 / np.sqrt(codes * step + middle))
    result = graph.whole_op("MUL", centred, graph.rescaled(found, _FULL))
    half = graph.whole_op("ARITHMETIC_RIGHT_SHIFT", even, one, None, False)
    back = graph.whole_op("SUB", graph.number(15, 2), half)
    parts = graph.whole_op("ARITHMETIC_RIGHT_SHIFT", result, back, None, True)
    # centred/√variance · 2^14.5 in codes, the variance's being those of a sum.
    scale = sqrt(channels) * centred.scale / sqrt(summed.scale) * 2**-14.5
    return graph.rescaled(replace(parts, scale=scale), encoding)
