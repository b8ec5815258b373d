"""How a long job says where it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress", "silent"]

Progress = Callable[[str, "float | None"], None]
"""Called with what is being done and, where it is known, the part of it that is done (0 to 1)."""


def silent(stage: str, fraction: float | None = None) -> None:
    """Report to nobody."""
