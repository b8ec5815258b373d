"""The report's drawing of memory against context as inline SVG. Colours come from the page's style sheet, so that they
follow its theme; what lines mean stands in a legend beside it, so that no words lie in the picture but its axes'.

It has a title and a description for those who cannot see it; the page has the numbers as text besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2, log10
from typing import Final

from markupsafe import Markup, escape

from edgeqkv.budget.speed import GB
from edgeqkv.units import amount

__all__ = ["Axis", "Line", "axis_of", "context_chart"]

_WIDTH: Final = 480
_HEIGHT: Final = 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, _WIDTH - 10, 10, 184

_NEAR: Final = 4
"""A limit is near the curves, so that all can be read off a linear axis, up to so many times their highest point."""


@dataclass(frozen=True)
class Line:
    """One curve of memory against context: ``style`` is a class of the style sheet."""

    name: str
    style: str
    points: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Axis:
    """An axis of bytes: linear from zero, or logarithmic, with the sizes at which the grid has its lines."""

    linear: bool
    low: float
    high: float
    ticks: tuple[float, ...]

    def share(self, size: float) -> float:
        """Where a size is, from 0 (the lowest) to 1."""
        if self.linear:
            return size / self.high
        return (log2(size) - log2(self.low)) / (log2(self.high) - log2(self.low))


def axis_of(lines: Sequence[Line], limits: Sequence[int]) -> Axis:
    """Linear where every limit is near the curves, else logarithmic: each line of the grid is twice the one below."""
    peaks = [peak for line in lines for _, peak in line.points]
    top = max([*peaks, *limits])
    if top <= _NEAR * max(peaks):
        step = 10.0 ** floor(log10(top / 2))
        step *= next(factor for factor in (1, 2, 2.5, 5, 10) if top / (step * factor) <= 4.6)
        count = ceil(top * 1.02 / step)
        return Axis(True, 0.0, count * step, tuple(step * i for i in range(count + 1)))
    low, high = floor(log2(min(peaks) / GB)), ceil(log2(top / GB) + 0.05)
    every = ceil((high - low) / 6)
    return Axis(False, 2.0**low * GB, 2.0**high * GB, tuple(2.0**n * GB for n in range(low, high + 1, every)))


def context_chart(lines: Sequence[Line], limits: Sequence[tuple[str, int]], title: str) -> Markup:
    """Memory against context; a dashed line for each limit."""
    axis = axis_of(lines, [size for _, size in limits])
    most = max(context for line in lines for context, _ in line.points)

    def x(context: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * context / most

    def y(size: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * axis.share(size)

    pieces = []
    for size in axis.ticks:
        pieces.append(f'<line class="grid" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(size):.1f}" y2="{y(size):.1f}"/>')
        pieces.append(_text(_LEFT - 8, y(size) + 4, _tick(size), "end"))
    for part, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        pieces.append(_text(x(most * part), _BOTTOM + 20, f"{round(most * part):,}", anchor))
    pieces.append(_text((_LEFT + _RIGHT) / 2, _HEIGHT - 6, "tokens of context", "middle"))
    pieces += [
        f'<line class="limit" x1="{_LEFT}" x2="{_RIGHT}" y1="{y(size):.1f}" y2="{y(size):.1f}"/>' for _, size in limits
    ]
    for line in lines:
        path = " ".join(f"{x(context):.1f},{y(peak):.1f}" for context, peak in line.points)
        pieces.append(f'<polyline class="curve {line.style}" points="{path}"/>')
    ends = "; ".join(f"{line.name}: {amount(line.points[0][1])} to {amount(line.points[-1][1])}" for line in lines)
    told = "; ".join([ends, *(f"{name}: {amount(size)}" for name, size in limits)])
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(told)}</desc>{''.join(pieces)}</svg>"
    )


def _tick(size: float) -> str:
    """A size at the axis, in three digits, for which there is room, and without zeros that say nothing."""
    for unit, one in (("GB", GB), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.3g} {unit}"
    return f"{size:.3g} B" if size else "0"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
