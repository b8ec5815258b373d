"""The report's drawings as inline SVG. Colours come from the page's style sheet, so that they follow its theme.

Every drawing has a title and a description for those who cannot see it; the page has the numbers as text besides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, floor, log2

from markupsafe import Markup, escape

from edgeqkv.budget.npu import GB
from edgeqkv.budget.report import amount

__all__ = ["PARTS", "Bar", "Line", "context_chart", "stacked_bars"]

PARTS = ("weights", "state", "activations", "logits", "tokenizer", "runtime")
"""The parts of a bar, in the order in which they are stacked."""

_WIDTH = 640
_ROW = 62
_LETTER = 13.0  # a bold letter's width at the size that small screens get: room for the totals behind the bars


@dataclass(frozen=True)
class Bar:
    """One stacked bar: a name, a remark, bytes by part, and a limit that is drawn where it is within the axis."""

    name: str
    remark: str
    parts: dict[str, int]
    total: str
    limit: int | None = None
    limit_label: str = ""


@dataclass(frozen=True)
class Line:
    """One curve of memory against context: ``style`` is a class of the style sheet."""

    name: str
    style: str
    points: tuple[tuple[int, int], ...]


def stacked_bars(bars: Sequence[Bar], title: str) -> Markup:
    """Horizontal stacked bars on one axis of bytes."""
    longest, room = max(sum(bar.parts.values()) for bar in bars), max(len(bar.total) for bar in bars) * _LETTER
    scale = (_WIDTH - room) / longest
    pieces = [_bar(bar, index * _ROW, scale) for index, bar in enumerate(bars)]
    told = "; ".join(f"{bar.name}: {bar.total}" for bar in bars)
    return _figure(len(bars) * _ROW, title, told, pieces)


def _bar(bar: Bar, top: int, scale: float) -> str:
    x, pieces = 0.0, [_text(0, top + 16, bar.name, "name"), _text(_WIDTH, top + 16, bar.remark, "remark", "end")]
    for part in PARTS:
        width = bar.parts.get(part, 0) * scale
        if width > 0:
            told = f"{part}: {amount(bar.parts[part])}"
            pieces.append(
                f'<rect class="part {part}" x="{x:.1f}" y="{top + 24}" width="{max(width, 0.5):.1f}" height="20">'
                f"<title>{escape(told)}</title></rect>"
            )
            x += width
    pieces.append(_text(x + 6, top + 39, bar.total, "total"))
    if bar.limit is not None and (at := bar.limit * scale) < _WIDTH:
        pieces.append(f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="{top + 20}" y2="{top + 48}"/>')
        pieces.append(_text(at, top + 58, bar.limit_label, "remark", "middle"))
    return "".join(pieces)


def context_chart(lines: Sequence[Line], limits: Sequence[tuple[str, int]], title: str) -> Markup:
    """Memory against context, memory on a logarithmic axis on which each line of the grid is twice the one below."""
    left, right, top, bottom, height = 84, _WIDTH - 8, 14, 252, 300
    values = [peak for line in lines for _, peak in line.points] + [size for _, size in limits]
    low, high = floor(log2(min(values) / GB)), ceil(log2(max(values) / GB) + 0.05)
    most = max(context for line in lines for context, _ in line.points)

    def x(context: float) -> float:
        return left + (right - left) * context / most

    def y(size: float) -> float:
        return bottom - (bottom - top) * (log2(size / GB) - low) / max(high - low, 1)

    pieces = []
    for power in range(low, high + 1):
        at = y(2.0**power * GB)
        pieces.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.1f}" y2="{at:.1f}"/>')
        pieces.append(_text(left - 8, at + 4, f"{2.0**power:g} GB", "tick", "end"))
    for quarter in range(5):
        context = round(most * quarter / 4)
        pieces.append(_text(x(context), bottom + 20, f"{context}", "tick", "end" if quarter == 4 else "middle"))
    pieces.append(_text((left + right) / 2, height - 8, "context (tokens)", "tick", "middle"))
    for name, size in limits:
        pieces.append(f'<line class="limit" x1="{left}" x2="{right}" y1="{y(size):.1f}" y2="{y(size):.1f}"/>')
        pieces.append(_text(left + 8, y(size) - 6, f"{name}: {amount(size)}", "limit-name"))
    for line in lines:
        path = " ".join(f"{x(context):.1f},{y(peak):.1f}" for context, peak in line.points)
        pieces.append(f'<polyline class="curve {line.style}" points="{path}"/>')
    pieces += _curve_names(lines, right, y)
    ends = "; ".join(f"{line.name}: {amount(line.points[0][1])} to {amount(line.points[-1][1])}" for line in lines)
    told = "; ".join([ends, *(f"{name}: {amount(size)}" for name, size in limits)])
    return _figure(height, title, told, pieces)


def _curve_names(lines: Sequence[Line], right: float, y: object) -> list[str]:
    """The curves' names at their right ends, above the upper and below the lower ones so that they do not touch."""
    assert callable(y)
    names = []
    for index, line in enumerate(sorted(lines, key=lambda line: -line.points[-1][1])):
        shift = -8 if index == 0 else 18
        names.append(_text(right - 4, y(line.points[-1][1]) + shift, line.name, f"curve-name {line.style}", "end"))
    return names


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _figure(height: int, title: str, description: str, pieces: Sequence[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" xmlns="http://www.w3.org/2000/svg">'
        f"<title>{escape(title)}</title><desc>{escape(description)}</desc>{''.join(pieces)}</svg>"
    )
