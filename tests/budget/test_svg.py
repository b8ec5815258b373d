"""The drawing of memory against context."""

from __future__ import annotations

import re

import pytest

from edgeqkv.budget.svg import Line, context_chart


@pytest.mark.parametrize("most", [500, 40_000, 3_000_000, 700_000_000, 9_000_000_000])
@pytest.mark.parametrize("limit", [1, 3, 20])
def test_what_an_axis_says_has_room_beside_it(most: int, limit: int) -> None:
    """Eight letters and no more, whether the axis is linear or each of its lines twice the one below."""
    line = Line("peak", "whole", ((1, max(1, most // 3)), (512, most)))
    told = re.findall(r'text-anchor="end">([^<]+)<', context_chart([line], [("default", most * limit)], "memory"))
    sizes = told[:-1]  # the last is the context
    assert len(sizes) > 2
    assert all(len(size) <= 8 for size in sizes), sizes
    assert len(set(sizes)) == len(sizes)
