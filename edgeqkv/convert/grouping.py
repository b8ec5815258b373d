"""Which query heads should share: those whose keys and values have most in common."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product

__all__ = ["Groups", "grouped"]

Groups = tuple[tuple[int, ...], ...]

_SWEEPS = 3


def grouped(heads: int, groups: int, loss: Callable[[tuple[int, ...]], float]) -> Groups:
    """A partition of the heads into equal groups whose losses add up to little.

    Each group begins with the first head that is left and takes in the one that adds least; then heads of two groups
    change places as long as that helps. ``loss`` is of an ascending tuple of heads.
    """
    known: dict[tuple[int, ...], float] = {}

    def cost(members: list[int]) -> float:
        key = tuple(sorted(members))
        if key not in known:
            known[key] = loss(key)
        return known[key]

    size = heads // groups
    if size == 1 or groups == 1:
        return tuple(tuple(range(start, start + size)) for start in range(0, heads, size))
    left, found = list(range(heads)), list[list[int]]()
    while left:
        members = [left.pop(0)]
        while len(members) < size:
            nearest = min(left, key=lambda head: cost([*members, head]))
            members.append(nearest)
            left.remove(nearest)
        found.append(members)
    for _ in range(_SWEEPS):
        before = [list(members) for members in found]
        for (a, b), i, j in product(combinations(range(groups), 2), range(size), range(size)):
            one, other = list(found[a]), list(found[b])
            one[i], other[j] = other[j], one[i]
            if cost(one) + cost(other) < (cost(found[a]) + cost(found[b])) * (1 - 1e-9):
                found[a], found[b] = one, other
        if found == before:
            break
    return tuple(sorted(tuple(sorted(members)) for members in found))
