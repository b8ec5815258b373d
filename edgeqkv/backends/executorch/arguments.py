"""Arguments of a graph's operators: tuples, lists and dictionaries of nodes and plain values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.fx import Node

__all__ = ["same_arguments"]


def same_arguments(one: Any, other: Any, same: Callable[[Node, Any], bool]) -> bool:
    """Whether arguments are the same: plain values by type and value, what a node is to match as ``same`` says."""
    if isinstance(one, Node):
        return same(one, other)
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(map(lambda a, b: same_arguments(a, b, same), one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same_arguments(one[key], other[key], same) for key in one)
    return type(one) is type(other) and bool(one == other)
