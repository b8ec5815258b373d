"""What a footprint and a limit say together, and how far that is to be believed."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from edgeqkv.budget.devices import Status

__all__ = ["ROOM", "Confidence", "NpuVerdict", "Verdict", "confidence_of", "verdict_of"]

ROOM: Final = 0.85
"""The part of a limit up to which something "fits": a tenth of it is for the prediction's error, the rest for the app's
own objects."""


class Verdict(StrEnum):
    """How a footprint and a limit compare."""

    FITS = "fits"
    TIGHT = "tight"
    NOT = "does not fit"
    UNKNOWN = "unknown"


class NpuVerdict(StrEnum):
    """Whether an export meets what an NPU demands: all that is known of it, or not; open where too little is known.

    ``runs`` is of what the NPU's own compiler took whole besides, and the maker's simulation of it ran.
    """

    RUNS = "runs"
    MEETS = "demands met"
    FAILS = "cannot run"
    OPEN = "not known"


class Confidence(StrEnum):
    """How what a verdict rests on is known; of several facts, how the one is that is known worst."""

    DOCUMENTED = "documented"
    REPORTED = "reported"
    ASSUMED = "assumed"


_CONFIDENCES: Final[dict[Status, Confidence]] = {
    "vendor-documented": Confidence.DOCUMENTED,
    "community-measured": Confidence.REPORTED,
    "unknown": Confidence.ASSUMED,
}


def confidence_of(statuses: Iterable[Status], *, assumes: bool = False) -> Confidence:
    """The confidence of what rests on facts of these statuses; ``assumes``: and on an assumption besides."""
    known = [Confidence.ASSUMED] if assumes else [Confidence.DOCUMENTED]
    return max((*known, *(_CONFIDENCES[status] for status in statuses)), key=list(Confidence).index)


def verdict_of(peak: int, limit: int | None) -> Verdict:
    """Compare a peak with a limit, both in bytes."""
    if limit is None:
        return Verdict.UNKNOWN
    if peak > limit:
        return Verdict.NOT
    return Verdict.FITS if peak <= ROOM * limit else Verdict.TIGHT
