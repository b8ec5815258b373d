"""How a long job says where it is, without knowing who listens."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Fraction", "Progress", "silent", "within"]

Progress = Callable[[str, "float | None"], None]
"""Called with what is being done and, where it is known, the part of it that is done (0 to 1)."""

Fraction = Callable[[float], None]
"""Called with the part of one stage that is done, by what does not know what the stage is called."""


def silent(stage: str, fraction: float | None = None) -> None:
    """Report to nobody."""


def within(on_progress: Progress, stage: str) -> Fraction:
    """A listener to the parts of one stage."""

    def report(fraction: float) -> None:
        on_progress(stage, fraction)

    return report
