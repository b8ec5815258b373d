"""How large the numbers between operations become, as a target needs to know that stores them in few bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["ActivationRanges", "Sites"]


class Sites:
    """Names for the results of a model's operations.

    All interpreters of a model see the same operations in the same order (`edgeqkv.model.ops`), so that "the third,
    which is a linear layer" names the same result in each of them. A new one counts from the start.
    """

    def __init__(self) -> None:
        self._count = 0

    def next(self, word: str) -> str:
        """The name of the next operation's result."""
        self._count += 1
        return f"{self._count - 1:04d}.{word}"


@dataclass(frozen=True, eq=False)
class ActivationRanges:
    """The least and the largest number that was seen of each result.

    Attributes:
        of: a site (`Sites`), or one and what lies inside the operation (``0007.attention.scores``) → least, largest.
    """

    of: Mapping[str, tuple[float, float]]

    def widest(self, ending: str) -> float:
        """The largest distance between the ends of all ranges whose names end so; 0 without any."""
        return max((high - low for site, (low, high) in self.of.items() if site.endswith(ending)), default=0.0)
